"""Where media arrives: which addresses are offered, which UDP ports are bound, how much may wait.

aioice 0.13 binds port 0 on every interface but loopback. :class:`Gathering` replaces the candidate
gathering of one connection by our own: the configured addresses, a port out of the configured
range, a gate before every socket, a bounded receive queue, and consent by media. All private names
it leans on are listed in :mod:`services.ingest.hooks`.
"""

import asyncio
import errno
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from aioice import Candidate, Connection
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import StunProtocol, get_host_addresses, server_reflexive_candidate

from services.auth import is_loopback
from services.ingest.gate import Gate

GATHER_S = 2.0
"""Gathering ends after this long with what there is; only STUN and TURN servers can take time."""
RECEIVE_PACKETS = 1024
"""Datagrams of one session that may wait for the event loop."""
SOCKET_BYTES: Final = 2 * 1024 * 1024
"""Receive buffer asked of the kernel, which grants at most ``net.core.rmem_max``."""

_SO_MEMINFO: Final = 55
"""Linux (asm-generic/socket.h): what a socket's memory is used for, as 32-bit words."""
_MEMINFO_RECEIVED, _MEMINFO_DROPS, _MEMINFO_WORDS = 0, 8, 9


class NoPort(Exception):
    """Every UDP port of the range is taken, or no address can be bound."""


class Ports:
    """A range of UDP ports, handed out in turn so that a late packet meets no new session."""

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._count = last - first + 1
        self._turn = 0

    def bind(self, address: str) -> socket.socket:
        """Return a non-blocking UDP socket on ``address``.

        Raises :class:`NoPort` when the whole range is taken, :class:`OSError` for an address that
        this machine does not have.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for _ in range(self._count):
            port = self._first + self._turn
            self._turn = (self._turn + 1) % self._count
            bound = socket.socket(family, socket.SOCK_DGRAM)
            try:
                bound.bind((address, port))
            except OSError as error:
                bound.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                bound.setblocking(False)
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
                return bound
        last = self._first + self._count - 1
        raise NoPort(f"all UDP ports {self._first}-{last} on {address} are taken")


def offered_addresses(configured: Sequence[str], host: str) -> tuple[str, ...]:
    """Return the addresses to offer: those configured, else loopback while bound to loopback.

    A server that listens on anything else offers the addresses of all interfaces.
    """
    if configured:
        return tuple(configured)
    if is_loopback(host):
        return ("::1",) if ":" in host else ("127.0.0.1",)
    return tuple(get_host_addresses(use_ipv4=True, use_ipv6=True))


class ReceiveQueue(asyncio.Queue[tuple[bytes, int] | None]):
    """Datagrams of one connection; the newest is dropped when full, the end mark never."""

    def __init__(self, dropped: Counter[str]) -> None:
        super().__init__()
        self._dropped = dropped

    def put_nowait(self, item: tuple[bytes, int] | None) -> None:
        """Add a datagram, or drop it and count."""
        if item is not None and self.qsize() >= RECEIVE_PACKETS:
            self._dropped["full"] += 1
        else:
            super().put_nowait(item)


class Buffers:
    """The kernel's receive buffers of one connection's sockets."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._last: list[tuple[int, int]] = []

    def add(self, bound: socket.socket) -> None:
        """Watch a socket; what it said last counts on after it was closed."""
        self._sockets.append(bound)
        self._last.append((0, 0))

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait to be read, with the kernel's own overhead."""
        self.note()
        return sum(waiting for waiting, _ in self._last)

    @property
    def dropped(self) -> Counter[str]:
        """Datagrams for which a buffer had no room."""
        self.note()
        return Counter(full=sum(drops for _, drops in self._last))

    def note(self) -> None:
        """Read the kernel's counters, which are gone once a socket is closed."""
        for place, bound in enumerate(self._sockets):
            try:
                raw = bound.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
                words = struct.unpack(f"={_MEMINFO_WORDS}I", raw)
            except (OSError, struct.error):  # closed, or not Linux
                self._last[place] = (0, self._last[place][1])
            else:
                self._last[place] = (words[_MEMINFO_RECEIVED], words[_MEMINFO_DROPS])


