"""The WHIP door with tokens: who may do what to which session, and until when."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest

from services.addresses import Addresses
from services.auth import Guard
from services.brake import FAILURES, Brake
from services.bus.memory import MemoryBus
from services.clock import SystemClock
from services.identity import open as identity
from services.identity.revocation import order_name
from services.ingest import whip as whip_module
from services.orders import Orders
from services.settings import Settings
from tests.services.identity.tokens import CONSENT, Issuer, ManualClock
from tests.services.ingest.support import SDP_TYPE, Publisher, Tone, serving

FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
CANARY = "canaryTokenCanary"


class MovedClock(SystemClock):
    """The machine's clocks, for real peers; the time of day runs ahead by ``ahead_s``."""

    ahead_s = 0

    def wall_ms(self):
        return super().wall_ms() + 1000 * self.ahead_s


@pytest.fixture
def clock():
    return MovedClock()


@pytest.fixture
def issuer(tmp_path, clock):
    return Issuer(tmp_path, clock=clock)


@asynccontextmanager
async def house(issuer, clock, *, loopback=False, door=None, **settings):
    """A WHIP door whose guard follows the issuer's keys; ``.orders`` are its standing orders."""
    made = Settings(token_keys=str(issuer.jwks), **settings)
    async with (
        Orders(MemoryBus(), clock) as orders,
        identity.open_guard(made, clock, orders) as opened_guard,
        serving(
            guard=Guard(loopback, opened_guard.verifier), clock=clock, door=door, **settings
        ) as server,
    ):
        server.orders = orders
        yield server


@pytest.fixture
async def server(issuer, clock):
    async with house(issuer, clock) as running:
        yield running


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as client:
        yield client


@pytest.fixture
async def offer():
    publisher = Publisher("", Tone())
    try:
        return await publisher.offer()
    finally:
        await publisher.close()


async def told(response, status, code=None):
    body = await response.text()
    assert response.status == status, body
    if code is not None:
        problem = await response.json()
        assert problem["code"] == code
        assert len(problem["detail"]) > 15
        return problem["detail"]
    return body


def post(http, server, offer, auth, stream="cam"):
    return http.post(server.endpoint(stream), data=offer, headers=auth | SDP_TYPE)


async def opened(http, server, offer, auth, stream="cam"):
    async with post(http, server, offer, auth, stream) as response:
        await told(response, 201)
        return response.headers["Location"], response.headers["ETag"]


def patch(http, location, etag, auth):
    headers = auth | FRAGMENT | {"If-Match": etag}
    return http.patch(location, data="a=end-of-candidates\r\n", headers=headers)


HOLDERS = {
    "publish": {"scope": "ingest:cam"},
    "subscribe": {"scope": "read:cam read:*"},
    "admin": {"scope": "admin"},
    "other stream": {"scope": "ingest:cam2 ingest:ca ingest:camera"},
    "other tenant": {"scope": "ingest:cam read:* admin", "tenant": "bolt"},
}
POST = dict.fromkeys(HOLDERS, (403, "forbidden")) | {"publish": (201, None)}
PATCH = dict.fromkeys(HOLDERS, (404, "no_such_resource")) | {"publish": (204, None)}
DELETE = PATCH | {"publish": (200, None), "admin": (200, None)}


@pytest.mark.parametrize("holder", HOLDERS)
async def test_the_matrix(server, http, offer, issuer, holder):
    """Reliability §4.1; a token of another tenant may publish a stream of that tenant, as its own.

    ``bolt``'s ``cam`` is another stream than ``acme``'s, so its POST opens one and disturbs none.
    """
    auth = issuer.bearer(**HOLDERS[holder])
    status, code = POST[holder] if holder != "other tenant" else (201, None)
    async with post(http, server, offer, auth) as response:
        await told(response, status, code)
    if status == 201:
        async with http.delete(response.headers["Location"], headers=auth) as response:
            await told(response, 200)
    location, etag = await opened(http, server, offer, issuer.bearer(scope="ingest:cam"))
    async with patch(http, location, etag, auth) as response:
        await told(response, *PATCH[holder])
    async with http.delete(location, headers=auth) as response:
        await told(response, *DELETE[holder])
    assert server.whip.statistics().live == (0 if DELETE[holder][0] == 200 else 1)


async def test_who_ends_a_session_is_told(server, http, offer, issuer):
    for scope, reason in (("ingest:cam admin", "publisher_left"), ("admin", "deleted")):
        location, _ = await opened(http, server, offer, issuer.bearer(scope="ingest:cam"))
        async with http.delete(location, headers=issuer.bearer(scope=scope)) as response:
            await told(response, 200)
        assert server.sink(-1).ended == reason


