"""Scores go when the policy says: after their session's end, at the process's end, never later."""

import asyncio

import pytest

from services.bus.memory import MemoryBus
from services.bus.types import StreamKey
from services.clock import SystemClock
from services.ingest import retention as module
from services.ingest.retention import Retention
from services.ingest.sink import Opening, bus_sinks
from services.queues import Registry
from tests.services.events import ended, scored, started

KEY = StreamKey("default", "cam")


class Bench:
    """One owner on a bus of its own."""

    def __init__(self, retention_s):
        self.bus, self.clock, self.queues = MemoryBus(), SystemClock(), Registry()
        self.retention = Retention(self.bus, self.clock, retention_s, self.queues)
        self.open_sink = bus_sinks(self.bus, self.clock, "ing_1", self.queues, self.retention.ended)

    async def session(self, name="ses_1"):
        """Open, write and end a session; return its epoch."""
        sink = await self.open_sink(Opening(name, "default", "cam", "self"), lambda _why: None)
        sink.put([started(0, name), scored(1, name), ended(2, name)])
        await sink.close()
        return (await self.bus.lookup(name)).epoch

    async def events(self, epoch):
        return len((await self.bus.replay(KEY, epoch, -1)).records)

    async def until_erased(self, count):
        async with asyncio.timeout(30):
            while self.retention.erased < count:
                await asyncio.sleep(0.01)


async def test_with_the_longest_retention_the_bus_forgets_by_itself():
    bench = Bench(120)
    async with bench.retention:
        epoch = await bench.session()
        assert not bench.retention.shortens
    assert await bench.events(epoch) == 3


async def test_each_session_is_erased_after_its_own_end():
    bench = Bench(1)
    async with bench.retention:
        first = await bench.session("ses_1")
        second = await bench.session("ses_2")
        assert await bench.events(second) == 3
        await bench.until_erased(2)
        assert [await bench.events(epoch) for epoch in (first, second)] == [0, 0]
        entry = await bench.bus.lookup("ses_1")
        assert (entry.state, entry.erase) == ("ended", True)


async def test_nothing_outlives_a_session_where_nothing_may():
    bench = Bench(0)
    async with bench.retention:
        epoch = await bench.session()
        await bench.until_erased(1)
        assert await bench.events(epoch) == 0


async def test_what_waits_goes_with_its_process():
    bench = Bench(60)
    async with bench.retention:
        epoch = await bench.session()
        assert await bench.events(epoch) == 3
    assert await bench.events(epoch) == 0
    assert [q.instances for q in bench.queues.statistics() if q.kind.name == "retention"] == [0]


async def test_an_outage_puts_it_off():
    bench = Bench(0)
    async with bench.retention:
        with bench.bus.outage():
            bench.retention.ended(
                module.Session("ses_9", "default", "cam", 1, "ing_1", "ended", "self")
            )
            await asyncio.sleep(0.05)
            assert bench.retention.erased == 0
        await bench.until_erased(1)


async def test_too_many_that_wait_make_the_oldest_go_early(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SESSIONS", 1)
    bench = Bench(60)
    async with bench.retention:
        first = await bench.session("ses_1")
        second = await bench.session("ses_2")
        await bench.until_erased(1)
        assert [await bench.events(epoch) for epoch in (first, second)] == [0, 3]
        (queue,) = [q for q in bench.queues.statistics() if q.kind.name == "retention"]
        assert queue.dropped == {"early": 1}
