"""Who may do what: every address of the composed service, for every kind of token.

One table (reliability.md §4.1), driven against the service as ``demeanor up`` composes it. It fails
when the service has an address that the table does not know.
"""

import asyncio
import json
import re
from contextlib import asynccontextmanager

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pipeline.scorer import OrtScorer
from services import app as composed
from services.ending import Ending
from services.gateway import pages
from services.ingest.admission import Admission
from services.settings import Settings
from tests.services.identity.tokens import Issuer
from tests.services.ingest.support import SDP_TYPE, Publisher, Tone

STREAMS = "ingest:cam ingest:gone ingest:fresh"
BAD = ("none", "garbage", "expired", "revoked")
GOOD = ("publisher", "reader", "stranger", "rival", "admin")
"""``stranger``: scopes for another stream; ``rival``: all scopes, in another tenant."""
COLUMNS = (*BAD, *GOOD)
CLAIMS = {
    "expired": {"exp": 1_000_000_000, "scope": f"{STREAMS} read:* admin"},
    "revoked": {"jti": "leaked", "scope": f"{STREAMS} read:* admin"},
    "publisher": {"scope": STREAMS},
    "reader": {"scope": "read:cam read:gone"},
    "stranger": {"scope": "ingest:else read:else alerts:ack explain"},
    "rival": {"scope": f"{STREAMS} read:* alerts:ack explain admin", "tenant": "rival"},
    "admin": {"scope": "admin"},
}


def tokens(publisher, reader, stranger, rival, admin):
    """A row that needs a valid token: 401 without one."""
    return dict.fromkeys(BAD, 401) | dict(
        zip(GOOD, (publisher, reader, stranger, rival, admin), strict=True)
    )


def everybody(status=200):
    """A row that asks for no token and looks at none."""
    return dict.fromkeys(COLUMNS, status)


FRAGMENT = {
    "data": "a=end-of-candidates\r\n",
    "headers": {"Content-Type": "application/trickle-ice-sdpfrag"},
}
OFFER = {"headers": SDP_TYPE}
JSON = "application/json"
ONE = "/v1/sessions/{session_id}"

