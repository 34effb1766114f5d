"""``POST /v1/sessions/{id}/explain``: have the explain model look at what a session shows now.

The request is a standing order of a few seconds, so whoever owns the session obeys, wherever it
runs; its words come as an ``explanation`` event, unless the model is too busy.
"""

import math
import secrets
from collections import OrderedDict
from typing import Any, Final

import msgspec
from aiohttp import web

from pipeline.errors import BusError
from services.auth import Principal
from services.bus.types import Session
from services.gateway.app import Gateway
from services.gateway.entrance import Entrance
from services.problems import Problem
from services.settings import Settings

STANDS_MS: Final = 10_000
"""An owner that has not obeyed by then would explain another moment."""
TENANTS: Final = 1024
"""Tenants whose budget is remembered; the one that asked longest ago gives way."""
NO_SCOPE: Final = "this token may not ask for explanations: ask for one with the scope 'explain'"
OFF: Final = (
    "no explain model runs here: start the server with --explain DIR --explain-accept "
    "(deploy/explain.md)"
)
BY_ALERTS_ONLY: Final = (
    "only alerts are explained here: start the server with --explain-per-min N to have moments "
    "explained on request"
)
_MINUTE_S: Final = 60.0
_ID_BYTES: Final = 12


class Asked(msgspec.Struct, frozen=True):
    """The request is on its way."""

    request: str
    """Id of the request, for logs of one's own."""


class Budget:
    """So many requests a minute for each tenant: a bucket that fills evenly. Time comes in."""

    def __init__(self, per_min: int) -> None:
        """``per_min``: at least one."""
        self._size = float(per_min)
        self._fills_s = _MINUTE_S / per_min
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tenant → what was left, and when."""

    def wait_s(self, tenant: str, now_s: float) -> int:
        """Spend one request and return 0, or whole seconds to wait until there is one again."""
        left, at_s = self._buckets.get(tenant, (self._size, now_s))
        left = min(self._size, left + (now_s - at_s) / self._fills_s)
        if left < 1.0:
            return max(1, math.ceil((1.0 - left) * self._fills_s))
        self._buckets[tenant] = (left - 1.0, now_s)
        self._buckets.move_to_end(tenant)
        if len(self._buckets) > TENANTS:
            self._buckets.popitem(last=False)
        return 0

    def give_back(self, tenant: str) -> None:
        """Take back the last request of ``tenant``: nothing came of it."""
        if tenant in self._buckets:
            left, at_s = self._buckets[tenant]
            self._buckets[tenant] = (left + 1.0, at_s)


def is_on(settings: Settings) -> bool:
    """Tell whether moments are explained on request in this deployment."""
    return settings.explain is not None and settings.explain_per_min > 0


def routes(app: web.Application, gateway: Gateway) -> None:
    """Add the address to ``app``, whose middleware must be :mod:`services.problems`'s."""
    app.router.add_post("/v1/sessions/{session_id}/explain", _Door(gateway).explain)


class _Door:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._entrance = Entrance(gateway)
        self._budget = Budget(max(1, gateway.settings.explain_per_min))

    async def explain(self, request: web.Request) -> web.Response:
        """Have the present moment of a session explained: 202."""
        principal = self._entrance.principal(request)
        if not principal.may("explain"):
            raise Problem(403, "forbidden", NO_SCOPE)
        session = await self._entrance.session(request, principal)
        self._check_on()
        self._check_live(session)
        self._spend(principal)
        number = f"xpl_{secrets.token_hex(_ID_BYTES)}"
        try:
            await self._order(session, number)
        except (BusError, Problem):
            self._budget.give_back(principal.tenant)
            raise
        return _json(Asked(number))

    def _check_on(self) -> None:
        if is_on(self._gateway.settings):
            return
        why = OFF if self._gateway.settings.explain is None else BY_ALERTS_ONLY
        raise Problem(409, "explain_off", why)

    def _check_live(self, session: Session) -> None:
        if session.state != "live" or self._gateway.hub.directory.is_lost(session.session_id):
            raise Problem(
                409, "not_live", "the session is over: only what it shows now can be explained"
            )

    def _spend(self, principal: Principal) -> None:
        wait_s = self._budget.wait_s(principal.tenant, self._gateway.clock.monotonic_s())
        if wait_s:
            per_min = self._gateway.settings.explain_per_min
            raise Problem(
                429,
                "explain_budget",
                f"{per_min} explanations a minute are all there are: ask again in {wait_s} s",
                {"Retry-After": str(wait_s)},
            )

    async def _order(self, session: Session, number: str) -> None:
        until_ms = self._gateway.clock.wall_ms() + STANDS_MS
        try:
            await self._gateway.orders.give("explain", session.session_id, number, until_ms)
        except BusError as error:
            if error.retryable:
                raise  # 503 bus_away
            raise Problem(503, "orders_full", str(error), {"Retry-After": "60"}) from error


def _json(body: Any) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=202,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
