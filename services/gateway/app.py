"""The gateway: a WebSocket server over the result bus. Composition only."""

import asyncio
import contextlib
import random
import socket as socket_module
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from types import TracebackType
from typing import Any, Protocol, Self

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import NegotiationError
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from pipeline.errors import UsageError
from pipeline.events import PROTOCOL, LoadedModel
from pipeline.policy import Policy
from services.audit import SILENT, Audit
from services.auth import Guard, Principal, Unauthorised, is_loopback
from services.brake import Brake
from services.bus.types import FEED_ITEMS, FeedCounts, ResultBus
from services.clock import Clock
from services.gateway.client import Client
from services.gateway.holders import SWEEP_S, Holders
from services.gateway.hub import Hub
from services.gateway.origins import Origins
from services.gateway.outbox import Outbox
from services.gateway.protocol import MAX_MESSAGE_BYTES, PATH, Closing, Code
from services.gateway.tickets import Tickets
from services.gateway.upgrade import Visitor, look, visitors
from services.orders import Orders
from services.queues import Registry, Rule
from services.settings import Settings
from services.tasks import cancelled

CONNECTIONS = 2000
UNAUTHENTICATED = 200
INBOUND_MESSAGES = 16
"""Messages of one client that wait to be read; more wait in its socket."""
DRAIN_MS = (200, 3000)
_DRAIN_CLIENTS_PER_S = 200
_DRAIN_S = 10.0
_LOOK_S = 0.02
_SEND_BUFFER_BYTES = 1 << 17
"""The kernel's share of a slow client's backlog; what waits here cannot be conflated any more."""
_log = structlog.get_logger(__name__)


_QueueFacts = tuple[str, int, str, Rule, Callable[[], int], Callable[[], Mapping[str, int]]]


class Bus(ResultBus, FeedCounts, Protocol):
    """A bus that counts what it does."""

    def statistics(self) -> dict[str, int]:
        """Return gauges and counters."""


