"""One WebSocket client: who it is, what it asked for, and the two loops that serve it."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from pipeline.errors import BusError
from services.audit import Audit
from services.auth import Guard, Principal, Unauthorised
from services.brake import Braked
from services.clock import Clock
from services.gateway import protocol
from services.gateway.feed import Entry, text_frame
from services.gateway.holders import Holder, Holders
from services.gateway.hub import Hub
from services.gateway.outbox import Outbox
from services.gateway.protocol import Closing, Code
from services.gateway.requests import Requests
from services.gateway.upgrade import Visitor
from services.tasks import cancelled

AUTH_S = 5.0
SEND_S = 5.0
"""A client that takes nothing for this long is closed (4508)."""
CLOSE_S = 2.0
PING_S = 20.0
"""How often a ping is sent, and how long its answer may take."""
_WRITE_BYTES = 1 << 16
_REASON_BYTES = 120
"""A close frame has room for 123 (RFC 6455 §5.5)."""
_TRY_LATER = "the bus is away for the moment; come back in a few seconds"
_FOREIGN_PAGE = (
    "pages of this origin may not read events here: start the server with --origins ORIGIN"
)
_HEADER_NEEDED = "programs send the token in the header 'Authorization: Bearer TOKEN'"


class Rate:
    """A token bucket: :data:`~protocol.MESSAGES_PER_S`, and as many again before the end."""

    def __init__(self, now_s: float, per_s: int = protocol.MESSAGES_PER_S) -> None:
        self._per_s = per_s
        self._left = float(per_s)
        self._last_s = now_s

    def spend(self, now_s: float) -> float:
        """Take one message; returns what is left, negative when too many came."""
        self._left = min(self._per_s, self._left + (now_s - self._last_s) * self._per_s)
        self._last_s = now_s
        self._left -= 1
        return self._left


class Context(Protocol):
    """What a client needs of the gateway."""

    hub: Hub
    guard: Guard
    clock: Clock
    audit: Audit
    holders: Holders
    version: str

    def allows(self, origin: str | None, local: str | None) -> bool:
        """Tell whether a page of this origin may connect to this address."""

    def identify(self, token: str | None, headers: Mapping[str, str], peer: str) -> Principal:
        """Return who a token stands for."""

    def authenticated(self, client: "Client") -> None:
        """The client said who it is."""


class Client:
    """Serves one open connection until it ends; a client's faults end it and raise nothing."""

    def __init__(self, socket: Visitor, context: Context) -> None:
        self._socket = socket
        self._context = context
        self._hub = context.hub
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox(self._hub.notices, self._loop.time)
        self._rate = Rate(self._loop.time())
        self._holder: Holder | None = None
        self.ended_with: Code | None = None
        """Why we ended the connection."""
        self._pumping = False
        self._idle = False
        """The sender task waits, so nothing of its own can be overtaken."""
        self._requests: Requests | None = None

    async def run(self) -> None:
        """Greet, authenticate, serve."""
        sender: asyncio.Task[None] | None = None
        pulse: asyncio.Task[None] | None = None
        self.outbox.on_ready = self._ready
        try:
            self._check_origin()
            if self._socket.fault is not None:
                raise self._socket.fault
            await self._greet()
            await self._authenticate()
            sender = asyncio.create_task(self._send_all(), name="client-sender")
            pulse = asyncio.create_task(self._feel_pulse(), name="client-pulse")
            await self._receive_all()
        except Closing as closing:
            await self._end(closing)
        except BusError:
            await self._end(Closing(Code.TRY_LATER, "bus_away", _TRY_LATER, retry_after_ms=2000))
        except ConnectionClosed:
            pass
        finally:
            self._leave()
            await cancelled(sender, pulse)

    def drain(self, reconnect_after_ms: int) -> None:
        """Tell the client that the server goes away."""
        self.outbox.answer(protocol.encode(protocol.Drain(reconnect_after_ms)))

    async def close(self, code: Code, reason: str) -> None:
        """Say what is left to say, then end the connection."""
        if self._socket.state is State.OPEN:
            frames = map(text_frame, self.outbox.answers())
            self._socket.transport.write(b"".join(frames))
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close(code, _short(reason))
        except TimeoutError:  # a client that reads nothing does not get the close frame either
            self._socket.transport.abort()

    # opening

    def _check_origin(self) -> None:
        """Refuse pages of others, and programs that could be a page's but bring no token."""
        request = self._socket.request
        origins = request.headers.get_all("Origin") if request is not None else []
        origin = ", ".join(origins) if origins else None
        if not self._context.allows(origin, self._socket.local):
            raise Closing(Code.FORBIDDEN, "origin", _FOREIGN_PAGE)
        known = self._socket.principal is not None or self._socket.fault is not None
        if origin is None and not known and not self._context.guard.loopback_only:
            raise Closing(Code.UNAUTHORISED, "unauthorised", _HEADER_NEEDED)

    async def _greet(self) -> None:
        principal = self._socket.principal
        if principal is not None:
            self._enter(principal)
        hello = protocol.Hello(
            server=self._context.version,
            connection_id=self._hub.notices.connection_id(),
            auth="required" if principal is None else "accepted",
        )
        await self._write([text_frame(protocol.encode(hello))])

    async def _authenticate(self) -> None:
        if self._holder is None:
            try:
                async with asyncio.timeout(AUTH_S):
                    message = protocol.decode(await self._socket.recv())
            except TimeoutError:
                raise Closing(
                    Code.UNAUTHORISED, "auth_timeout", f"send 'auth' within {AUTH_S:.0f} s"
                ) from None
            if not isinstance(message, protocol.Auth):
                raise Closing(Code.UNAUTHORISED, "unauthorised", "send 'auth' first")
            self._enter(self._identify(message.token))
        self._context.authenticated(self)

    def _identify(self, token: str) -> Principal:
        try:
            return self._context.identify(token, self._socket.headers, self._socket.peer)
        except Unauthorised as error:
            raise Closing(Code.UNAUTHORISED, "unauthorised", str(error)) from error
        except Braked as error:
            raise Closing(
                Code.RATE_LIMITED,
                "too_many_bad_tokens",
                str(error),
                retry_after_ms=error.wait_s * 1000,
            ) from error

    def _enter(self, principal: Principal) -> None:
        self.outbox.tenant = principal.tenant
        self._holder = self._context.holders.enter(principal, self.outbox)
        self._requests = Requests(self._hub, self.outbox, principal, self._context.audit)

    def _renew(self, holder: Holder, requests: Requests, token: str) -> None:
        """Go on with a new token: same tenant and role, and no less than what is in use."""
        principal = self._identify(token)
        requests.renew(principal)
        self._context.holders.renew(holder, principal)

    # receiving

    async def _receive_all(self) -> None:
        async for text in self._socket:
            left = self._rate.spend(self._loop.time())
            if left < -protocol.MESSAGES_PER_S:
                raise Closing(Code.RATE_LIMITED, "rate_limited", _too_many(), retry_after_ms=2000)
            if left < 0:
                self.outbox.answer(
                    self._hub.notices.error("rate_limited", _too_many(), retry_after_ms=1000)
                )
                continue
            await self._obey(protocol.decode(text))

    async def _obey(self, message: protocol.ClientMessage) -> None:
        if self._requests is None or self._holder is None:
            raise Closing(Code.UNAUTHORISED, "unauthorised", "send 'auth' first")
        match message:
            case protocol.Subscribe():
                self._check_expiry(self._holder)
                await self._requests.subscribe(message)
            case protocol.Resume():
                self._check_expiry(self._holder)
                await self._requests.resume(message)
            case protocol.Unsubscribe():
                self._requests.unsubscribe(message.id)
            case protocol.Ping():
                self.outbox.answer(protocol.encode(protocol.Pong(message.id)))
            case protocol.Auth():
                self._renew(self._holder, self._requests, message.token)
            case protocol.Pong():
                pass

    def _check_expiry(self, holder: Holder) -> None:
        """An expired token keeps what it has for a while, but opens nothing new."""
        if holder.expired(self._context.clock.wall_ms()):
            raise Closing(
                Code.UNAUTHORISED, "token_expired", "the token has expired: bring a new one"
            )

    # sending

    def _ready(self) -> None:
        """Something waits: send it at the end of this turn of the event loop."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send the usual case without a task switch; anything else is for the sender task."""
        self._pumping = False
        transport = self._socket.transport
        room = transport.get_write_buffer_size() < _WRITE_BYTES
        if self._idle and room and self._socket.state is State.OPEN:
            frames = self.outbox.runs(_WRITE_BYTES)
            if frames:
                transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        if self.outbox.waiting or not room:
            self.outbox.wake()

    async def _send_all(self) -> None:
        try:
            while True:
                self._idle = True
                await self.outbox.wait()
                self._idle = False
                await self._room()
                while self.outbox.closing is None and (batch := self.outbox.take(_WRITE_BYTES)):
                    await self._write(
                        [
                            item.frame if isinstance(item, Entry) else text_frame(item)
                            for item in batch
                        ]
                    )
                if self.outbox.closing is not None:
                    raise self.outbox.closing
        except TimeoutError:
            await self._end(
                Closing(Code.SLOW_READER, "slow_reader", f"nothing was read for {SEND_S:.0f} s")
            )
        except Closing as closing:
            await self._end(closing)
        except ConnectionClosed:
            return

    async def _feel_pulse(self) -> None:
        """Ping while there is nothing to send; who answers none takes in nothing either."""
        try:
            while True:
                await asyncio.sleep(PING_S)
                async with asyncio.timeout(PING_S):
                    await (await self._socket.ping())
        except TimeoutError:
            reason = f"no ping was answered for {PING_S:.0f} s: read all the time"
            await self._end(Closing(Code.SLOW_READER, "slow_reader", reason))
        except ConnectionClosed:
            return

    async def _write(self, frames: list[bytes]) -> None:
        """Write ready frames in one piece, then wait until the socket has room again.

        Below ``send``: frames are made once for all readers, and one write carries all of a turn.
        Raises :class:`TimeoutError` when the client reads nothing for :data:`SEND_S`.
        """
        if self._socket.state is not State.OPEN:
            await self._socket.wait_closed()
            raise ConnectionClosed(None, None)
        self._socket.transport.write(b"".join(frames))
        await self._room()

    async def _room(self) -> None:
        if self._socket.transport.get_write_buffer_size():
            async with asyncio.timeout(SEND_S):
                await self._socket.drain()

    async def _end(self, closing: Closing) -> None:
        self.ended_with = closing.code
        notice = self._hub.notices.error(
            closing.error, closing.reason, fatal=True, retry_after_ms=closing.retry_after_ms
        )
        self.outbox.answer(notice)
        await self.close(closing.code, closing.reason)

    def _leave(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._holder is not None:
            self._context.holders.leave(self._holder)
        self.outbox.leave_all()


def _short(reason: str) -> str:
    """Return as much of a reason as a close frame takes."""
    return reason.encode(errors="replace")[:_REASON_BYTES].decode(errors="ignore")


def _too_many() -> str:
    return f"too many messages; the limit is {protocol.MESSAGES_PER_S} a second"
