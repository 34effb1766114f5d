"""A session's writer: order over outages, directory, fence and erasure."""

import asyncio
import random

import msgspec
import pytest

from services.bus import writer as writing
from services.bus.memory import MemoryBus
from services.bus.types import Reconnected
from services.bus.writer import LEASE_MS, open_writer
from services.clock import SystemClock
from services.queues import Registry
from tests.services.events import (
    KEY,
    ManualClock,
    alert,
    ended,
    records,
    scored,
    seqs,
    session,
    started,
    take,
)
from tests.services.virtual import VirtualLoop

CLOCK = SystemClock()


async def until(bus, wanted, key=KEY, epoch=1000):
    """Return the replay once the log's newest seq is ``wanted``."""
    async with asyncio.timeout(15):
        while True:
            last = await bus.last(key)
            if last is not None and last.header.seq == wanted:
                return await bus.replay(key, epoch, -1)
            await asyncio.sleep(0.01)


async def entry_is(bus, wanted, clock=None):
    async with asyncio.timeout(10):
        while True:
            entry = await bus.lookup("ses_1")
            if entry is not None and wanted(entry):
                return entry
            if clock is not None:
                clock.now_ms += 300
            await asyncio.sleep(0.01)


async def test_events_reach_log_and_readers_in_order(bus):
    async with bus.subscribe() as feed:
        await feed.add(KEY)
        writer = await open_writer(bus, CLOCK, session())
        writer.put([started()])
        writer.put([scored(1), alert(2)])
        live = await take(feed, 3)
        writer.put([ended(3)])
        await writer.close()
    assert seqs(item[1] for item in live) == [0, 1, 2]
    assert seqs((await bus.replay(KEY, 1000, -1)).records) == [0, 1, 2, 3]
    assert (await bus.lookup("ses_1")).state == "ended"
    assert writer.statistics()["pending"] == 0


async def test_lease_is_renewed_while_live_and_then_kept(bus):
    clock = ManualClock()
    writer = await open_writer(bus, clock, session())
    begun = await bus.lookup("ses_1")
    assert (begun.state, begun.lease_ms) == ("live", 1_000_000 + LEASE_MS)
    renewed = await entry_is(bus, lambda entry: entry.lease_ms > begun.lease_ms, clock)
    assert renewed.state == "live"
    await writer.close()
    over = await bus.lookup("ses_1")
    assert (over.state, over.lease_ms) == ("ended", clock.now_ms)


async def test_a_session_begun_during_an_outage_appears_after_it(bus, fault):
    async with fault.outage():
        writer = await open_writer(bus, CLOCK, session())
        writer.put([started(), scored(1)])
    replay = await until(bus, 1)
    assert (seqs(replay.records), replay.lost) == ([0, 1], None)
    assert (await entry_is(bus, lambda entry: True)).state == "live"
    assert writer.outages > 0
    await writer.close()


@pytest.mark.parametrize("seed", range(3))
async def test_no_event_is_lost_over_outages(bus, fault, seed):
    chance = random.Random(seed)
    writer = await open_writer(bus, CLOCK, session())
    writer.put([started()])
    seq = 0
    for _ in range(2):
        for _ in range(chance.randrange(1, 30)):
            seq += 1
            writer.put([scored(seq)])
            await asyncio.sleep(0)
        async with fault.outage():
            for _ in range(chance.randrange(1, 30)):
                seq += 1
                writer.put([scored(seq)])
                await asyncio.sleep(0)
    replay = await until(bus, seq)
    assert (seqs(replay.records), replay.lost) == (list(range(seq + 1)), None)
    await writer.close()


async def test_a_wiped_log_is_filled_again_with_the_next_event(bus, fault):
    writer = await open_writer(bus, CLOCK, session())
    writer.put([started(), *(scored(seq) for seq in range(1, 10))])
    await until(bus, 9)
    await fault.wipe()
    writer.put([scored(10)])
    replay = await until(bus, 10)
    assert (seqs(replay.records), replay.lost) == (list(range(11)), None)
    assert (await entry_is(bus, lambda entry: True)).state == "live", "the directory came back"
    await writer.close()
    assert writer.statistics()["refills_total"] == 1


async def test_readers_miss_nothing_when_they_heal_from_the_log(bus, fault):
    async with bus.subscribe() as feed:
        await feed.add(KEY)
        writer = await open_writer(bus, CLOCK, session())
        writer.put([started(), scored(1)])
        await take(feed, 2)
        async with fault.outage():
            writer.put([scored(2), scored(3)])
        known = {0, 1}
        async with asyncio.timeout(10):
            async for item in feed:
                if isinstance(item, Reconnected):
                    known |= set(seqs((await bus.replay(KEY, 1000, 1)).records))
                else:
                    known.add(item[1].header.seq)
                if known == {0, 1, 2, 3}:
                    break
        await writer.close()
    assert seqs((await bus.replay(KEY, 1000, 1)).records) == [2, 3]


async def test_newer_publisher_stops_the_writer(bus):
    stops = []
    writer = await open_writer(bus, CLOCK, session(), on_stop=stops.append)
    writer.put([started()])
    await until(bus, 0)
    await bus.append(KEY, records(0, 0, epoch=2000, session_id="ses_2"))
    writer.put([scored(1)])
    async with asyncio.timeout(10):
        while not stops:
            await asyncio.sleep(0.01)
    writer.put([scored(2)])
    await writer.close()
    assert stops == ["fenced"]
    assert writer.stopped == "fenced"
    assert (await bus.last(KEY)).header.session_id == "ses_2"
    assert seqs((await bus.replay(KEY, 1000, -1)).records) == [0]
    assert (await bus.lookup("ses_1")).state == "ended"


async def test_a_writer_that_falls_over_ends_its_session(bus, monkeypatch):
    """… for nobody could ever read what comes after."""

    async def broken(*_, **__):
        raise ValueError("a bug")

    stops = []
    writer = await open_writer(bus, SystemClock(), session(), on_stop=stops.append)
    monkeypatch.setattr(bus, "append", broken)
    writer.put([started()])
    async with asyncio.timeout(20):
        while not stops:
            await asyncio.sleep(0.01)
        await writer.close()
    assert stops == ["fenced"]


async def test_erasing_reaches_the_owner_and_leaves_nothing(bus):
    clock = ManualClock()
    stops = []
    writer = await open_writer(bus, clock, session(), on_stop=stops.append)
    writer.put([started(), scored(1)])
    await until(bus, 1)
    live = await bus.lookup("ses_1")
    await bus.announce(msgspec.structs.replace(live, erase=True), live.lease_ms)
    async with asyncio.timeout(10), bus.subscribe() as feed:
        await feed.add(KEY)
        while not stops:
            clock.now_ms += 1000
            writer._wake.set()
            await asyncio.sleep(0.01)
        writer.put([ended(2, reason="deleted")])
        assert (await take(feed, 1))[0][1].header.type == "session.ended"
        await writer.close()
    assert stops == ["erased"]
    assert (await bus.replay(KEY, 1000, -1)).records == ()
    entry = await bus.lookup("ses_1")
    assert (entry.state, entry.erase) == ("ended", True)


async def test_close_gives_up_in_time_when_the_bus_stays_away(bus, fault, monkeypatch):
    monkeypatch.setattr(writing, "CLOSE_S", 0.2)
    writer = await open_writer(bus, CLOCK, session())
    async with fault.outage():
        writer.put([started()])
        async with asyncio.timeout(10):
            await writer.close()
    assert writer.statistics()["pending"] == 1


async def test_the_ring_is_listed_with_the_other_queues(bus):
    queues = Registry()
    writer = await open_writer(bus, CLOCK, session(), queues=queues)
    (listed,) = queues.statistics()
    assert (listed.kind.name, listed.instances) == ("writer_ring", 1)
    await writer.close()
    assert queues.statistics()[0].instances == 0


def closed_in_an_outage(outage_s, reason):
    """Return how many events are left unwritten by a session that ends in an outage."""
    loop = VirtualLoop()
    bus = MemoryBus(loop)
    writer = loop.run_until_complete(open_writer(bus, loop, session()))
    with bus.outage():
        bus.wipe()
        writer.put([started(), ended(1, reason=reason)])
        closing = loop.create_task(writer.close())
        loop.pass_time(outage_s)
    loop.run_until_complete(closing)
    loop.end()
    return writer.statistics()["pending"]


def test_the_end_of_a_session_outlasts_an_outage_of_half_a_minute():
    assert closed_in_an_outage(30, "publisher_left") == 0
    assert closed_in_an_outage(40, "publisher_left") == 2


def test_a_process_that_drains_has_no_half_minute():
    assert closed_in_an_outage(10, "drained") == 0
    assert closed_in_an_outage(20, "drained") == 2
