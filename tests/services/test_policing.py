"""Consent, erasure and the kill switch end to end: publisher, owner, Valkey, two gateways."""

import asyncio
import errno
import json
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiortc import RTCSessionDescription

from pipeline.policy import Notice, Policy
from services import problems
from services.audit.chain import name_of
from services.audit.log import AuditLog, hashed
from services.audit.verify import verify
from services.bus.redis import RedisBus
from services.bus.types import StreamKey
from services.clock import SystemClock
from services.gateway import http as gateway_http
from services.gateway.app import Gateway
from services.identity.open import open_guard
from services.ingest import http as ingest_http
from services.ingest.sink import bus_sinks
from services.ingest.whip import Whip
from services.orders import Orders
from services.queues import Registry
from services.settings import Settings
from tests.services.gateway.conftest import Bench
from tests.services.identity.tokens import Issuer
from tests.services.ingest.support import MODEL, SDP_TYPE, Publisher, Tone
from tests.services.ingest.test_policing import Talkative
from tests.services.valkey import Valkey

PATIENCE_S = 40


class House:
    """One ingest process and two gateways, each with orders of its own, over one Valkey."""

    def __init__(self, issuer, whip, door, far, near_bench, far_bench, bus):
        self.issuer = issuer
        self.whip = whip
        self.door = door
        self.far = far
        self.near_bench = near_bench
        self.far_bench = far_bench
        self.bus = bus

    def token(self, **claims):
        return self.issuer.bearer(**claims)

    async def ask(self, method, path, *, status=200, door=None, headers=None, **body):
        options = {"json": body} if body else {}
        headers = headers or self.token(scope="admin")
        async with (door or self.door).request(method, path, headers=headers, **options) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json(content_type=None) if answer.content_length else None

    @asynccontextmanager
    async def publishing(self, **claims):
        headers = self.token(**claims) | SDP_TYPE
        peer = Publisher("", Tone())
        async with self.door.post("/whip/cam", data=await peer.offer(), headers=headers) as answer:
            text = await answer.text()
            assert answer.status == 201, text
            session_id = answer.headers["Link"].partition('session="')[2].rstrip('"')
        await peer.peer.setRemoteDescription(RTCSessionDescription(text, "answer"))
        try:
            yield session_id
        finally:
            await peer.close()

    def session(self):
        (session,) = self.whip.sessions()
        return session


@pytest.fixture(scope="module")
def valkey():
    server = Valkey().start()
    yield server
    server.close()


async def _gateway(stack, bus, settings, clock, policy, audit, orders):
    guard = await stack.enter_async_context(open_guard(settings, clock, orders))
    gateway = await stack.enter_async_context(
        Gateway(
            bus,
            guard=guard,
            clock=clock,
            settings=settings,
            policy=policy,
            orders=orders,
            audit=audit,
        )
    )
    app = web.Application(middlewares=[problems.middleware])
    gateway_http.routes(app, gateway)
    return gateway, app


@asynccontextmanager
async def opened(valkey, folder, policy):
    issuer, clock, queues = Issuer(folder), SystemClock(), Registry()
    settings = Settings(ws_port=0, token_keys=str(issuer.jwks), udp_ports=(41000, 41199))
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        audit = await enter(
            AuditLog(folder / "audit", clock=clock, policy=policy.tag, queues=queues)
        )
        bus = await enter(RedisBus.at(valkey.url))
        orders = await enter(Orders(bus, clock))
        elsewhere = await enter(Orders(bus, clock))
        near, app = await _gateway(stack, bus, settings, clock, policy, audit, orders)
        away, away_app = await _gateway(stack, bus, settings, clock, policy, audit, elsewhere)
        whip = await enter(
            Whip(
                settings,
                guard=near.guard,
                scoring=Talkative(),
                open_sink=bus_sinks(bus, clock, "ing_1", queues),
                policy=policy,
                model=MODEL,
                clock=clock,
                events_url=lambda _id: near.events_url,
                orders=orders,
                audit=audit,
            )
        )
        ingest_http.routes(app, whip)
        door = await enter(TestClient(TestServer(app)))
        far = await enter(TestClient(TestServer(away_app)))
        yield House(issuer, whip, door, far, Bench(near, bus), Bench(away, bus), bus)


@pytest.fixture
async def house(valkey, tmp_path):
    async with opened(valkey, tmp_path, Policy()) as house:
        yield house


async def _until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


def _rows(folder):
    return [json.loads(line) for line in (folder / "audit" / name_of(1)).read_bytes().splitlines()]


