"""One-use tickets: once, ten seconds, one tenant, one session, events only, and never logged."""

import logging

import pytest

from services.auth import Principal
from services.gateway import tickets
from services.gateway.tickets import LARGEST_PER_TOKEN, LIFE_S, Tickets, TooManyTickets
from services.queues import Registry
from tests.services.gateway.test_http import Sse
from tests.services.gateway.trust import trusted
from tests.services.identity.tokens import Issuer, ManualClock


async def ticket(bench, session="*", status=201, **claims):
    headers = bench.issuer.bearer(**({"scope": "read:*"} | claims))
    answer = await bench.status(
        "POST", "/v1/tickets", status=status, headers=headers, json={"session": session}
    )
    return answer.get("ticket", answer.get("code"))


async def test_a_ticket_opens_one_event_stream_once(acme):
    made = await ticket(acme, "ses_a")
    assert len(made) == 22, "128 bits"
    async with acme.door.get(f"/v1/sessions/ses_a/events?ticket={made}") as answer:
        assert answer.status == 200
        await acme.write("ses_a", "a", seqs=(1,))
        assert (await Sse(answer).next())["id"] == "ses_a:1"
    problem = await acme.status("GET", f"/v1/sessions/ses_a/events?ticket={made}", status=401)
    assert problem["code"] == "unauthorised"
    assert made not in str(problem)


async def test_a_ticket_for_all_is_what_its_token_reads(acme):
    made = await ticket(acme, scope="read:b")
    async with acme.door.get(f"/v1/events?ticket={made}&events=window.*") as answer:
        stream = Sse(answer)
        await acme.write("ses_a", "a", seqs=(1,))
        await acme.write("ses_b", "b", seqs=(1,))
        assert (await stream.next())["id"] == "ses_b:1"
    made = await ticket(acme)
    await acme.status("GET", f"/v1/sessions/ses_a/events?ticket={made}", status=200)
    made = await ticket(acme)
    await acme.status("GET", f"/v1/sessions/ses_r/events?ticket={made}", status=404)


async def test_a_ticket_on_the_socket_reads_its_session_and_nothing_else(acme):
    made = await ticket(acme, "ses_a", scope="read:* admin ingest:a")
    async with acme.reader(headers={}, url=f"{acme.url}?ticket={made}") as reader:
        assert (await reader.ask(type="subscribe", id="1"))["sessions"] == ["ses_a"]
        await acme.session("ses_n", "n")
        assert (await reader.ask(type="ping", id="p"))["type"] == "pong"
        await reader.send(type="subscribe", id="2", sessions=["ses_b"])
        assert (await reader.rest())[1] == 4403
    for url in (f"{acme.url}?ticket={made}", f"{acme.url}?ticket=", f"{acme.url}?ticket=guess"):
        async with acme.reader(headers={}, url=url, greet=False) as reader:
            seen, code = await reader.rest()
        assert (code, seen[0]["code"]) == (4401, "unauthorised")


@pytest.mark.parametrize(
    ("made_for", "path"),
    [("ses_a", "/v1/sessions/ses_b/events"), ("ses_a", "/v1/events")],
)
async def test_a_ticket_for_something_else_is_void_at_once(acme, made_for, path):
    made = await ticket(acme, made_for)
    await acme.status("GET", f"{path}?ticket={made}", status=401)
    await acme.status("GET", f"/v1/sessions/{made_for}/events?ticket={made}", status=401)


async def test_a_ticket_opens_nothing_but_events(acme):
    for method, path in (
        ("GET", "/v1/sessions"),
        ("GET", "/v1/sessions/ses_a"),
        ("GET", "/v1/sessions/ses_a/timeline"),
        ("DELETE", "/v1/sessions/ses_a"),
        ("POST", "/v1/tickets"),
        ("POST", "/v1/revocations"),
        ("GET", "/v1/policy"),
    ):
        made = await ticket(acme, scope="read:* admin")
        await acme.status(method, f"{path}?ticket={made}", status=401)


async def test_a_ticket_lasts_ten_seconds(tmp_path):
    clock = ManualClock()
    async with trusted(Issuer(tmp_path, clock=clock), clock=clock) as bench:
        await bench.session("ses_a", "a")
        made = await ticket(bench)
        clock.now_s += LIFE_S - 0.1
        await bench.status("GET", f"/v1/events?ticket={made}", status=200)
        made = await ticket(bench)
        clock.now_s += LIFE_S
        await bench.status("GET", f"/v1/events?ticket={made}", status=401)