class Gateway:
    """Serves events while open.

    ``async with Gateway(bus, guard=…, clock=…, settings=…) as gateway``. It listens on ``socket``
    when one is given, else on ``settings.ws_port``; entering raises
    :class:`~pipeline.errors.UsageError` when that port is taken. ``model``, ``policy`` and
    ``queues`` are what REST and ``/metrics`` tell (:mod:`services.gateway.http`). ``orders`` are
    the standing ones of this process, ``tls`` makes the socket ``wss://``. Making one raises
    :class:`~pipeline.errors.UsageError` when ``settings.origins`` names something else.
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
        orders: Orders | None = None,
        audit: Audit = SILENT,
        tls: ssl.SSLContext | None = None,
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
        self.orders = Orders(bus, clock) if orders is None else orders
        public = () if settings.public_url is None else (settings.public_url,)
        self.origins = Origins(
            (*settings.origins, *public), host=settings.host, secure=tls is not None
        )
        self.page_ports = self.origins.ports
        """Ports of our own pages, for the ``Origin`` check; :mod:`http` adds what it serves on."""
        self.page_ports.add(settings.http_port)
        self.tickets = Tickets(clock)
        self.brake = Brake()
        self.holders = Holders(guard, self.hub.notices, per_token=settings.connections_per_token)
        self.draining = False
        self._tls = tls
        self._owns_orders = orders is None
        self.audit = audit
        self._socket = socket
        self._events_url = events_url
        self.refused = 0
        self._ended: Counter[Code] = Counter()
        self._clients: dict[ServerConnection, Client] = {}
        self._strangers: set[Client] = set()
        self._streams: set[Outbox] = set()
        self._server: Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as opening:
            if self._owns_orders:
                await opening.enter_async_context(self.orders)
            await opening.enter_async_context(self.hub)
            opening.enter_context(self.tickets.registered(self.queues))
            opening.enter_context(self.brake.registered(self.queues, "gw_brake"))
            self._list_queues(opening)
            opening.callback(self.orders.on_change(self.holders.check_revoked))
            self._sweeper = asyncio.create_task(self._sweep(), name="gateway-sweep")
            self._sweeper.add_done_callback(self._swept)
            opening.push_async_callback(cancelled, self._sweeper)
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
        return f"{self.scheme}://{name}:{self.ws_port}{PATH}"

    @property
    def scheme(self) -> str:
        """``wss`` with TLS of our own, else ``ws``."""
        return "ws" if self._tls is None else "wss"

    def statistics(self) -> dict[str, int]:
        """Return gauges and counters."""
        return {
            "connections": len(self._clients),
            "sse_connections": len(self._streams),
            "refused_connections_total": self.refused,
            "slow_closes_total": self._ended[Code.SLOW_READER],
            "unauthorised_closes_total": self._ended[Code.UNAUTHORISED],
            "rate_limited_closes_total": self._ended[Code.RATE_LIMITED],
            "forbidden_closes_total": self._ended[Code.FORBIDDEN],
            "expired_tokens_total": self.holders.expired,
            "revoked_tokens_total": self.holders.revoked,
            "braked_requests_total": self.brake.braked,
            **self.hub.statistics(),
        }

    def allows(self, origin: str | None, local: str | None = None) -> bool:
        """Tell whether a page of ``origin`` may connect to the address ``local`` of this machine.

        None is what is no page.
        """
        return self.origins.allows(origin, local)

    def identify(self, token: str | None, headers: Mapping[str, str], peer: str) -> Principal:
        """Return who ``token`` stands for.

        Raises :class:`~services.auth.Unauthorised`, and :class:`~services.brake.Braked` unchecked
        when too many tokens of ``peer`` were refused.
        """
        now_s = self.clock.monotonic_s()
        if token:
            self.brake.check(peer, now_s)
        try:
            return self.guard.principal(token, headers)
        except Unauthorised:
            if token:
                self.brake.failed(peer, now_s)
            raise

    def redeem(self, ticket: str, session_id: str | None = None) -> Principal:
        """Return who brings a one-use ticket; ``session_id``: the session that is asked for.

        Raises :class:`~services.auth.Unauthorised`, also when its token has ended meanwhile.
        """
        principal = self.tickets.redeem(ticket, session_id)
        ends_s = principal.expires_s
        over = ends_s is not None and self.clock.wall_ms() >= ends_s * 1000
        if over or self.guard.revoked(principal):
            raise Unauthorised("the token of this ticket has expired or was revoked")
        return principal

    def full(self) -> bool:
        """Tell whether there is no room for another connection."""
        return (
            self.draining
            or len(self._clients) + len(self._streams) >= CONNECTIONS
            or len(self._strangers) >= UNAUTHENTICATED
        )

    @property
    def watching(self) -> bool:
        """Tell whether the sweep runs that ends connections with their tokens."""
        return self._sweeper is not None and not self._sweeper.done()

    def refuse(self) -> None:
        """Count a connection that was turned away."""
        self.refused += 1

    def authenticated(self, client: Client) -> None:
        """The client said who it is."""
        self._strangers.discard(client)

    @contextlib.contextmanager
    def stream(self, principal: Principal) -> Iterator[Outbox]:
        """Give an SSE reader its outbox while it is connected.

        Raises :class:`Closing`: 1013 when the house is full or draining, 4529 when the token has
        too many connections.
        """
        if self.draining or len(self._clients) + len(self._streams) >= CONNECTIONS:
            self.refused += 1
            raise Closing(Code.TRY_LATER, "try_later", "too many readers or draining; come back")
        outbox = Outbox(self.hub.notices, asyncio.get_running_loop().time)
        outbox.tenant = principal.tenant
        holder = self.holders.enter(principal, outbox)
        self._streams.add(outbox)
        try:
            with outbox.registered(self.queues):
                yield outbox
        finally:
            self.holders.leave(holder)
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

    def _list_queues(self, opening: contextlib.AsyncExitStack) -> None:
        """List what can fill up here beside the queues of each reader."""
        for name, bound, unit, rule, depth, dropped in self._queue_facts():
            opening.enter_context(
                self.queues.add(
                    name, bound=bound, unit=unit, rule=rule, depth=depth, dropped=dropped
                )
            )

    def _queue_facts(self) -> tuple[_QueueFacts, ...]:
        clients, bus = self._clients, self.bus
        return (
            (
                "bus_feed",
                FEED_ITEMS,
                "messages",
                "drop_oldest",
                lambda: bus.feed_depth,
                lambda: {"overflow": bus.feed_dropped},
            ),
            (
                "gw_in",
                INBOUND_MESSAGES,
                "messages",
                "block",
                lambda: sum(len(socket.recv_messages.frames) for socket in clients),
                lambda: {"rate_limited": self._ended[Code.RATE_LIMITED]},
            ),
            (
                "connections",
                CONNECTIONS,
                "connections",
                "reject",
                lambda: len(clients) + len(self._streams),
                lambda: {"refused": self.refused},
            ),
        )

    async def settle(self, patience_s: float) -> None:
        """Wait until readers have what the logs hold, or for ``patience_s``; then they may go."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + patience_s
        await self.hub.settle(patience_s)
        while loop.time() < until_s and any(  # noqa: ASYNC110 - many outboxes, and a deadline
            outbox.waiting for outbox in (*self._streams, *self._outboxes())
        ):
            await asyncio.sleep(_LOOK_S)

    def _outboxes(self) -> list[Outbox]:
        return [client.outbox for client in self._clients.values()]

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
                create_connection=visitors(self._crowded),
                ssl=self._tls,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                max_queue=INBOUND_MESSAGES,
                ping_interval=None,  # the client's own: it tells a slow reader so (4508)
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
        if not isinstance(connection, Visitor):
            raise TypeError("the server makes visitors only")
        return look(self, connection, request)

    def _crowded(self) -> bool:
        """Tell whether more sockets are open than can ever be readers."""
        return (
            self._server is not None
            and len(self._server.handler_tasks) > CONNECTIONS + UNAUTHENTICATED
        )

    async def _sweep(self) -> None:
        while True:
            self.holders.sweep(self.clock.wall_ms())
            await asyncio.sleep(SWEEP_S)

    def _swept(self, task: asyncio.Task[None]) -> None:
        """Let nobody in any more when the sweep has ended: tokens would never end."""
        if not task.cancelled():
            self.draining = True
            error = task.exception()
            _log.error("the gateway does not watch its tokens any more", exc_info=error)

    async def _serve(self, connection: ServerConnection) -> None:
        connection.transport.get_extra_info("socket").setsockopt(
            socket_module.SOL_SOCKET, socket_module.SO_SNDBUF, _SEND_BUFFER_BYTES
        )
        if not isinstance(connection, Visitor):
            raise TypeError("the server makes visitors only")
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