async def test_a_call_waits_for_consent_and_is_erased_everywhere_when_it_is_withdrawn(
    house, tmp_path
):
    readers = [
        bench.reader(headers=house.token(scope="read:*"))
        for bench in (house.near_bench, house.far_bench)
    ]
    async with AsyncExitStack() as stack:
        near, far = [await stack.enter_async_context(reader) for reader in readers]
        for reader in (near, far):
            assert (await reader.ask(type="subscribe", id="1"))["type"] == "subscribed"
        publisher = house.token(scope="ingest:cam")
        async with house.publishing(scope="ingest:cam") as session_id:
            address = f"/v1/sessions/{session_id}/consent"
            session = house.session()
            await _until(lambda: session.gate.dropped > 20)
            assert session.statistics().cut == 0

            await house.ask(
                "PUT", address, headers=publisher, state="granted", notice_version=Notice().version
            )
            for reader in (near, far):
                assert (await reader.until("window.scored"))[0]["type"] == "session.started"

            # Through the gateway that does not share a process with the owner.
            answer = await house.ask(
                "PUT", address, door=house.far, headers=publisher, state="withdrawn"
            )
            assert answer["erased"]["windows"] > 0
            for reader in (near, far):
                ended = (await reader.until("session.ended"))[-1]
                assert ended["reason"] == "policy"
            books = session.statistics()
            assert books.cut == books.scored + sum(books.skipped.values())
            assert ended["counts"]["scored"] == books.scored
    epoch = (await house.bus.lookup(session_id)).epoch
    assert (await house.bus.replay(StreamKey("acme", "cam"), epoch, -1)).records == ()
    for door in (house.door, house.far):
        await house.ask("GET", f"/v1/sessions/{session_id}", door=door, status=404)
    async with house.far_bench.reader(headers=house.token(scope="read:*")) as reader:
        resumed = await reader.ask(type="resume", id="2", since={session_id: 1})
        assert resumed["lost"] == {session_id: None}
        assert resumed["recovered"] == {}

    def told():
        return [(row["kind"], row.get("state")) for row in _rows(tmp_path)]

    await _until(lambda: ("erased", None) in told())
    kinds = told()
    assert kinds.index(("published", None)) < kinds.index(("consent", "granted"))
    assert kinds.index(("consent", "withdrawn")) < kinds.index(("erased", None))
    assert ("subscribed", None) in kinds
    text = (tmp_path / "audit" / name_of(1)).read_text()
    assert session_id not in text
    assert hashed(session_id) in text
    assert not any(word in text for word in ("angry", "frustration", "confidence"))
    assert verify(tmp_path / "audit").bad is None


async def test_deleting_a_participant_counts_what_is_gone_on_every_gateway(house):
    consent = {
        "notice_version": Notice().version,
        "notice_sha256": Notice().sha256,
        "granted_ms": SystemClock().wall_ms(),
    }
    async with house.publishing(scope="ingest:cam", consent=consent) as session_id:
        await _until(lambda: house.session().statistics().scored > 1)
        for door in (house.door, house.far):
            await house.ask("GET", f"/v1/sessions/{session_id}", door=door)
        path = f"/v1/sessions/{session_id}?participant="
        assert (await house.ask("DELETE", f"{path}p2", status=404))["code"] == (
            "no_such_participant"
        )
        gone = await house.ask("DELETE", f"{path}p1", door=house.far)
        assert (gone["session_id"], gone["participant"]) == (session_id, "p1")
        assert gone["windows"] >= 1
        assert gone["events"] > gone["windows"]
    for door in (house.door, house.far):
        await house.ask("GET", f"/v1/sessions/{session_id}", door=door, status=404)
        await house.ask("GET", f"/v1/sessions/{session_id}/timeline", door=door, status=404)


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"scope": "ingest:cam"}, 200),
        ({"scope": "admin"}, 200),
        ({"scope": "read:*"}, 403),
        ({"scope": "ingest:other read:*"}, 403),
        ({"scope": "ingest:cam", "tenant": "rival"}, 404),
        ({"scope": "admin", "tenant": "rival"}, 404),
        (None, 401),
    ],
)
async def test_who_may_decide_about_consent(house, claims, status):
    async with house.publishing(scope="ingest:cam") as session_id:
        headers = {"X-No": "token"} if claims is None else house.token(**claims)
        address = f"/v1/sessions/{session_id}/consent"
        await house.ask(
            "PUT", address, headers=headers, status=status, state="granted", notice_version="1"
        )
        await house.ask("PUT", f"{address}", headers=headers, status=status, state="withdrawn")


async def test_consent_is_to_this_very_notice(house):
    async with house.publishing(scope="ingest:cam") as session_id:
        address = f"/v1/sessions/{session_id}/consent"
        for version in ({}, {"notice_version": "0"}):
            problem = await house.ask("PUT", address, status=409, state="granted", **version)
            assert problem["code"] == "notice_outdated"
        assert (await house.ask("PUT", address, status=400, state="maybe"))["code"] == "bad_body"
        assert not house.session().gate.opens
        await _until(lambda: house.session().gate.dropped)
    await _until(lambda: not house.whip.sessions())
    problem = await house.ask("PUT", address, status=409, state="granted", notice_version="1")
    assert problem["code"] == "session_over"


