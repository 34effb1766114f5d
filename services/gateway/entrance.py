"""Who asks over HTTP: host, origin, address and token of every request, before anything else.

:func:`install` puts the common rules in front of all addresses of an application; handlers ask
:class:`Entrance` who sent the request and what they may do. Refusals are
:class:`~services.problems.Problem`.
"""

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from services.auth import EVERYTHING, Principal, Unauthorised, bearer, is_loopback
from services.brake import Braked, sender
from services.bus.types import Session
from services.gateway import access
from services.gateway.app import Gateway
from services.gateway.origins import parse
from services.problems import Problem

TICKET: Final = "ticket"
TICKET_KEY: Final[web.RequestKey[str]] = web.RequestKey("ticket", str)
ELSEWHERE: Final = "/whip/"
"""Addresses with origin rules of their own."""
_SHARED: Final = "/v1/"
"""Addresses that pages of the configured origins may read."""
_PREFLIGHT_HEADERS: Final = "Authorization, Content-Type, Last-Event-ID"
_EXPOSED: Final = "Retry-After, X-Request-Id"
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="demeanor"'}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def install(app: web.Application, gateway: Gateway) -> None:
    """Put the rules for addresses, origins and preflights in front of ``app``."""
    entrance = Entrance(gateway)

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        _check_address(request)
        request = _redacted(request)
        if request.path.startswith(ELSEWHERE):
            return await handler(request)
        entrance.check_origin(request)
        preflight = request.method == hdrs.METH_OPTIONS and (
            hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        )
        return _choices(request) if preflight else await handler(request)

    async def share(request: web.Request, response: web.StreamResponse) -> None:
        if not request.path.startswith(_SHARED):
            return
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and gateway.origins.lists(origin):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED

    app.middlewares.append(middleware)
    app.on_response_prepare.append(share)


class Entrance:
    """Tells handlers who sent a request."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def principal(self, request: web.Request) -> Principal:
        """Return who sent a request. Raises :class:`Problem`: 401, 403 (host), 429."""
        self.check_host(request)
        peer = sender(request.remote, request.headers)
        try:
            token = bearer(request.headers)
            return self._gateway.identify(token, request.headers, peer)
        except Unauthorised as error:
            raise Problem(401, "unauthorised", str(error), _CHALLENGE) from error
        except UnicodeError as error:
            raise Problem(401, "unauthorised", "the token is not text", _CHALLENGE) from error
        except Braked as error:
            headers = {"Retry-After": str(error.wait_s)}
            raise Problem(429, "too_many_bad_tokens", str(error), headers) from error

    def reader(self, request: web.Request) -> Principal:
        """Return who wants to read sessions. Raises :class:`Problem`, 403 without any scope."""
        principal = self.principal(request)
        if not access.readable(principal):
            raise Problem(403, "forbidden", access.NO_SCOPE)
        return principal

    def listener(self, request: web.Request, session_id: str = EVERYTHING) -> Principal:
        """Return who wants events of a session or of all: by token, or once by a ticket."""
        ticket = request.get(TICKET_KEY)
        if ticket is None:
            return self.reader(request)
        self.check_host(request)
        try:
            return self._gateway.redeem(ticket, session_id)
        except Unauthorised as error:
            raise Problem(401, "unauthorised", str(error), _CHALLENGE) from error

    def admin(self, request: web.Request) -> Principal:
        """Return who administers a tenant. Raises :class:`Problem` (403) for others."""
        principal = self.principal(request)
        if not principal.may("admin"):
            raise Problem(403, "forbidden", access.ADMIN_ONLY)
        return principal

    def neighbour(self, request: web.Request) -> None:
        """Let in who is on this machine while it is alone, else an admin.

        A request through a proxy, or one that brings a token, is not taken for a neighbour.
        """
        names = {name.lower() for name in request.headers}
        proxied = any(name == "forwarded" or name.startswith("x-forwarded-") for name in names)
        if self._gateway.guard.loopback_only and not proxied and "authorization" not in names:
            self.check_host(request)
        else:
            self.admin(request)

    async def session(self, request: web.Request, principal: Principal) -> Session:
        """Return the session that the address names, if the token reads it.

        Raises :class:`Problem` (404), for unknown and foreign ones alike.
        """
        session = await self.find(principal, request.match_info["session_id"])
        if session is None or not access.reads(principal, session):
            raise no_such_session()
        return session

    async def find(self, principal: Principal, session_id: str) -> Session | None:
        """Return a session of the token's tenant, whatever it reads."""
        await self._gateway.hub.serve(principal.tenant)
        return await self._gateway.hub.find(principal.tenant, session_id)

    def check_host(self, request: web.Request) -> None:
        """Refuse names of others that resolve to this machine (DNS rebinding)."""
        if self._gateway.guard.loopback_only and not is_loopback(hostname(request)):
            raise Problem(403, "bad_host", "address this server as localhost or 127.0.0.1")

    def check_origin(self, request: web.Request) -> None:
        """Refuse pages of others."""
        origin = ", ".join(request.headers.getall(hdrs.ORIGIN, []))
        if not origin or self._own(request, origin):
            return
        if not self._gateway.allows(origin, local_address(request)):
            raise Problem(
                403,
                "origin",
                "pages of this origin may not ask here: start the server with --origins ORIGIN",
            )

    def _own(self, request: web.Request, origin: str) -> bool:
        """Tell whether the page came from the very address that is asked now."""
        return parse(origin) is not None and parse(origin) == parse(
            f"{request.scheme}://{request.host.lower()}"
        )


def no_such_session() -> Problem:
    """Return the answer to the name of a session that cannot be seen."""
    return Problem(
        404, "no_such_session", "this session does not exist or ended more than 2 min ago"
    )


def hostname(request: web.Request) -> str:
    """Return the name under which the server was asked, or nothing."""
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


def local_address(request: web.Request) -> str | None:
    """Return the address of this machine that was reached."""
    bound = request.transport.get_extra_info("sockname") if request.transport else None
    return str(bound[0]) if isinstance(bound, tuple) else None


def _check_address(request: web.Request) -> None:
    if any(name.lower() in access.TOKEN_NAMES for name in request.query):
        raise Problem(
            400,
            "token_in_url",
            "send the token in the Authorization header: addresses end up in logs and histories",
        )


def _redacted(request: web.Request) -> web.Request:
    """Return the request with its ticket beside the address, where nobody can log it."""
    if TICKET not in request.query:
        return request
    ticket = request.query[TICKET]
    kept = request.clone(rel_url=request.rel_url.without_query_params(TICKET))
    kept[TICKET_KEY] = ticket
    return kept


def _choices(request: web.Request) -> web.Response:
    """Answer the question of a browser before the request proper (CORS preflight)."""
    refusal = request.match_info.http_exception
    if not isinstance(refusal, web.HTTPMethodNotAllowed):
        raise refusal or web.HTTPNotFound
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: ", ".join(sorted(refusal.allowed_methods)),
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _PREFLIGHT_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: "600",
        },
    )
