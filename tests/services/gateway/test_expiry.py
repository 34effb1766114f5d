"""Tokens that end while their holder is connected: told before, renewed, or cut for sure."""

import asyncio
import json

import pytest
from websockets.exceptions import ConnectionClosed

from services.auth import Guard, Principal
from services.clock import SystemClock
from services.gateway import client, holders
from services.gateway.holders import GRACE_MS, WARNING_MS, Holders
from services.gateway.notices import Notices
from services.gateway.outbox import Outbox
from services.gateway.protocol import Closing, Code
from tests.services.gateway.test_http import Sse
from tests.services.gateway.trust import trusted
from tests.services.identity.tokens import Issuer, ManualClock

LIFE_S = 120


@pytest.fixture
async def timed(tmp_path):
    clock = ManualClock()
    async with trusted(Issuer(tmp_path, clock=clock), clock=clock) as bench:
        await bench.session("ses_a", "a")
        await bench.session("ses_b", "b")
        yield bench


def at(bench, life_s=LIFE_S):
    return int(bench.clock.wall_ms() / 1000) + life_s


async def live_on(bench, seqs, read):
    """Let a second pass before each event; return the seconds at which each message came."""
    seen = []
    for seq in seqs:
        bench.clock.now_s += 1
        bench.sweep()
        await bench.write("ses_a", "a", seqs=(seq,))
        try:
            while True:
                message = await read()
                seen.append((bench.clock.now_s, message))
                if message.get("seq") == seq:
                    break
        except (ConnectionClosed, EOFError):
            break
    return seen


def at_second(seen, kind):
    return [second for second, message in seen if message.get("code") == kind]


async def test_nothing_comes_after_the_token_has_ended(timed):
    async with timed.reads(exp=at(timed)) as reader:
        await reader.ask(type="subscribe", id="1")
        seen = await live_on(timed, range(1, 200), reader.next)
        await timed.write("ses_a", "a", seqs=range(200, 210))
        rest, code = await reader.rest()
    assert code == 4401
    assert rest == []
    assert at_second(seen, "token_expiring") == [LIFE_S - WARNING_MS / 1000]
    assert at_second(seen, "token_expired") == [LIFE_S + GRACE_MS / 1000]
    events = [second for second, message in seen if message["type"] == "window.scored"]
    assert events == [*range(1, LIFE_S + GRACE_MS // 1000)]
    assert seen[-1][0] <= LIFE_S + 25
    warning = next(message for _, message in seen if message.get("code") == "token_expiring")
    assert (warning["fatal"], warning["seq"]) == (False, None)
    assert timed.gateway.statistics()["expired_tokens_total"] == 1


async def test_an_event_stream_ends_with_its_token(timed):
    headers = timed.issuer.bearer(scope="read:*", exp=at(timed))
    async with timed.door.get("/v1/events", headers=headers) as answer:
        stream = Sse(answer)

        async def read():
            return json.loads((await stream.next())["data"])

        seen = await live_on(timed, range(1, 200), read)
    assert at_second(seen, "token_expiring") == [LIFE_S - WARNING_MS / 1000]
    assert seen[-1][0] == LIFE_S + GRACE_MS / 1000
    assert (seen[-1][1]["code"], seen[-1][1]["fatal"]) == ("token_expired", True)
    await timed.status("GET", "/v1/events", status=401, headers=headers)


async def test_a_ticket_ends_with_the_token_it_was_made_for(timed):
    headers = timed.issuer.bearer(scope="read:*", exp=at(timed))
    made = await timed.status(
        "POST", "/v1/tickets", status=201, headers=headers, json={"session": "ses_a"}
    )
    async with timed.reader(headers={}, url=f"{timed.url}?ticket={made['ticket']}") as reader:
        await reader.ask(type="subscribe", id="1", sessions=["ses_a"])
        timed.clock.now_s = LIFE_S + 24
        timed.sweep()
        timed.sweep()
        assert (await reader.rest())[1] == 4401


async def test_a_new_token_goes_on_without_a_seam(timed):
    async with timed.reads(exp=at(timed)) as reader:
        await reader.ask(type="subscribe", id="1")
        seen = await live_on(timed, range(1, 101), reader.next)
        assert at_second(seen, "token_expiring") == [LIFE_S - WARNING_MS / 1000]
        fresh = timed.issuer.token(scope="read:*", exp=at(timed, 300))
        await reader.send(type="auth", token=fresh)
        assert (await reader.ask(type="ping", id="p"))["type"] == "pong"
        seen = await live_on(timed, range(101, 201), reader.next)
        assert [m["seq"] for _, m in seen] == list(range(101, 201)), "no warning, no end"
        timed.clock.now_s = 100 + 300 - 29
        timed.sweep()
        assert (await reader.next())["code"] == "token_expiring", "the new one ends too"


async def test_a_token_that_is_about_to_end_is_told_at_once(timed):
    async with timed.reads(exp=at(timed, 10)) as reader:
        message = await reader.next()
    assert message["code"] == "token_expiring"
    assert "in 10 s" in message["message"]


async def test_after_its_end_a_token_opens_nothing_new(timed):
    for message in (
        {"type": "subscribe", "id": "2"},
        {"type": "resume", "id": "2", "since": {}},
    ):
        async with timed.reads(exp=at(timed, 40)) as reader:
            await reader.ask(type="subscribe", id="1", sessions=["ses_a"])
            timed.clock.now_s += 41
            timed.sweep()
            assert (await reader.next())["code"] == "token_expiring"
            assert (await reader.ask(type="ping", id="p"))["type"] == "pong"
            await reader.send(**message)
            seen, code = await reader.rest()
        assert (code, seen[-1]["code"]) == (4401, "token_expired")


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"tenant": "rival"}, 4403),
        ({"part_role": "agent"}, 4403),
        ({"scope": "read:b"}, 4403),
        ({"scope": "ingest:a"}, 4403),
        ({"exp": 1000}, 4401),
        ({"aud": "else"}, 4401),
    ],
)
async def test_a_refresh_keeps_tenant_role_and_what_is_read(timed, claims, code):
    async with timed.reads() as reader:
        await reader.ask(type="subscribe", id="1", sessions=["ses_a"])
        await reader.send(type="auth", token=timed.issuer.token(**({"scope": "read:*"} | claims)))
        await timed.write("ses_a", "a", seqs=(1,))
        seen, closed = await reader.rest()
    assert closed == code
    assert [message["type"] for message in seen] == ["error"], "nothing is delivered after it"