async def test_illinois_wants_a_release(valkey, tmp_path):
    async with (
        opened(valkey, tmp_path, Policy(jurisdiction="us-il")) as house,
        house.publishing(scope="ingest:cam") as session_id,
    ):
        wish = {"state": "granted", "notice_version": "1"}
        address = f"/v1/sessions/{session_id}/consent"
        assert (await house.ask("PUT", address, status=409, **wish))["code"] == "release_required"
        assert not house.session().gate.opens
        await house.ask("PUT", address, release=True, **wish)
        assert house.session().gate.opens


async def test_the_kill_switch(house):
    admin = house.token(scope="admin")
    rival = house.token(scope="admin", tenant="rival")
    operator = house.token(scope="admin", tenant="default")
    everywhere = {"scoring": "off", "everywhere": True}
    assert await house.ask("GET", "/v1/scoring") == {
        "scoring": "on",
        "tenant": "on",
        "everywhere": "on",
    }
    reader = house.token(scope="read:*")
    await house.ask("PUT", "/v1/scoring", headers=reader, status=403, scoring="off")
    await house.ask("PUT", "/v1/scoring", headers=rival, status=403, **everywhere)
    await house.ask("PUT", "/v1/scoring", headers=rival, scoring="off")
    assert (await house.ask("GET", "/v1/scoring", headers=admin))["scoring"] == "on"
    consent = {
        "notice_version": Notice().version,
        "notice_sha256": Notice().sha256,
        "granted_ms": SystemClock().wall_ms(),
    }
    async with house.publishing(scope="ingest:cam", consent=consent):
        session = house.session()
        await _until(lambda: session.statistics().scored)
        for headers, body in ((admin, {"scoring": "off"}), (operator, everywhere)):
            await house.ask("PUT", "/v1/scoring", door=house.far, headers=headers, **body)
            await _until(lambda: not session.gate.scoring)
            before = session.statistics()
            await _until(
                lambda before=before: (
                    session.statistics().skipped.get("scoring_off", 0)
                    >= before.skipped.get("scoring_off", 0) + 2
                )
            )
            books = session.statistics()
            assert books.scored == before.scored
            assert books.cut == books.scored + sum(books.skipped.values()) + books.in_flight
            again = body | {"scoring": "on"}
            await house.ask("PUT", "/v1/scoring", door=house.far, headers=headers, **again)
            await _until(lambda before=before: session.statistics().scored > before.scored)


async def test_the_policy_is_told_with_its_hash_and_every_number(house):
    told = await house.ask("GET", "/v1/policy", headers=house.token(scope="read:*"))
    policy = Policy()
    assert (told["policy"], told["sha256"]) == (policy.tag, policy.sha256)
    assert told["contexts_denied"] == ["workplace_peer", "recruitment", "education"]
    assert (told["consent"], told["release"], told["retention_s"]) == ("required", False, 120)
    assert told["notice"] == {
        "version": "1",
        "sha256": Notice().sha256,
        "text": Notice().text,
    }
    assert told["thresholds"]["high"]["enter"] == 0.7
    assert told["thresholds"]["watch"]["leave_ms"] == 5000
    assert told["frustration"]["angry"] == 0.95
    assert any("not legal advice" in sentence for sentence in told["sentences"])


def _full_disk(rows):
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_nobody_new_reads_while_the_audit_log_cannot_be_written(house, monkeypatch):
    from services.audit import log as log_module

    monkeypatch.setattr(log_module, "ROOM_S", 0.1)
    audit = house.near_bench.gateway.audit
    consent = {
        "notice_version": Notice().version,
        "notice_sha256": Notice().sha256,
        "granted_ms": SystemClock().wall_ms(),
    }
    async with house.publishing(scope="ingest:cam", consent=consent) as session_id:
        monkeypatch.setattr(audit._chain, "append", _full_disk)
        audit.note("published", None)
        await _until(lambda: audit.failing)
        reader = house.token(scope="read:*")
        async with house.near_bench.reader(headers=reader) as socket:
            await socket.send(type="subscribe", id="1")
            messages, code = await socket.rest()
        assert code == 1013
        assert messages[-1]["code"] == "audit_away"
        async with aiohttp.ClientSession() as http:
            url = house.door.make_url(f"/v1/sessions/{session_id}/events")
            async with http.get(url, headers=reader) as answer:
                assert answer.status == 503
                assert (await answer.json())["code"] == "audit_away"
        await _until(lambda: house.session().statistics().scored > 1)