async def test_a_ticket_does_not_outlive_its_token(tmp_path):
    clock = ManualClock()
    async with trusted(Issuer(tmp_path, clock=clock), clock=clock) as bench:
        await bench.session("ses_a", "a")
        made = [await ticket(bench, exp=int(clock.wall_ms() / 1000) + 5) for _ in range(2)]
        clock.now_s += 4
        await bench.status("GET", f"/v1/events?ticket={made[0]}", status=200)
        clock.now_s += 1
        await bench.status("GET", f"/v1/events?ticket={made[1]}", status=401)


async def test_who_gets_a_ticket(acme):
    assert await ticket(acme, "ses_r", 404) == "no_such_session"
    assert await ticket(acme, "ses_no", 404) == "no_such_session"
    assert await ticket(acme, "ses_a", 404, scope="read:b") == "no_such_session"
    assert await ticket(acme, "*", 403, scope="ingest:a") == "forbidden"
    assert await ticket(acme, "", 400) == "bad_body"
    assert await ticket(acme, 5, 400) == "bad_body"
    headers = acme.issuer.bearer(scope="read:*")
    await acme.status("POST", "/v1/tickets", status=415, headers=headers, data="session=*")
    long = {"session": "*", "more": "x" * 5000}
    await acme.status("POST", "/v1/tickets", status=413, headers=headers, json=long)
    await acme.status("POST", "/v1/tickets", status=401, json={"session": "*"})


async def test_the_ticket_of_a_revoked_token_opens_nothing_for_long(acme):
    """The token is revoked between the trade and the use: the connection does not live on."""
    from services.identity.revocation import order_name

    made = await ticket(acme, jti="leaked")
    name = order_name("acme", "leaked")
    await acme.orders.give("revoked", name, "", acme.clock.wall_ms() + 60_000)
    await acme.status("GET", f"/v1/events?ticket={made}", status=401)


async def test_no_log_line_has_a_ticket_or_a_token(acme, caplog):
    caplog.set_level(logging.DEBUG)
    made = await ticket(acme, "ses_a")
    async with acme.reader(headers={}, url=f"{acme.url}?ticket={made}") as reader:
        await reader.ask(type="subscribe", id="1", sessions=["ses_a"])
        (client,) = acme.gateway._clients
        assert made not in repr(vars(client.request)), "what a log line could be made of"
    other = await ticket(acme)
    await acme.status("GET", f"/v1/events?ticket={other}", status=200)
    lines = [r.getMessage() for r in caplog.records if not r.name.startswith("websockets")]
    assert not [line for line in lines if made in line or other in line]


# the store


def principal(name="t1"):
    return Principal("acme", "customer", token_id=name, expires_s=1e12)


def test_the_store_is_bounded_per_token_and_in_all(monkeypatch):
    clock, queues = ManualClock(), Registry()
    store = Tickets(clock)
    with store.registered(queues):
        made = [store.issue(principal(), "*") for _ in range(LARGEST_PER_TOKEN)]
        assert len(set(made)) == LARGEST_PER_TOKEN
        with pytest.raises(TooManyTickets):
            store.issue(principal(), "*")
        store.issue(principal("t2"), "*")
        store.redeem(made[0])
        store.issue(principal(), "*")
        monkeypatch.setattr(tickets, "LARGEST", 65)
        with pytest.raises(TooManyTickets):
            store.issue(principal("t3"), "*")
        (state,) = queues.statistics()
        assert (state.depth, state.dropped) == (65, {"full": 2})
        clock.now_s += LIFE_S
        store.issue(principal("t3"), "*")
        assert queues.statistics()[0].depth == 1


async def test_too_many_tickets_429(acme, monkeypatch):
    monkeypatch.setattr(tickets, "LARGEST_PER_TOKEN", 1)
    assert await ticket(acme, jti="one") != "too_many_tickets"
    assert await ticket(acme, status=429, jti="one") == "too_many_tickets"
    assert await ticket(acme, jti="two") != "too_many_tickets"