async def test_a_refresh_may_read_less_than_before_but_not_than_what_is_in_use(timed):
    async with timed.reads(scope="read:a read:b") as reader:
        await reader.ask(type="subscribe", id="1", sessions=["ses_a"])
        await reader.send(type="auth", token=timed.issuer.token(scope="read:a"))
        assert (await reader.ask(type="ping", id="p"))["type"] == "pong"
        await reader.send(type="subscribe", id="2", sessions=["ses_b"])
        assert (await reader.rest())[1] == 4403
    for scope, code in (("read:b", 4403), ("read:a read:b", None), ("read:*", None)):
        async with timed.reads(scope="read:a read:b") as reader:
            await reader.ask(type="subscribe", id="1")
            await reader.send(type="auth", token=timed.issuer.token(scope=scope))
            if code is None:
                assert (await reader.ask(type="ping", id="p"))["type"] == "pong"
            else:
                assert (await reader.rest())[1] == code


async def test_a_revoked_token_ends_its_connections_and_no_others(timed):
    admin = timed.issuer.bearer(scope="admin")
    doomed = timed.issuer.bearer(scope="read:*", jti="leaked")
    expires_ms = timed.clock.wall_ms() + 3_600_000
    async with (
        timed.reader(headers=doomed) as reader,
        timed.reads(jti="kept") as other,
        timed.reads(jti="leaked", tenant="rival") as namesake,
        timed.door.get("/v1/events", headers=doomed) as answer,
    ):
        for each in (reader, other, namesake):
            await each.ask(type="subscribe", id="1")
        body = {"jti": "leaked", "expires_ms": expires_ms}
        await timed.status("POST", "/v1/revocations", status=204, headers=admin, json=body)
        await timed.write("ses_a", "a", seqs=(1,))
        seen, code = await reader.rest()
        assert (code, seen[-1]["code"]) == (4401, "token_revoked")
        assert [message["type"] for message in seen] == ["error"]
        assert json.loads((await Sse(answer).next())["data"])["code"] == "token_revoked"
        assert (await other.next())["seq"] == 1
        assert (await namesake.ask(type="ping", id="p"))["type"] == "pong"
    await timed.status("GET", "/v1/sessions", status=401, headers=doomed)
    async with timed.reader(headers=doomed, greet=False) as again:
        assert (await again.rest())[1] == 4401


async def test_a_revocation_that_another_process_ordered(timed):
    """It lies on the bus; this process reads it within half a second."""
    from services.identity.revocation import order_name
    from services.orders import Order

    async with timed.reads(jti="leaked") as reader:
        await reader.ask(type="subscribe", id="1")
        now_ms = timed.clock.wall_ms()
        order = Order("revoked", order_name("acme", "leaked"), "", now_ms + 60_000)
        await timed.bus.give_order(order, now_ms)
        async with asyncio.timeout(30):
            assert (await reader.rest())[1] == 4401