# (method, address as the router knows it) → what to ask, and the status by column
TABLE = {
    ("POST", "/whip/{stream}"): (
        "/whip/fresh",
        OFFER,
        tokens(201, 403, 403, 201, 403),  # a rival's stream of that name is another stream
    ),
    ("GET", "/whip/{stream}"): ("/whip/cam", {}, everybody(204)),
    ("OPTIONS", "/whip/{stream}"): ("/whip/cam", {}, everybody(204)),
    ("PATCH", "/whip/{stream}/{resource}"): (
        "{resource}",
        FRAGMENT,
        tokens(204, 404, 404, 404, 404),
    ),
    ("GET", "/whip/{stream}/{resource}"): ("{resource}", {}, everybody(204)),
    ("OPTIONS", "/whip/{stream}/{resource}"): ("{resource}", {}, everybody(204)),
    ("GET", "/v1/sessions"): ("/v1/sessions", {}, tokens(403, 200, 200, 200, 200)),
    ("GET", ONE): ("/v1/sessions/{id}", {}, tokens(403, 200, 404, 404, 200)),
    ("GET", f"{ONE}/state"): ("/v1/sessions/{id}/state", {}, tokens(403, 200, 404, 404, 200)),
    ("GET", f"{ONE}/timeline"): (
        "/v1/sessions/{id}/timeline",
        {},
        tokens(403, 200, 404, 404, 200),
    ),
    ("GET", f"{ONE}/events"): ("/v1/sessions/{id}/events", {}, tokens(403, 200, 404, 404, 200)),
    ("GET", "/v1/events"): ("/v1/events", {}, tokens(403, 200, 200, 200, 200)),
    ("PUT", f"{ONE}/consent"): (
        "/v1/sessions/{id}/consent",
        {"json": {"state": "granted", "notice_version": "{notice}"}},
        tokens(200, 403, 403, 404, 200),
    ),
    ("POST", f"{ONE}/explain"): (
        "/v1/sessions/{id}/explain",
        {},
        tokens(403, 403, 404, 404, 403),  # the scope explain, and the right to read
    ),
    ("GET", "/v1/scoring"): ("/v1/scoring", {}, tokens(200, 200, 200, 200, 200)),
    ("PUT", "/v1/scoring"): (
        "/v1/scoring",
        {"json": {"scoring": "on"}},
        tokens(403, 403, 403, 200, 200),  # a rival switches its own tenant
    ),
    ("POST", "/v1/tickets"): (
        "/v1/tickets",
        {"json": {"session": "{id}"}},
        tokens(403, 201, 404, 404, 201),
    ),
    ("POST", "/v1/revocations"): (
        "/v1/revocations",
        {"json": {"jti": "nobody", "expires_ms": "{soon}"}},
        tokens(403, 403, 403, 204, 204),  # a rival revokes in its own tenant
    ),
    ("GET", "/v1/policy"): ("/v1/policy", {}, tokens(200, 200, 200, 200, 200)),
    ("GET", "/v1/models"): ("/v1/models", {}, tokens(200, 200, 200, 200, 200)),
    ("GET", "/metrics"): (
        "/metrics",
        {},
        tokens(403, 403, 403, 200, 200) | {"none": 200},  # bound to loopback here
    ),
    ("GET", "/v1/config"): ("/v1/config", {}, everybody()),
    ("GET", "/version"): ("/version", {}, everybody()),
    ("GET", "/livez"): ("/livez", {}, everybody()),
    ("GET", "/readyz"): ("/readyz", {}, everybody()),
    ("GET", "/asyncapi.json"): ("/asyncapi.json", {}, everybody()),
    ("GET", "/openapi.json"): ("/openapi.json", {}, everybody()),
    ("GET", "/docs/errors"): ("/docs/errors", {}, everybody()),
    ("GET", "/"): ("/", {}, everybody()),
    # what ends something comes last; the refused ones are asked first
    ("DELETE", "/whip/{stream}/{resource}"): (
        "{gone}",
        {},
        tokens(200, 404, 404, 404, 200),
    ),
    ("DELETE", ONE): ("/v1/sessions/{gone_id}", {}, tokens(204, 403, 403, 404, 204)),
    # ends the server of all tenants: for an administrator of the tenant `default` (test_health.py)
    ("POST", "/v1/drain"): ("/v1/drain", {}, tokens(403, 403, 403, 403, 403)),
}

ABSENT = [
    ("POST", "/v1/alerts/alr_1/ack"),
    ("POST", "/v1/alerts/alr_1/feedback"),
]
"""Addresses of later issues: nobody has them yet, whatever their scopes."""

SUBSCRIBE = {"type": "subscribe", "id": "1", "sessions": ["{id}"]}
EVENTS = {
    "subscribe to a session": (SUBSCRIBE, tokens(4403, "ok", 4403, 4403, "ok")),
    "subscribe to all": (
        {"type": "subscribe", "id": "1"},
        tokens(4403, "ok", "ok", "ok", "ok"),  # all that one may read: perhaps none
    ),
    "resume a session": (
        {"type": "resume", "id": "1", "since": {"{id}": -1}, "subscribe": {"sessions": ["{id}"]}},
        tokens(4403, "ok", 4403, 4403, "ok"),
    ),
    "resume all": (
        {"type": "resume", "id": "1", "since": {}},
        tokens(4403, "ok", "ok", "ok", "ok"),
    ),
}