class Gathering:
    """Host candidates of one connection on our addresses and ports."""

    def __init__(self, ports: Ports, addresses: Sequence[str], gate: Gate) -> None:
        self.dropped: Counter[str] = Counter()
        """Datagrams that found the receive queue full."""
        self.buffers = Buffers()
        self.gate = gate
        self._ports = ports
        self._addresses = addresses
        self._queue = ReceiveQueue(self.dropped)
        self._closed = asyncio.Event()

    @property
    def refused(self) -> Counter[str]:
        """Datagrams that the gate or a full receive queue kept out, by reason."""
        return self.gate.dropped + self.dropped

    @property
    def waiting(self) -> int:
        """Datagrams in the receive queue."""
        return self._queue.qsize()

    def install(self, connection: Connection) -> None:
        """Take over the gathering and the receive queue of ``connection``, before it gathers."""
        theirs = connection.get_component_candidates

        async def gather(
            component: int,
            addresses: list[str],  # noqa: ARG001 - aioice's signature
            timeout: int = 5,  # noqa: ARG001, ASYNC109 - the same
        ) -> list[Candidate]:
            protocols = await self._bind(connection, component)
            connection._protocols += protocols  # noqa: SLF001 - see services.ingest.hooks
            candidates = [protocol.local_candidate for protocol in protocols]
            candidates += await _reflexive(connection, protocols)
            if connection.turn_server:
                candidates += await theirs(component=component, addresses=[], timeout=int(GATHER_S))
                for relayed in connection._protocols[len(protocols) :]:  # noqa: SLF001
                    self.gate.stand_before(relayed, connection)
            return candidates

        setattr(connection, "get_component_candidates", gather)  # noqa: B010 - one object, not all
        setattr(connection, "query_consent", self._consent_by_media)  # noqa: B010
        connection._queue = self._queue  # noqa: SLF001

    async def _consent_by_media(self) -> None:
        """Stand in for aioice's consent checks (RFC 7675): arriving media is consent enough.

        FFmpeg's muxer answers no checks once it sends, and would be cut off after 30 s. A publisher
        that is gone sends nothing, and the session's own watch ends it as fast. It ends with
        :meth:`close`, even when aioice begins it after that.
        """
        await self._closed.wait()

    def close(self) -> None:
        """Let go of what waits for the connection's end; to be called when it closes."""
        self._closed.set()

    async def _bind(self, connection: Connection, component: int) -> list[StunProtocol]:
        protocols = []
        failure: Exception | None = None
        for address in self._addresses:
            try:
                bound = self._ports.bind(address)
            except (OSError, NoPort) as error:
                failure = error
                continue
            self.buffers.add(bound)
            protocols.append(await self._protocol(connection, component, bound))
        if not protocols:
            raise NoPort(str(failure or "there is no address to offer for media"))
        return protocols

    async def _protocol(
        self, connection: Connection, component: int, bound: socket.socket
    ) -> StunProtocol:
        loop = asyncio.get_running_loop()
        protocol = StunProtocol(connection)
        self.gate.stand_before(protocol, connection)
        await loop.create_datagram_endpoint(lambda: protocol, sock=bound)
        host, port = bound.getsockname()[:2]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=host,
            port=port,
            type="host",
        )
        return protocol


async def _reflexive(connection: Connection, protocols: list[StunProtocol]) -> list[Candidate]:
    """Ask the configured STUN server, if any, from each IPv4 socket; late answers are left out."""
    if connection.stun_server is None:
        return []
    queries: list[asyncio.Task[Any]] = [
        asyncio.create_task(server_reflexive_candidate(protocol, connection.stun_server))
        for protocol in protocols
        if ipaddress.ip_address(protocol.local_candidate.host).version == 4
    ]
    if not queries:
        return []
    done, pending = await asyncio.wait(queries, timeout=GATHER_S)
    for query in pending:
        query.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return [query.result()[0] for query in done if query.exception() is None]
