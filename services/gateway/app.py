"""The gateway: a WebSocket server over the result bus. Composition only."""

import asyncio
import contextlib
import random
import socket as socket_module
from collections import Counter
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from importlib import metadata
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import NegotiationError
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from pipeline.errors import UsageError
from pipeline.events import PROTOCOL, LoadedModel
from pipeline.policy import Policy
from services.auth import Guard, is_loopback
from services.bus.types import ResultBus
from services.clock import Clock
from services.gateway.client import Client
from services.gateway.hub import Hub
from services.gateway.outbox import Outbox
from services.gateway.protocol import MAX_MESSAGE_BYTES, PATH, Closing, Code
from services.queues import Registry
from services.settings import Settings

CONNECTIONS = 2000
UNAUTHENTICATED = 200
PING_S = 20.0
DRAIN_MS = (200, 3000)
_DRAIN_CLIENTS_PER_S = 200
_DRAIN_S = 10.0
_SEND_BUFFER_BYTES = 1 << 17
"""The kernel's share of a slow client's backlog; what waits here cannot be conflated any more."""


class Bus(ResultBus, Protocol):
    """A bus that counts what it does."""

    def statistics(self) -> dict[str, int]:
        """Return gauges and counters."""


class Gateway:
    """Serves events while open.

    ``async with Gateway(bus, guard=…, clock=…, settings=…) as gateway``. It listens on ``socket``
    when one is given, else on ``settings.ws_port``; entering raises
    :class:`~pipeline.errors.UsageError` when that port is taken. ``model``, ``policy`` and
    ``queues`` are what REST and ``/metrics`` tell (:mod:`services.gateway.http`).
    """

    def __init__(
        self,
        bus: Bus,
        *,
        guard: Guard,
        clock: Clock,
        settings: Settings,
        socket: socket_module.socket | None = None,
        events_url: str | None = None,
        model: LoadedModel | None = None,
        policy: Policy | None = None,
        queues: Registry | None = None,
    ) -> None:
        self.bus = bus
        self.guard = guard
        self.clock = clock
        self.settings = settings
        self.model = model
        self.policy = policy
        self.queues = Registry() if queues is None else queues
        self.hub = Hub(bus, clock, self.queues)
        self.version = metadata.version("demeanor")
        self.page_ports = {settings.http_port}
        """Ports of our own pages, for the ``Origin`` check; :mod:`http` adds what it serves on."""
        self.draining = False
        self._socket = socket
        self._events_url = events_url
        self.refused = 0
        self._ended: Counter[Code] = Counter()
        self._clients: dict[ServerConnection, Client] = {}
        self._strangers: set[Client] = set()
        self._streams: set[Outbox] = set()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as opening:
            await opening.enter_async_context(self.hub)
            await self._listen()
            self._opened = opening.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain()
        if self._server is not None:
            self._server.close(close_connections=False)
            await self._server.wait_closed()
        await self._opened.aclose()

    @property
    def ws_port(self) -> int:
        """The port it listens on."""
        if self._server is None:
            raise RuntimeError("the gateway is not open")
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def events_url(self) -> str:
        """Where clients connect."""
        if self._events_url is not None:
            return self._events_url
        host = self.settings.host
        name = "localhost" if is_loopback(host) else host
        return f"ws://{name}:{self.ws_port}{PATH}"

    def statistics(self) -> dict[str, int]:
        """Return gauges and counters."""
        return {
            "connections": len(self._clients),
            "sse_connections": len(self._streams),
            "refused_connections_total": self.refused,
            "slow_closes_total": self._ended[Code.SLOW_READER],
            "unauthorised_closes_total": self._ended[Code.UNAUTHORISED],
            "rate_limited_closes_total": self._ended[Code.RATE_LIMITED],
            **self.hub.statistics(),
        }

    def allows(self, origin: str | None) -> bool:
        """Tell whether a page of ``origin`` may connect: our own pages, and what is no page."""
        if origin is None:
            return True
        parts = urlsplit(origin)
        try:
            port = parts.port
        except ValueError:
            return False
        own = parts.hostname is not None and (
            is_loopback(parts.hostname) or parts.hostname == self.settings.host
        )
        return own and parts.scheme == "http" and (port or 80) in self.page_ports

    def authenticated(self, client: Client) -> None:
        """The client said who it is."""
        self._strangers.discard(client)

    @contextlib.contextmanager
    def stream(self) -> Iterator[Outbox]:
        """Give an SSE reader its outbox while it is connected.

        Raises :class:`Closing` (1013) when the house is full or draining.
        """
        if self.draining or len(self._clients) + len(self._streams) >= CONNECTIONS:
            self.refused += 1
            raise Closing(Code.TRY_LATER, "try_later", "too many readers or draining; come back")
        outbox = Outbox(self.hub.notices, asyncio.get_running_loop().time)
        self._streams.add(outbox)
        try:
            with outbox.registered(self.queues):
                yield outbox
        finally:
            self._streams.discard(outbox)
            outbox.leave_all()

    async def drain(self, *, moved: bool = False) -> None:
        """Send everybody away: a ``drain`` message, then 1001 (``moved``: 4503, at once).

        New connections are refused with 503. Spread over ten seconds at most.
        """
        self.draining = True
        for outbox in self._streams:
            outbox.close(Code.DRAINING, "draining", "the server drains")
        clients = list(self._clients.values())
        for client in clients:
            client.drain(0 if moved else random.randint(*DRAIN_MS))  # noqa: S311 - spreads load
        pause_s = min(_DRAIN_S, len(clients) / _DRAIN_CLIENTS_PER_S) / max(1, len(clients))
        code, reason = (
            (Code.MOVED, "connect again") if moved else (Code.DRAINING, "the server drains")
        )
        async with asyncio.TaskGroup() as closing:
            for client in clients:
                closing.create_task(client.close(code, reason))
                await asyncio.sleep(pause_s)

    async def _listen(self) -> None:
        where: dict[str, Any] = (
            {"host": self.settings.host, "port": self.settings.ws_port}
            if self._socket is None
            else {"sock": self._socket}
        )
        try:
            self._server = await serve(
                self._serve,
                **where,
                select_subprotocol=_subprotocol,
                process_request=self._request,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=16,
                ping_interval=PING_S,
                ping_timeout=PING_S,
                close_timeout=2,
                open_timeout=5,
                server_header=None,
            )
        except OSError as error:
            raise UsageError(
                f"cannot listen on {self.settings.host} port {self.settings.ws_port} "
                f"({error.strerror}): choose another with --ws-port or DEMEANOR_WS_PORT"
            ) from error

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        if urlsplit(request.path).path != PATH:
            return connection.respond(HTTPStatus.NOT_FOUND, f"events are at {PATH}\n")
        full = len(self._clients) >= CONNECTIONS or len(self._strangers) >= UNAUTHENTICATED
        if self.draining or full:
            self.refused += 1
            response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "try again later\n")
            response.headers["Retry-After"] = "3"
            return response
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        connection.transport.get_extra_info("socket").setsockopt(
            socket_module.SOL_SOCKET, socket_module.SO_SNDBUF, _SEND_BUFFER_BYTES
        )
        client = Client(connection, self)
        self._clients[connection] = client
        self._strangers.add(client)
        try:
            with client.outbox.registered(self.queues):
                await client.run()
        finally:
            self._strangers.discard(client)
            del self._clients[connection]
            if client.ended_with is not None:
                self._ended[client.ended_with] += 1


def _subprotocol(
    connection: ServerConnection,  # noqa: ARG001 - signature of the hook
    offered: Sequence[Subprotocol],
) -> Subprotocol | None:
    """Take ours; none offered means ours too, unknown ones alone are refused with 400."""
    if not offered:
        return None
    if PROTOCOL in offered:
        return Subprotocol(PROTOCOL)
    raise NegotiationError(f"this server speaks {PROTOCOL} only")
