"""Connect and close, again and again: afterwards a server must hold what it held before.

In this process, so that tasks can be counted too: a gateway over a bus with a live session, and the
WHIP endpoint with real aiortc publishers. Memory is compared between the first and the second half
of the cycles, because the first ones fill caches and allocators.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
from websockets.asyncio.client import connect

from services.bus.memory import MemoryBus
from tests.chaos.gauges import Held, held, slope
from tests.services import leftovers
from tests.services.events import KEY, scored, started
from tests.services.gateway.conftest import AUTH, opened
from tests.services.ingest.support import Card, Publisher, Tone, serving

WARM_UP = 5
SAMPLES = 20
WITH_WINDOW = 6
"""One publisher of so many stays for a window."""
TOGETHER = 10
"""Readers that are connected at once."""
SETTLE_S = 20.0
LIMIT_KIB = {"readers": 20.0, "publishers": 100.0}
"""Memory that a cycle may keep, over a full run."""


@dataclass(frozen=True, slots=True)
class Leak:
    """What is left after ``cycles`` connects and closes."""

    what: str
    cycles: int
    before: Held
    after: Held
    tasks_before: int
    tasks_after: int
    kib_per_cycle: float
    """Slope of resident memory over the second half of the cycles."""

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.cycles} connects and closes; threads {self.before.threads} -> "
            f"{self.after.threads}, files {self.before.files} -> {self.after.files}, tasks "
            f"{self.tasks_before} -> {self.tasks_after}, memory {self.before.rss_kib / 1024:.1f} "
            f"-> {self.after.rss_kib / 1024:.1f} MiB, {self.kib_per_cycle:.2f} KiB a cycle"
        )

    @property
    def back(self) -> bool:
        """Whether threads, files and tasks are what they were."""
        return (
            self.after.threads <= self.before.threads
            and self.after.files <= self.before.files
            and self.tasks_after <= self.tasks_before
        )


async def readers(cycles: int) -> Leak:
    """Connect, read one event and close, with readers that say goodbye and readers that vanish."""
    async with opened(MemoryBus()) as bench:
        await bench.announce(lease_ms=3_600_000)
        await bench.publish(started(), key=KEY)
        seq = 0

        async def one(number: int) -> None:
            socket = await connect(
                bench.url,
                additional_headers=AUTH,
                subprotocols=["demeanor.v1.json"],
                close_timeout=2,
            )
            await socket.send('{"type":"resume","since":{"ses_1":-1}}')
            while '"window.scored"' not in await socket.recv():
                pass
            if number % 3 == 2:
                socket.transport.abort()
            await socket.close()

        async def cycle(number: int) -> None:
            nonlocal seq
            seq += 1
            await bench.publish(scored(seq), key=KEY)
            await asyncio.gather(*(one(number + each) for each in range(TOGETHER)))

        return await _repeat("readers", cycle, cycles, TOGETHER)


async def publishers(cycles: int) -> Leak:
    """Publish until the link stands, now and then for a first window, and leave in every way."""
    connector = aiohttp.TCPConnector(force_close=True)  # a kept connection is no leak
    async with (
        serving(udp_ports=(43200, 43299)) as server,
        aiohttp.ClientSession(connector=connector) as http,
    ):

        async def cycle(number: int) -> None:
            publisher = Publisher(server.endpoint(f"cam-{number}"), Tone(), Card(160, 90))
            await publisher.publish(http)
            sink = list(server.sinks.values())[-1]
            await _connected(publisher)
            if number % WITH_WINDOW == 0:
                await sink.until(lambda s: bool(s.windows), 60)
            if number % 2:
                async with http.delete(publisher.location, headers=AUTH) as response:
                    assert response.status == 200
            await publisher.close()
            await sink.until(lambda s: s.closed, 60)
            for books in (server.sinks, server.scoring.windows):
                books.clear()  # the test's own memory, not the server's
            server.scoring.jobs.clear()
            server.scoring.forgotten.clear()
            server.openings.clear()

        return await _repeat("publishers", cycle, cycles, 1)


async def _connected(publisher: Publisher) -> None:
    async with asyncio.timeout(60):
        while publisher.peer.connectionState != "connected":
            await asyncio.sleep(0.02)


async def _repeat(
    what: str, cycle: Callable[[int], Awaitable[None]], cycles: int, step: int
) -> Leak:
    for number in range(WARM_UP):
        await cycle(number)
    await _settled(None)
    before, tasks = _held(), len(asyncio.all_tasks())
    points = []
    every = max(step, cycles // SAMPLES)
    for number in range(0, cycles, step):
        await cycle(WARM_UP + number)
        if number % every < step:
            gc.collect()
            points.append((float(number), float(held().rss_kib)))
    await _settled((before, tasks))
    second_half = points[len(points) // 2 :]
    return Leak(what, cycles, before, _held(), tasks, len(asyncio.all_tasks()), slope(second_half))


async def _settled(wanted: tuple[Held, int] | None) -> None:
    """Wait a moment, or until what is held is back to ``wanted``; the caller judges."""
    deadline_s = asyncio.get_running_loop().time() + SETTLE_S
    while True:
        await asyncio.sleep(0.1)
        gc.collect()
        if wanted is None:
            return
        now, tasks = _held(), len(asyncio.all_tasks())
        before = wanted[0]
        back = now.threads <= before.threads and now.files <= before.files and tasks <= wanted[1]
        if back or asyncio.get_running_loop().time() > deadline_s:
            return


def _held() -> Held:
    """Return what this process holds; the loop's own pool of threads is bounded and not counted."""
    now = held()
    return Held(now.rss_kib, len(leftovers.threads()), now.files)