@pytest.mark.parametrize(
    ("scope", "body", "status", "code"),
    [
        ("read:*", {"jti": "x", "expires_in": 1}, 403, "forbidden"),
        ("admin", {"jti": "x"}, 400, "bad_body"),
        ("admin", {"jti": "x y", "expires_ms": 1}, 400, "bad_body"),
        ("admin", {"jti": "x", "expires_ms": 1}, 400, "bad_expiry"),
        ("admin", {"jti": "x", "expires_ms": 2**50}, 400, "bad_expiry"),
        ("admin", "nonsense", 400, "bad_body"),
    ],
)
async def test_what_a_revocation_must_be(timed, scope, body, status, code):
    headers = timed.issuer.bearer(scope=scope)
    problem = await timed.status(
        "POST", "/v1/revocations", status=status, headers=headers, json=body
    )
    assert problem["code"] == code
    await timed.status("POST", "/v1/revocations", status=401, json=body)


async def test_the_gateway_looks_by_itself(issuer):
    """Real time, the gateway's own sweep: a token that has ended is cut without help."""
    async with trusted(issuer) as bench:
        exp = int(bench.clock.wall_ms() / 1000) - GRACE_MS // 1000
        principal = Principal("acme", "customer", token_id="old", expires_s=exp)
        outbox = Outbox(bench.gateway.hub.notices, asyncio.get_running_loop().time)
        holder = bench.gateway.holders.enter(principal, outbox)
        async with asyncio.timeout(30):
            while outbox.closing is None:
                await outbox.wait()
        assert outbox.closing.code is Code.UNAUTHORISED
        bench.gateway.holders.leave(holder)


async def test_a_gateway_that_cannot_watch_tokens_takes_nobody_in(issuer, monkeypatch):
    def broken(_self, _now_ms):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(holders.Holders, "sweep", broken)
    async with trusted(issuer) as bench:
        async with asyncio.timeout(30):
            while bench.gateway.watching:
                await asyncio.sleep(0.01)
        headers = issuer.bearer(scope="read:*")
        assert (await bench.status("GET", "/v1/events", status=503, headers=headers)) is not None
        assert (await bench.status("GET", "/readyz", status=503))["ready"] is False


async def test_a_reader_that_takes_nothing_is_gone_in_time(timed, monkeypatch):
    """Its token ends while the sender waits for room: the connection is cut, not kept."""
    monkeypatch.setattr(client, "SEND_S", 0.2)
    monkeypatch.setattr(client, "CLOSE_S", 0.1)
    async with timed.reads(exp=at(timed)) as reader:
        await reader.ask(type="subscribe", id="1")
        reader.socket.transport.pause_reading()
        timed.clock.now_s = LIFE_S + 20
        for seq in range(1, 6001):
            await timed.write("ses_a", "a", seqs=(seq,))
            if seq % 100 == 0:
                timed.sweep()
                await asyncio.sleep(0)
        async with asyncio.timeout(60):
            while timed.gateway.statistics()["connections"]:
                await asyncio.sleep(0.01)


# the book of holders


def book(per_token=2):
    return Holders(Guard(loopback_only=True), Notices(SystemClock()), per_token=per_token)


def held(holders_, name, expires_s):
    outbox = Outbox(Notices(SystemClock()), lambda: 0.0)
    return holders_.enter(Principal("t", "self", token_id=name, expires_s=expires_s), outbox)


async def test_the_book_does_not_grow_with_those_who_left():
    book_ = book()
    stay = held(book_, "stays", 500)
    for number in range(5000):
        book_.leave(held(book_, f"n{number}", 10_000 + number))
        book_.renew(stay, Principal("t", "self", token_id="stays", expires_s=500 + number))
    assert len(book_) == 1
    assert len(book_._due) < 200
    assert book_._seats == {("t", "stays"): 1}
    book_.sweep(10_000_000)
    book_.sweep(10_000_000)
    assert stay.outbox.closing is not None


async def test_seats_of_a_token():
    book_ = book(per_token=2)
    first, _second = held(book_, "x", 1000), held(book_, "x", 1000)
    with pytest.raises(Closing) as refused:
        held(book_, "x", 1000)
    assert (refused.value.code, refused.value.error) == (4529, "too_many_connections")
    third = held(book_, "y", 1000)
    with pytest.raises(Closing):
        book_.renew(third, Principal("t", "self", token_id="x", expires_s=1000))
    assert third.principal.token_id == "y"
    book_.leave(first)
    book_.leave(first)
    book_.renew(third, Principal("t", "self", token_id="x", expires_s=1000))
    assert book_._seats == {("t", "x"): 2}
    for _ in range(10):
        held(book_, "dev", None)
