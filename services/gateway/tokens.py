"""``POST /v1/tickets`` and ``POST /v1/revocations``: less than a token, and the end of one."""

from typing import Annotated, Any, Final

import msgspec
from aiohttp import web

from pipeline.errors import BusError
from services.auth import EVERYTHING
from services.gateway import access, bodies
from services.gateway.app import Gateway
from services.gateway.entrance import Entrance, no_such_session
from services.gateway.protocol import SessionId
from services.gateway.tickets import LIFE_S, TooManyTickets
from services.identity.revocation import order_name
from services.problems import Problem

LONGEST_MS: Final = 25 * 3_600_000
"""How far ahead a revocation may stand: longer than any token lives."""
TokenId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:~-]{1,128}$")]


class TicketRequest(msgspec.Struct, frozen=True):
    """What the ticket is for."""

    session: SessionId
    """Id of a session; ``*``: all that the token reads."""


class Ticket(msgspec.Struct, frozen=True):
    """Goes into the address of an event stream as ``?ticket=``; works once."""

    ticket: str
    expires_in_ms: int


class Revocation(msgspec.Struct, frozen=True):
    """Which token ends now."""

    jti: TokenId
    """The token's claim ``jti``."""
    expires_ms: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    """Unix ms of the token's own end (claim ``exp``); the revocation stands until then."""


def routes(app: web.Application, gateway: Gateway) -> None:
    """Add both addresses to ``app``, whose middleware must be :mod:`services.problems`'s."""
    door = _Door(gateway)
    app.router.add_post("/v1/tickets", door.ticket)
    app.router.add_post("/v1/revocations", door.revoke)


class _Door:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._entrance = Entrance(gateway)

    async def ticket(self, request: web.Request) -> web.Response:
        """Give a ticket for events of one session or of all: 201."""
        principal = self._entrance.reader(request)
        wanted = (await bodies.read(request, TicketRequest)).session
        if wanted != EVERYTHING:
            session = await self._entrance.find(principal, wanted)
            if session is None or not access.reads(principal, session):
                raise no_such_session()
        try:
            ticket = self._gateway.tickets.issue(principal, wanted)
        except TooManyTickets as error:
            headers = {"Retry-After": f"{LIFE_S:.0f}"}
            raise Problem(429, "too_many_tickets", str(error), headers) from error
        return _json(Ticket(ticket, round(LIFE_S * 1000)), 201)

    async def revoke(self, request: web.Request) -> web.Response:
        """End a token of the admin's own tenant everywhere: 204."""
        principal = self._entrance.admin(request)
        order = await bodies.read(request, Revocation)
        left_ms = order.expires_ms - self._gateway.clock.wall_ms()
        if not 0 < left_ms <= LONGEST_MS:
            raise Problem(
                400,
                "bad_expiry",
                "expires_ms must be the token's own 'exp' in unix milliseconds: ahead of now by "
                f"at most {LONGEST_MS // 3_600_000} hours",
            )
        name = order_name(principal.tenant, order.jti)
        try:
            await self._gateway.orders.give("revoked", name, "", order.expires_ms)
        except BusError as error:
            if error.retryable:
                raise
            raise Problem(503, "orders_full", str(error), {"Retry-After": "60"}) from error
        self._gateway.audit.note("revoked", principal, jti=order.jti)
        return web.Response(status=204)


def _json(body: Any, status: int) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )
