"""Connections to Redis that fail as Redis connections do, on every event loop.

uvloop raises :class:`RuntimeError` where somebody writes to or reads from a transport that a reset
has just closed; asyncio's own loop raises an ``OSError`` there. redis-py translates the second kind
only, so an outage at the wrong moment would look like a fault of ours and end whoever waits.
"""

from collections.abc import Iterable
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import ConnectionError as Lost


class _Translated(AbstractConnection):
    """Turns the loop's own error for a closed transport into that of a lost connection."""

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Send, or raise a ``RedisError``."""
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise Lost("the connection was closed while writing") from error

    async def read_response(self, *given: Any, **options: Any) -> Any:
        """Read one answer, or raise a ``RedisError``."""
        try:
            return await super().read_response(*given, **options)
        except RuntimeError as error:
            await self.disconnect(nowait=True)
            raise Lost("the connection was closed while reading") from error


class _Tcp(_Translated, Connection):
    """``redis://``."""


class _Tls(_Translated, SSLConnection):
    """``rediss://``."""


class _Unix(_Translated, UnixDomainSocketConnection):
    """``unix://``."""


_TRANSLATED: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}


def translate(pool: ConnectionPool) -> None:
    """Let ``pool`` make connections of these kinds from now on; call it before the first."""
    pool.connection_class = _TRANSLATED[pool.connection_class]
