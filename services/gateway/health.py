"""``/livez``, ``/readyz`` and ``POST /v1/drain``: for whoever starts, feeds and ends processes.

``/livez`` knows the event loop and nothing else, so that an outage of the bus restarts nobody.
``/readyz`` says with reasons whether this process should get traffic.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from pipeline.errors import BusError
from services.auth import Principal
from services.gateway.access import ADMIN_ONLY
from services.gateway.app import Gateway
from services.policing import OPERATOR
from services.problems import Problem

PING_LIMIT_S = 0.5
DEAD_LAG_S = 5.0
"""An event loop that is later than this does nobody any good."""
LARGEST_SOFT_S = 86_400
LARGEST_BODY_BYTES = 1024
OK = "ok"


class Drained(msgspec.Struct, frozen=True):
    """Answer to ``POST /v1/drain``."""

    draining: bool
    soft_s: int
    """How long running sessions may end by themselves."""
    live: int
    """Streams that are live now."""


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/drain``; may be left out."""

    soft_s: int | None = None


@dataclass(frozen=True, slots=True)
class Vitals:
    """What health asks of the rest of the process; a gateway alone has nothing more to tell."""

    lag_s: Callable[[], float] = lambda: 0.0
    """How late the event loop is right now."""
    checks: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    """By name: ``ok``, or why this process should get no traffic."""
    told: Callable[[], Mapping[str, Any]] = dict
    """Figures that stand beside the checks."""
    drain: Callable[[int | None], Drained] | None = None
    """Begins to end this process; None where it cannot be asked to."""


def routes(
    app: web.Application,
    gateway: Gateway,
    vitals: Vitals,
    who: Callable[[web.Request], Principal],
) -> None:
    """Add all three to ``app``; ``who`` returns whose request it is or raises ``Problem``."""
    door = _Door(gateway, vitals, who)
    app.router.add_get("/livez", door.livez)
    app.router.add_get("/readyz", door.readyz)
    app.router.add_post("/v1/drain", door.drain)


class _Door:
    def __init__(
        self, gateway: Gateway, vitals: Vitals, who: Callable[[web.Request], Principal]
    ) -> None:
        self._gateway = gateway
        self._vitals = vitals
        self._who = who

    async def livez(self, request: web.Request) -> web.Response:
        """The event loop runs: nothing else."""
        del request
        if self._vitals.lag_s() >= DEAD_LAG_S:
            return web.Response(text="the event loop is stuck\n", status=503)
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Whether this process should get traffic, with reasons."""
        del request
        checks = {
            "draining": "draining" if self._gateway.draining else OK,
            "hub": OK if self._gateway.hub.running else "a task of the hub has ended",
            "bus": await self._bus(),
            **{name: check() for name, check in self._vitals.checks.items()},
        }
        ready = all(state == OK for state in checks.values())
        return _json({"ready": ready, "checks": checks, **self._vitals.told()}, ready)

    async def drain(self, request: web.Request) -> web.Response:
        """Take no new streams, let the running ones end, then end the process: 202."""
        principal = self._who(request)
        if not principal.may("admin"):
            raise Problem(403, "forbidden", ADMIN_ONLY)
        if principal.tenant != OPERATOR:
            raise Problem(
                403,
                "forbidden",
                f"only an administrator of the tenant '{OPERATOR}' may end a server of all tenants",
            )
        if self._vitals.drain is None:
            raise Problem(404, "not_found", "this process cannot be drained from outside")
        return _json(self._vitals.drain(await _wish(request)), good=True, status=202)

    async def _bus(self) -> str:
        try:
            async with asyncio.timeout(PING_LIMIT_S):
                await self._gateway.bus.ping()
        except (BusError, TimeoutError):
            return "the bus does not answer"
        return OK


async def _wish(request: web.Request) -> int | None:
    """Return ``soft_s`` of the body, None where nothing is said."""
    if (request.content_length or 0) > LARGEST_BODY_BYTES:
        raise Problem(413, "body_too_large", 'send nothing, or {"soft_s": SECONDS}')
    body = await request.content.read(LARGEST_BODY_BYTES)
    try:
        soft_s = msgspec.json.decode(body, type=Wish).soft_s if body else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Problem(400, "bad_body", 'send nothing, or {"soft_s": SECONDS}') from None
    if soft_s is not None and not 0 <= soft_s <= LARGEST_SOFT_S:
        raise Problem(400, "bad_body", f"soft_s is a whole number from 0 to {LARGEST_SOFT_S}")
    return soft_s


def _json(body: Any, good: bool, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status if good else 503,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
