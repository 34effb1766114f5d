"""What is looked at before a connection becomes a WebSocket: address, room, and who comes.

A token in the header or a ticket in the address is checked here, so that what costs memory is given
to known people first. What browsers must be able to read, a close code, is left to the connection.
"""

import asyncio
import math
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from services.auth import Guard, Principal, Unauthorised, bearer, is_loopback
from services.brake import Braked, sender
from services.gateway.access import TOKEN_NAMES
from services.gateway.holders import Holders
from services.gateway.protocol import PATH, Closing, Code

TICKET = "ticket"
_RETRY_S = 3


class Visited(Protocol):
    """What the door needs of the gateway."""

    guard: Guard
    holders: Holders

    def identify(self, token: str | None, headers: dict[str, str], peer: str) -> Principal:
        """Return who a token stands for."""

    def redeem(self, ticket: str) -> Principal:
        """Return who brings a ticket."""

    def full(self) -> bool:
        """Tell whether there is no room for another connection."""

    def refuse(self) -> None:
        """Count a connection that was turned away."""


class Visitor(ServerConnection):
    """A connection and what is known of it before it is open."""

    principal: Principal | None = None
    """Who came, when a header or a ticket told so."""
    fault: Closing | None = None
    """Why it must close as soon as it is open."""
    headers: dict[str, str]

    def __init__(self, *arguments: Any, crowded: Callable[[], bool], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.headers = {}
        self._crowded = crowded

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, unless too many have not even sent a request yet."""
        super().connection_made(transport)
        if self._crowded():
            self.transport.abort()

    @property
    def peer(self) -> str:
        """Who sends, for the brake."""
        address = self.remote_address
        return sender(address[0] if isinstance(address, tuple) else None, self.headers)

    @property
    def local(self) -> str | None:
        """The address of this machine that was reached."""
        address = self.local_address
        return address[0] if isinstance(address, tuple) else None


def visitors(crowded: Callable[[], bool]) -> type[ServerConnection]:
    """Return what makes connections; ``crowded`` tells when to drop one at once."""
    return cast("type[ServerConnection]", partial(Visitor, crowded=crowded))


def look(gateway: Visited, visitor: Visitor, request: Request) -> Response | None:
    """Return the answer to who may not even connect; None lets the handshake go on."""
    path, _, text = request.path.partition("?")
    if path != PATH:
        return visitor.respond(HTTPStatus.NOT_FOUND, f"events are at {PATH}\n")
    query = parse_qsl(text, keep_blank_values=True)
    request.path = PATH  # a ticket or a token must not stand where somebody could log it
    if any(name.lower() in TOKEN_NAMES for name, _ in query):
        text = "send the token in the Authorization header or as 'auth', never in the address\n"
        return visitor.respond(HTTPStatus.BAD_REQUEST, text)
    if gateway.guard.loopback_only and not _addressed_here(request):
        text = "address this server as localhost or 127.0.0.1\n"
        return visitor.respond(HTTPStatus.FORBIDDEN, text)
    if gateway.full():
        gateway.refuse()
        return _wait(visitor, HTTPStatus.SERVICE_UNAVAILABLE, "try again later", _RETRY_S)
    visitor.headers = dict(request.headers.raw_items())
    try:
        _identify(gateway, visitor, next((v for name, v in query if name == TICKET), None))
    except Braked as error:
        gateway.refuse()
        return _wait(visitor, HTTPStatus.TOO_MANY_REQUESTS, str(error), error.wait_s)
    except Unauthorised as error:
        visitor.fault = Closing(Code.UNAUTHORISED, "unauthorised", str(error))
    except Closing as closing:
        gateway.refuse()
        wait_s = math.ceil((closing.retry_after_ms or 0) / 1000)
        return _wait(visitor, HTTPStatus.TOO_MANY_REQUESTS, closing.reason, wait_s)
    return None


def _identify(gateway: Visited, visitor: Visitor, ticket: str | None) -> None:
    token = bearer(visitor.headers)
    if ticket is not None:
        visitor.principal = gateway.redeem(ticket)
    elif token is not None:
        visitor.principal = gateway.identify(token, visitor.headers, visitor.peer)
    if visitor.principal is not None:
        gateway.holders.check(visitor.principal)


def _addressed_here(request: Request) -> bool:
    """Tell whether the request names this machine (DNS rebinding names another)."""
    hosts = request.headers.get_all("Host")
    try:
        return len(hosts) == 1 and is_loopback(urlsplit(f"//{hosts[0]}").hostname or "")
    except ValueError:
        return False


def _wait(visitor: Visitor, status: HTTPStatus, text: str, wait_s: int) -> Response:
    response = visitor.respond(status, f"{text}\n")
    response.headers["Retry-After"] = str(wait_s)
    return response