class House:
    """The composed service with one live session of tenant acme, and who knocks at it."""

    def __init__(self, ready, app, issuer, offer):
        self.http = ready.http
        self.events = ready.events
        self.app = app
        self.issuer = issuer
        self.offer = offer
        self.tokens = {name: issuer.token(**claims) for name, claims in CLAIMS.items()}
        self.tokens["garbage"] = "garbage"
        self.known = {}
        self._callers = 0

    def caller(self):
        """An address of its own for each knock: bad tokens must not brake those that follow."""
        self._callers += 1
        return (f"127.{1 + self._callers // 250}.0.{1 + self._callers % 250}", 0)

    def bearer(self, column):
        return {"Authorization": f"Bearer {self.tokens[column]}"} if column != "none" else {}

    def filled(self, value):
        """Put what is known (ids, secrets) into what is asked."""
        if isinstance(value, dict):
            return {self.filled(key): self.filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if not isinstance(value, str):
            return value
        if (name := value.strip("{}")) in self.known:
            return self.known[name]
        return re.sub(r"\{(\w+)\}", lambda found: self.known[found[1]], value)

    async def ask(self, method, path, column, *, data=None, headers=None, body=None):
        headers = {**(headers or {}), **self.bearer(column)}
        if path == self.known.get("resource"):
            headers["If-Match"] = self.known["etag"]
        connector = aiohttp.TCPConnector(local_addr=self.caller())
        async with (
            aiohttp.ClientSession(connector=connector) as http,
            http.request(method, self.http + path, data=data, json=body, headers=headers) as found,
        ):
            text = await found.read() if "event-stream" not in found.content_type else b""
            return found.status, text, found.headers

    async def publish(self, stream):
        """Publish as acme does; returns resource path, session id and ETag."""
        status, text, headers = await self.ask(
            "POST", f"/whip/{stream}", "publisher", data=self.offer, headers=SDP_TYPE
        )
        assert status == 201, text
        session_id = re.search(r'session="(\w+)"', headers["Link"])[1]
        return headers["Location"].removeprefix(self.http), session_id, headers["ETag"]

    async def renew_gone(self):
        """Make sure that there is something to end."""
        if "gone" in self.known:
            status, _, _ = await self.ask("GET", f"/v1/sessions/{self.known['gone_id']}", "admin")
            _, text, _ = await self.ask("GET", "/v1/sessions", "admin")
            live = {s["stream"] for s in json.loads(text)["sessions"] if s["status"] == "live"}
            if status == 200 and "gone" in live:
                return
        self.known["gone"], self.known["gone_id"], _ = await self.publish("gone")

    async def knock(self, message, column, *, in_header):
        """Bring a token to the event socket and send a message; returns ``ok`` or the code."""
        headers = self.bearer(column) if in_header else {}
        async with connect(
            self.events, additional_headers=headers, local_addr=self.caller(), close_timeout=2
        ) as socket:
            try:
                if not in_header and column != "none":
                    await socket.send(json.dumps({"type": "auth", "token": self.tokens[column]}))
                await socket.send(json.dumps(message))
                async with asyncio.timeout(30):
                    while True:
                        kind = json.loads(await socket.recv())["type"]
                        if kind in ("subscribed", "resumed"):
                            return "ok"
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else 1006


@asynccontextmanager
async def house(folder, monkeypatch):
    issuer = Issuer(folder)
    apps = []
    runner = composed.web.AppRunner

    def noted(app, **options):
        apps.append(app)
        return runner(app, **options)

    monkeypatch.setattr(composed.web, "AppRunner", noted)
    # How busy this machine is must not decide who may publish here.
    monkeypatch.setattr(Admission, "note", lambda *_: None)
    settings = Settings(
        http_port=0,
        ws_port=0,
        redis_url="memory://",
        udp_ports=(42200, 42399),
        token_keys=str(issuer.jwks),
        audit=folder / "audit",
    )
    doors = composed.open_doors(settings)
    offerer, caller = Publisher("", Tone()), Publisher("", Tone())
    try:
        offer = await offerer.offer()
        async with (
            composed.running(settings, doors, OrtScorer.open(), Ending()) as ready,
            aiohttp.ClientSession() as http,
        ):
            made = House(ready, apps[0], issuer, offer)
            caller.url = f"{ready.http}/whip/cam"
            await caller.publish(http, auth=made.bearer("publisher"))
            async with asyncio.timeout(60):
                while caller.peer.connectionState != "connected":
                    await asyncio.sleep(0.02)
            soon = issuer.clock.wall_ms() + 3_600_000
            made.known |= {
                "resource": caller.location.removeprefix(ready.http),
                "id": re.search(r'session="(\w+)"', caller.link)[1],
                "etag": caller.etag,
                "soon": soon,
            }
            _, text, _ = await made.ask("GET", "/v1/policy", "admin")
            made.known["notice"] = json.loads(text)["notice"]["version"]
            body = {"jti": "leaked", "expires_ms": soon}
            status, text, _ = await made.ask("POST", "/v1/revocations", "admin", body=body)
            assert status == 204, text
            yield made
    finally:
        doors.close()
        await offerer.close()
        await caller.close()


def served(app):
    """Return every (method, address) of an application; pages are one, HEAD goes with GET."""
    files = pages.files()
    for route in app.router.routes():
        address = route.resource.canonical
        if route.method != "HEAD" and address.strip("/") not in files:
            yield route.method, address


async def test_the_matrix(tmp_path, monkeypatch):
    wrong = []
    async with house(tmp_path, monkeypatch) as made:
        assert set(served(made.app)) == set(TABLE), "the table has every address"
        for name, (message, expected) in EVENTS.items():
            for column in COLUMNS:
                wanted = 4401 if expected[column] == 401 else expected[column]
                for in_header in (True, False):
                    if column == "none" and in_header:
                        continue
                    found = await made.knock(made.filled(message), column, in_header=in_header)
                    if found != wanted:
                        wrong.append((name, column, in_header, found, wanted))
        for method, address in ABSENT:
            for column in COLUMNS:
                status, text, _ = await made.ask(method, made.filled(address), column)
                if (status, json.loads(text)["code"]) != (404, "not_found"):
                    wrong.append((method, address, column, status, 404))
        for (method, address), (path, options, expected) in TABLE.items():
            for column in sorted(COLUMNS, key=lambda name: expected[name] in (200, 201, 202, 204)):
                if "gone" in path:
                    await made.renew_gone()
                headers = options.get("headers")
                data = made.offer if options is OFFER else options.get("data")
                body = made.filled(options["json"]) if "json" in options else None
                status, text, answer = await made.ask(
                    method, made.filled(path), column, data=data, headers=headers, body=body
                )
                if status != expected[column]:
                    wrong.append((method, address, column, status, expected[column], text[:200]))
                if status == 401 and "WWW-Authenticate" not in answer:
                    wrong.append((method, address, column, "no challenge"))
                if status >= 400 and made.tokens.get(column, "?").encode() in text:
                    wrong.append((method, address, column, "quotes the token"))
    assert not wrong, "\n".join(map(str, wrong))


async def test_a_revocation_in_one_tenant_is_none_in_another(tmp_path, monkeypatch):
    """The same ``jti`` in two tenants: a rival's admin revokes its own only."""
    async with house(tmp_path, monkeypatch) as made:
        made.tokens["twin"] = made.issuer.token(scope="read:*", jti="twin")
        body = {"jti": "twin", "expires_ms": made.known["soon"]}
        status, _, _ = await made.ask("POST", "/v1/revocations", "rival", body=body)
        assert status == 204
        assert (await made.ask("GET", "/v1/sessions", "twin"))[0] == 200
        status, _, _ = await made.ask("POST", "/v1/revocations", "admin", body=body)
        assert status == 204
        assert (await made.ask("GET", "/v1/sessions", "twin"))[0] == 401


@pytest.mark.parametrize("row", [*TABLE.values(), *EVENTS.values()])
def test_every_row_has_every_column(row):
    assert set(row[-1]) == set(COLUMNS)
