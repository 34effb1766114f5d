"""The HTTP server's front: how many connections there may be, and how long one may stay silent.

A stranger who connects and says nothing, or one letter a second, costs a descriptor each time. So a
connection has :data:`SILENT_S` for the TLS handshake, and as long for a whole request head, before
the first request and between two; of those that never sent one only :data:`SILENT` stay, the oldest
leaves for the newest; and there are at most :data:`CONNECTIONS` in all, readers of event streams
included. What is no HTTP is refused and counted, never logged: its sender would write our log.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

SILENT_S: Final = 20.0
SILENT: Final = 256
CONNECTIONS: Final = 4096
LINGER_S: Final = 2.0
"""How long the rest of a body is read that no handler wanted."""
CLOSE_S: Final = 2.0
_BACKLOG: Final = 128
_log = structlog.get_logger(__name__)


class Front:
    """One listening socket's connections. ``limits`` are those above; tests give small ones."""

    def __init__(
        self, *, silent_s: float = SILENT_S, silent: int = SILENT, connections: int = CONNECTIONS
    ) -> None:
        self._silent_s = silent_s
        self._most_silent = silent
        self._most = connections
        self._open: set[_Connection] = set()
        self._silent: dict[_Connection, None] = {}
        self._crowded = 0
        self._displaced = 0
        self.unreadable = 0
        """Requests that were no HTTP."""

    def statistics(self) -> dict[str, float]:
        """Return gauges and counters."""
        return {
            "connections": len(self._open),
            "silent_connections": len(self._silent),
            "crowded_connections_total": self._crowded,
            "displaced_connections_total": self._displaced,
            "unreadable_requests_total": self.unreadable,
        }

    @asynccontextmanager
    async def serving(
        self, app: web.Application, bound: socket.socket, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[None]:
        """Serve ``app`` on ``bound`` while the context lasts."""
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=CLOSE_S)
        await runner.setup()
        server = runner.server
        if server is None:
            raise RuntimeError("the runner was set up without a server")
        loop = asyncio.get_running_loop()
        try:
            listening = await loop.create_server(
                lambda: _Connection(self, server, loop, self._silent_s),
                sock=bound, backlog=_BACKLOG,
                ssl=tls, ssl_handshake_timeout=None if tls is None else self._silent_s,
            )  # fmt: skip
            try:
                yield
            finally:
                listening.close()
        finally:
            await runner.cleanup()

    def enter(self, connection: "_Connection") -> bool:
        """Take a new connection; False when there is no room."""
        if len(self._open) >= self._most:
            self._crowded += 1
            return False
        if len(self._silent) >= self._most_silent:
            self._displaced += 1
            oldest = next(iter(self._silent))
            self.heard(oldest)
            oldest.force_close()
        self._open.add(connection)
        self._silent[connection] = None
        return True

    def heard(self, connection: "_Connection") -> None:
        """It sent a request."""
        self._silent.pop(connection, None)

    def left(self, connection: "_Connection") -> None:
        """It is gone."""
        self.heard(connection)
        self._open.discard(connection)


class _Connection(web.RequestHandler):
    """A connection that the front knows of."""

    __slots__ = ("_front",)

    def __init__(
        self, front: Front, server: Any, loop: asyncio.AbstractEventLoop, silent_s: float
    ) -> None:
        # Options of `AppRunner`, which takes no connections of our own; None: no access log.
        options: dict[str, Any] = {"access_log": None, "lingering_time": LINGER_S}
        super().__init__(server, loop=loop, keepalive_timeout=silent_s, **options)
        self._front = front

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._front.enter(self):
            super().connection_made(transport)
        elif isinstance(transport, asyncio.Transport):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._request_count:
            self._front.heard(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._front.left(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Count what is no HTTP."""
        self._front.unreadable += isinstance(exc, HttpProcessingError)
        return super().handle_error(request, status, exc, message)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Tell of our own faults; aiohttp would also tell whom it refused, and quote them."""
        del args
        error = kw.get("exc_info")
        if not isinstance(error, HttpProcessingError):
            _log.error("an HTTP connection failed", exc_info=error or True)
