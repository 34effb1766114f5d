"""A TCP proxy that makes trouble: seeded latency, low rate, black holes, resets, half-open links.

In front of a Redis server or a gateway, on 127.0.0.1. One :class:`Weather` holds for all
connections and may change at any time; what was read before a change still arrives, as in a real
network's queues.
"""

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass, replace
from typing import Literal, Self

CHUNK_BYTES = 1 << 16
CONNECT_S = 5.0
Way = Literal["up", "down"]
"""``up``: from the client to the server."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What the link is like. The defaults are a fair day."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    """0: as fast as it goes."""
    slice_bytes: int = 0
    """Longest piece passed on at once, lengths drawn by chance; 0: as it came."""
    still: frozenset[Way] = frozenset()
    """Directions in which nothing moves: both are a black hole, one is a half-open link."""
    shut: bool = False
    """New connections are reset."""


FAIR = Weather()
BLACK_HOLE = Weather(still=frozenset({"up", "down"}))
HALF_OPEN = Weather(still=frozenset({"down"}))
SLICED = Weather(slice_bytes=7)
SLOW = Weather(latency_s=0.05, jitter_s=0.1)
DRIP = Weather(bytes_per_s=1.0, slice_bytes=1)

Address = tuple[str, int] | str
"""Host and port, or the path of a unix socket."""


class Proxy:
    """Passes connections on to the first of ``servers`` that answers; ``async with`` it."""

    def __init__(self, *servers: Address, seed: int | str = 0, weather: Weather = FAIR) -> None:
        self.servers = servers
        self.connections = 0
        self.refused = 0
        self._seed = seed
        self._weather = weather
        self._changed = asyncio.Event()
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        links = list(self._links)
        for task in links:
            task.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def change(self, weather: Weather) -> None:
        """Let ``weather`` hold from now on, for open connections too."""
        self._weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    def cut(self) -> None:
        """Reset every connection (RST) and every new one, until :meth:`heal`."""
        self.change(replace(self._weather, shut=True))
        self.reset()

    def heal(self) -> None:
        """Let everything pass again."""
        self.change(FAIR)

    def reset(self) -> None:
        """Reset every open connection, both sides."""
        for task, writers in list(self._links.items()):
            for writer in writers:
                _reset(writer)
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        number = self.connections
        self.connections += 1
        writers = self._links[task] = [writer]
        try:
            server = await self._server_of(writers)
            if server is None:
                self.refused += 1
                _reset(writer)
                return
            async with asyncio.TaskGroup() as pumps:
                chance = f"{self._seed}-{number}"
                pumps.create_task(self._pump(reader, server[1], "up", chance))
                pumps.create_task(self._pump(server[0], writer, "down", chance))
        except* (OSError, asyncio.CancelledError):
            pass  # a link that ends is what this program is for
        finally:
            del self._links[task]
            for each in writers:
                each.close()

    async def _server_of(
        self, writers: list[asyncio.StreamWriter]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        if self._weather.shut:
            return None
        for server in self.servers:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_S):
                    pair = await (
                        asyncio.open_unix_connection(server)
                        if isinstance(server, str)
                        else asyncio.open_connection(*server)
                    )
                writers.append(pair[1])
                return pair
        return None

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way, chance: str
    ) -> None:
        drawn = random.Random(f"{chance}-{way}")
        while data := await reader.read(CHUNK_BYTES):
            while data:
                await self._moves(way)
                size = self._weather.slice_bytes
                piece = data[: drawn.randint(1, size)] if size else data
                data = data[len(piece) :]
                await asyncio.sleep(self._delay(len(piece), drawn))
                await self._moves(way)
                writer.write(piece)
                await writer.drain()
        await self._moves(way)
        with contextlib.suppress(OSError):
            writer.write_eof()

    async def _moves(self, way: Way) -> None:
        """Return when data may pass in this direction."""
        while way in self._weather.still:
            await self._changed.wait()

    def _delay(self, size: int, drawn: random.Random) -> float:
        weather = self._weather
        rate = size / weather.bytes_per_s if weather.bytes_per_s else 0.0
        return weather.latency_s + drawn.random() * weather.jitter_s + rate


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN: nothing more is sent, and the peer reads an error."""
    bound = writer.get_extra_info("socket")
    if bound is not None and bound.fileno() >= 0 and bound.family == socket.AF_INET:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