def bad_headers(issuer):
    old = issuer.kid
    issuer.add("ES256")
    issuer.remove(old)
    return {
        "none": {},
        "basic": {"Authorization": "Basic ZGV2"},
        "empty": {"Authorization": "Bearer "},
        "garbage": {"Authorization": f"Bearer {CANARY}"},
        "dev from elsewhere": {"Authorization": "Bearer dev"},
        "expired": issuer.bearer(exp=issuer.clock.wall_ms() // 1000 - 6),
        "not yet": issuer.bearer(nbf=issuer.clock.wall_ms() // 1000 + 600),
        "wrong aud": issuer.bearer(aud="other"),
        "no jti": issuer.bearer(jti=None),
        "a key that left": issuer.bearer(kid=old),
        "unknown kid": issuer.bearer(header={"kid": CANARY}),
        "no role": issuer.bearer(part_role=None),
        "wildcard": issuer.bearer(scope="ingest:*"),
        "long": {"Authorization": "Bearer " + "a." * 3900},
    }


NAMES = [
    *("none", "basic", "empty", "garbage", "dev from elsewhere", "expired", "not yet"),
    *("wrong aud", "no jti", "a key that left", "unknown kid", "no role", "wildcard", "long"),
]


@pytest.mark.parametrize("name", NAMES)
async def test_a_bad_token_costs_nothing(issuer, clock, http, offer, monkeypatch, capfd, name):
    built = []

    class Counted(whip_module.Publication):
        def __init__(self, *arguments, **named):
            built.append(self)
            super().__init__(*arguments, **named)

    monkeypatch.setattr(whip_module, "Publication", Counted)
    headers = bad_headers(issuer)
    assert set(headers) == set(NAMES)
    auth = headers[name]
    async with house(issuer, clock) as server:
        location = server.endpoint("cam") + "/" + "x" * 22
        for request in (
            post(http, server, offer, auth),
            patch(http, location, '"x"', auth),
            http.delete(location, headers=auth),
        ):
            async with request as response:
                sentence = await told(response, 401, "unauthorised")
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            token = auth.get("Authorization", "").partition(" ")[2]
            assert len(token) < 8 or token not in sentence
            assert CANARY not in sentence
        assert (built, server.openings) == ([], [])
        await opened(http, server, offer, issuer.bearer())
        assert (len(built), len(server.openings)) == (1, 1)
    assert CANARY not in "".join(capfd.readouterr())


async def test_a_megabyte_of_token_is_refused_by_the_server_itself(server, http, offer):
    auth = {"Authorization": "Bearer " + "a" * 1_000_000}
    try:
        async with post(http, server, offer, auth) as response:
            assert response.status == 400
    except aiohttp.ClientConnectionError:
        pass  # it may hang up before all was sent
    assert server.openings == []


@pytest.mark.parametrize("name", ["token", "access_token", "TOKEN"])
async def test_no_token_in_an_address(server, http, offer, issuer, name):
    query = f"?{name}={issuer.token()}"
    location = server.endpoint("cam", "/" + "x" * 22) + query
    for request in (
        http.post(server.endpoint("cam", query), data=offer, headers=SDP_TYPE),
        http.patch(location, data="", headers=FRAGMENT | issuer.bearer()),
        http.delete(location, headers=issuer.bearer()),
    ):
        async with request as response:
            await told(response, 400, "token_in_url")


@pytest.mark.parametrize("stream", ["0170-1234567", "491701234567"])
async def test_a_stream_is_no_phone_number(server, http, offer, issuer, stream):
    async with post(http, server, offer, issuer.bearer(), stream) as response:
        assert "phone number" in await told(response, 400, "bad_stream_name")


async def test_keys_turn_on_a_running_server(server, http, offer, issuer):
    old, token = issuer.kid, issuer.bearer()
    location, _ = await opened(http, server, offer, token)
    issuer.add("RS256")
    issuer.remove(old)
    async with asyncio.timeout(20):
        while True:
            async with http.delete(location, headers=token) as response:
                if response.status == 401:
                    break
                assert response.status in (200, 404)  # ended by the first one
            await asyncio.sleep(0.1)
    await opened(http, server, offer, issuer.bearer())


async def until_ended(sink):
    await sink.until(lambda sink: sink.ended is not None)
    return sink.ended


@asynccontextmanager
async def peer(server, http, auth):
    publisher = Publisher(server.endpoint(), Tone())
    try:
        await publisher.publish(http, auth=auth)
        await server.sink(-1).until(lambda sink: sink.events)
        yield publisher
    finally:
        await publisher.close()


async def test_a_publisher_ends_a_minute_after_its_token(server, http, issuer, clock):
    short = issuer.bearer(consent=CONSENT, exp=clock.wall_ms() // 1000 + 30)
    async with peer(server, http, short) as publisher:
        clock.ahead_s = 60  # far from 90, for slow machines
        await asyncio.sleep(1.5)  # longer than between two looks
        assert server.sink().ended is None
        async with patch(http, publisher.location, publisher.etag, short) as response:
            await told(response, 401, "unauthorised")
        clock.ahead_s = 91
        assert await until_ended(server.sink()) == "policy"
    assert server.whip.statistics().untenured == {"expired": 1}


async def test_a_fresh_token_renews_and_an_older_one_takes_nothing_back(
    server, http, issuer, clock
):
    now_s = clock.wall_ms() // 1000
    first = issuer.bearer(consent=CONSENT, exp=now_s + 30)
    async with peer(server, http, first) as publisher:
        other = issuer.bearer(part_role="self", exp=now_s + 600)
        async with patch(http, publisher.location, publisher.etag, other) as response:
            assert "'customer'" in await told(response, 403, "other_participant")
        fresh = issuer.bearer(consent=CONSENT, exp=now_s + 600)
        for auth, tag, status in (
            (fresh, '"wrong"', 412),
            (fresh, publisher.etag, 204),
            (first, publisher.etag, 204),
        ):
            async with patch(http, publisher.location, tag, auth) as response:
                await told(response, status)
        clock.ahead_s = 200
        await asyncio.sleep(1.5)
        assert server.sink().ended is None
        clock.ahead_s = 661
        assert await until_ended(server.sink()) == "policy"


async def test_a_revoked_publisher_ends_and_others_go_on(server, http, issuer, clock, offer):
    gone = issuer.bearer(jti="gone", consent=CONSENT)
    stays = issuer.bearer(jti="stays", scope="ingest:other")
    async with peer(server, http, gone):
        await opened(http, server, offer, stays, "other")
        until_ms = clock.wall_ms() + 3_600_000
        await server.orders.give("revoked", order_name("acme", "gone"), "", until_ms)
        assert await until_ended(server.sink()) == "policy"
        async with post(http, server, offer, gone) as response:
            assert "revoked" in await told(response, 401, "unauthorised")
    assert server.sink(1).ended is None
    assert server.whip.statistics().untenured == {"revoked": 1}


async def test_takeover_needs_the_claim_and_ends_the_old_session(server, http, offer, issuer):
    old, _ = await opened(http, server, offer, issuer.bearer())
    async with post(http, server, offer, issuer.bearer()) as response:
        await told(response, 409, "stream_live")
    new, etag = await opened(http, server, offer, issuer.bearer(takeover=True))
    assert (server.sink(0).ended, server.sink(1).ended) == ("owner_lost", None)
    async with http.delete(old, headers=issuer.bearer()) as response:
        await told(response, 404, "no_such_resource")
    async with patch(http, new, etag, issuer.bearer()) as response:
        await told(response, 204)
    assert server.whip.statistics().live == 1


async def test_takeovers_at_one_moment_leave_one_publisher(server, http, offer, issuer):
    await opened(http, server, offer, issuer.bearer())

    async def take():
        async with post(http, server, offer, issuer.bearer(takeover=True)) as response:
            return response.status

    statuses = await asyncio.gather(*(take() for _ in range(3)))
    assert set(statuses) <= {201, 409}
    assert statuses.count(201) >= 1
    live = [sink for sink in server.sinks.values() if sink.ended is None]
    assert (len(live), server.whip.statistics().live) == (1, 1)


async def test_guessing_is_braked(tmp_path, http, offer):
    clock = ManualClock()
    issuer = Issuer(tmp_path, clock=clock)
    brake = Brake()
    async with house(issuer, clock, door={"brake": brake}) as server:
        for _ in range(FAILURES):
            async with post(http, server, offer, {"Authorization": "Bearer x"}) as response:
                await told(response, 401)
        async with post(http, server, offer, issuer.bearer()) as response:
            await told(response, 429, "too_many_bad_tokens")
        assert int(response.headers["Retry-After"]) > 0
        clock.now_s += 10
        async with post(http, server, offer, issuer.bearer()) as response:
            await told(response, 201)


async def test_pages_that_may_connect_and_no_others_may_read_answers(issuer, clock, http):
    allowed = "https://calls.example"
    door = {"allows": lambda origin, local: (origin, local) == (allowed, "127.0.0.1")}
    async with house(issuer, clock, loopback=True, door=door) as server:
        for origin in (allowed, "http://localhost:9", "https://calls.example.evil", "null"):
            ask = http.options(server.endpoint(), headers={"Origin": origin})
            async with ask as response:
                found = response.headers.get("Access-Control-Allow-Origin")
                assert found == (origin if origin == allowed else None)
                assert response.headers["Vary"] == "Origin"


async def test_addresses_behind_a_proxy(issuer, clock, http, offer):
    known = Addresses("https://calls.example", "wss://calls.example/v1/events", public=True)
    async with house(issuer, clock, loopback=True, door={"addresses": known}) as server:
        headers = issuer.bearer() | {
            "Host": "calls.example",
            "X-Forwarded-For": "192.0.2.7",
            "X-Forwarded-Proto": "https",
        }
        location, _ = await opened(http, server, offer, headers)
        assert location.startswith("https://calls.example/whip/cam/")
        dev = headers | {"Authorization": "Bearer dev"}
        async with post(http, server, offer, dev, "dev") as response:
            assert "proxy" in await told(response, 401, "unauthorised")
