"""``POST /v1/sessions/{id}/explain``: who may ask, how often, and the order it becomes."""

from pathlib import Path

import pytest

from services.auth import EVERYTHING
from services.gateway import explaining
from services.gateway.explaining import STANDS_MS, Budget, is_on
from services.settings import Settings
from tests.services.events import ended
from tests.services.gateway.trust import StreamKey, trusted
from tests.services.identity.tokens import Issuer, ManualClock

FOLDER = Path("/a/model")
BOTH = "read:* explain"


async def ask(bench, session="ses_a", status=202, **claims):
    headers = bench.issuer.bearer(**({"scope": BOTH} | claims))
    path = f"/v1/sessions/{session}/explain"
    return await bench.status("POST", path, status=status, headers=headers)


async def test_a_request_becomes_an_order_of_ten_seconds(tmp_path):
    clock = ManualClock()
    async with trusted(Issuer(tmp_path, clock=clock), clock=clock, explain=FOLDER) as bench:
        await bench.session("ses_a", "a")
        first = (await ask(bench))["request"]
        assert first.startswith("xpl_")
        (order,) = await bench.bus.orders(clock.wall_ms())
        assert (order.kind, order.name, order.value) == ("explain", "ses_a", first)
        assert order.expires_ms == clock.wall_ms() + STANDS_MS
        second = (await ask(bench))["request"]
        assert second != first
        assert bench.orders.value("explain", "ses_a") == second, "the newest stands"
        clock.now_s += STANDS_MS / 1000
        assert bench.orders.value("explain", "ses_a") is None


@pytest.mark.parametrize(
    ("session", "scope", "status", "code"),
    [
        ("ses_a", "read:*", 403, "forbidden"),
        ("ses_a", "admin", 403, "forbidden"),
        ("ses_a", "explain", 404, "no_such_session"),
        ("ses_a", "explain read:b", 404, "no_such_session"),
        ("ses_r", BOTH, 404, "no_such_session"),
        ("ses_nobody", BOTH, 404, "no_such_session"),
    ],
)
async def test_who_may_not_ask(issuer, session, scope, status, code):
    async with trusted(issuer, explain=FOLDER) as bench:
        await bench.session("ses_a", "a")
        await bench.session("ses_r", "a", "rival")
        assert (await ask(bench, session, status, scope=scope))["code"] == code
        assert not await bench.bus.orders(bench.clock.wall_ms())


async def test_where_the_tier_is_off_it_says_how_to_turn_it_on(acme, issuer):
    problem = await ask(acme, status=409)
    assert problem["code"] == "explain_off"
    assert "--explain DIR --explain-accept" in problem["detail"]
    async with trusted(issuer, explain=FOLDER, explain_per_min=0) as bench:
        await bench.session("ses_a", "a")
        problem = await ask(bench, status=409)
    assert problem["code"] == "explain_off"
    assert "--explain-per-min" in problem["detail"]


async def test_a_session_that_is_over_is_not_explained(issuer):
    async with trusted(issuer, explain=FOLDER) as bench:
        await bench.session("ses_a", "a")
        await bench.publish(ended(1, "ses_a"), key=StreamKey("acme", "a"))
        await bench.announce("ses_a", stream="a", tenant="acme", state="ended")
        assert (await ask(bench, status=409))["code"] == "not_live"


async def test_each_tenant_has_a_budget_and_is_told_when_to_come_back(tmp_path):
    clock = ManualClock()
    issuer = Issuer(tmp_path, clock=clock)
    async with trusted(issuer, clock=clock, explain=FOLDER, explain_per_min=2) as bench:
        await bench.session("ses_a", "a")
        await bench.session("ses_r", "a", "rival")
        await ask(bench)
        await ask(bench)
        async with bench.door.post(
            "/v1/sessions/ses_a/explain", headers=issuer.bearer(scope=BOTH)
        ) as answer:
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "30"
            assert (await answer.json(content_type=None))["code"] == "explain_budget"
        await ask(bench, "ses_r", tenant="rival")
        clock.now_s += 30
        await ask(bench)


async def test_a_bus_that_is_away_costs_nothing(issuer):
    async with trusted(issuer, explain=FOLDER, explain_per_min=1) as bench:
        await bench.session("ses_a", "a")
        await bench.status("GET", "/v1/sessions/ses_a", status=200, headers=issuer.bearer())
        with bench.bus.outage():
            assert (await ask(bench, status=503))["code"] == "bus_away"
        await ask(bench)


async def test_too_many_orders_503(issuer, monkeypatch):
    monkeypatch.setattr("services.orders.LARGEST", 0)
    async with trusted(issuer, explain=FOLDER) as bench:
        await bench.session("ses_a", "a")
        assert (await ask(bench, status=503))["code"] == "orders_full"


async def test_the_page_is_told_whether_it_may_offer_it(acme, issuer):
    async with trusted(issuer, explain=FOLDER) as bench:
        told = await bench.status("GET", "/v1/config", status=200, headers={"Host": "localhost"})
        assert told["explain"] is True
    told = await acme.status("GET", "/v1/config", status=200, headers={"Host": "localhost"})
    assert told["explain"] is False
    assert not is_on(Settings(explain=FOLDER, explain_per_min=0))


# the budget


def test_a_bucket_fills_evenly_and_no_further_than_its_size():
    budget = Budget(3)
    assert [budget.wait_s(EVERYTHING, 0.0) for _ in range(4)] == [0, 0, 0, 20]
    assert budget.wait_s(EVERYTHING, 19.5) == 1
    assert budget.wait_s(EVERYTHING, 20.0) == 0
    assert budget.wait_s(EVERYTHING, 20.0) == 20
    assert [budget.wait_s(EVERYTHING, 9000.0) for _ in range(4)] == [0, 0, 0, 20]


def test_what_came_to_nothing_is_given_back():
    budget = Budget(1)
    assert budget.wait_s("a", 0.0) == 0
    budget.give_back("a")
    assert budget.wait_s("a", 0.0) == 0
    budget.give_back("nobody")
    assert budget.wait_s("a", 0.0) == 60


def test_tenants_are_remembered_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(explaining, "TENANTS", 2)
    budget = Budget(1)
    for tenant in "abc":
        budget.wait_s(tenant, 0.0)
    assert len(budget._buckets) == 2
    assert budget.wait_s("c", 0.0) == 60
