"""Health and drain as orchestrators ask for them."""

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from services import problems
from services.auth import Principal
from services.gateway import health
from services.gateway.health import DEAD_LAG_S, LARGEST_SOFT_S, Drained, Vitals
from services.problems import Problem


class House:
    """The rest of the process, as a test wants it."""

    def __init__(self):
        self.lag_s = 0.0
        self.scorer = "ok"
        self.drains = []
        self.who = Principal(tenant="default", role="self")

    def vitals(self, *, drains=True):
        return Vitals(
            lag_s=lambda: self.lag_s,
            checks={"scorer": lambda: self.scorer},
            told=lambda: {"degraded": "full"},
            drain=self._drain if drains else None,
        )

    def identify(self, request):
        if "Authorization" not in request.headers:
            raise Problem(401, "unauthorised", "send a token")
        return self.who

    def _drain(self, soft_s):
        self.drains.append(soft_s)
        return Drained(draining=True, soft_s=soft_s or 0, live=2)


@pytest.fixture
def house():
    return House()


@pytest.fixture
async def door(bench, house):
    async with serving(bench, house) as client:
        yield client


def serving(bench, house, **vitals):
    app = web.Application(middlewares=[problems.middleware])
    health.routes(app, bench.gateway, house.vitals(**vitals), house.identify)
    return TestClient(TestServer(app), headers={"Authorization": "Bearer x"})


async def asked(door, path, method="GET", **options):
    async with door.request(method, path, **options) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text.startswith("{") else text


async def test_alive_is_about_the_loop_and_nothing_else(bench, house, door):
    house.scorer = "the scorer hangs"
    with bench.bus.outage():
        assert await asked(door, "/livez") == (200, "ok\n")
        await bench.gateway.drain()
        assert await asked(door, "/livez") == (200, "ok\n")
    house.lag_s = DEAD_LAG_S
    assert (await asked(door, "/livez"))[0] == 503


async def test_ready_says_what_is_wrong_and_what_is_given_up(bench, house, door):
    status, told = await asked(door, "/readyz")
    assert (status, told["ready"], told["degraded"]) == (200, True, "full")
    assert set(told["checks"].values()) == {"ok"}
    house.scorer = "the scorer hangs"
    status, told = await asked(door, "/readyz")
    assert (status, told["ready"]) == (503, False)
    assert told["checks"]["scorer"] == "the scorer hangs"


async def test_a_dead_task_of_the_hub_is_told(bench, door):
    bench.gateway.hub._tasks[0].cancel()
    while bench.gateway.hub.running:
        await asyncio.sleep(0)
    status, told = await asked(door, "/readyz")
    assert status == 503
    assert "hub" in told["checks"]["hub"]


@pytest.mark.parametrize(
    ("body", "soft_s"),
    [(b"", None), (b"{}", None), (b'{"soft_s": 30}', 30), (b'{"soft_s": 0}', 0)],
)
async def test_an_admin_may_drain(house, door, body, soft_s):
    status, told = await asked(door, "/v1/drain", "POST", data=body)
    assert (status, told["draining"], told["live"]) == (202, True, 2)
    assert house.drains == [soft_s]


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"[]",
        b'{"soft_s": -1}',
        b'{"soft_s": 1.5}',
        b'{"soft_s": "1"}',
        b'{"soft": 1}',
        b'{"soft_s": %d}' % (LARGEST_SOFT_S + 1),
        b"\xff",
    ],
)
async def test_what_is_no_wish(house, door, body):
    status, told = await asked(door, "/v1/drain", "POST", data=body)
    assert (status, told["code"]) == (400, "bad_body")
    assert house.drains == []


async def test_nobody_else_may_drain(house, door):
    house.who = Principal(tenant="default", role="self", rights=frozenset())
    status, told = await asked(door, "/v1/drain", "POST")
    assert (status, told["code"]) == (403, "forbidden")
    assert (await asked(door, "/v1/drain", "POST", data=b"x" * 2000))[0] == 403
    house.who = Principal(tenant="acme", role="self")  # an administrator, of one tenant only
    status, told = await asked(door, "/v1/drain", "POST")
    assert (status, "all tenants" in told["detail"]) == (403, True)
    house.who = Principal(tenant="default", role="self")
    assert (await asked(door, "/v1/drain", "POST", data=b"x" * 2000))[0] == 413
    assert house.drains == []


async def test_a_gateway_alone_is_drained_by_signal_only(bench, house):
    async with serving(bench, house, drains=False) as door:
        status, told = await asked(door, "/v1/drain", "POST")
        assert (status, told["code"]) == (404, "not_found")
