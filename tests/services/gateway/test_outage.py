"""The server under the bus is killed while a stream is live: nobody misses an event."""

import asyncio
import random
from contextlib import aclosing

import pytest
from websockets.exceptions import ConnectionClosed

from services import client
from services.bus.types import LOG_RECORDS, StreamKey
from services.bus.writer import open_writer
from services.gateway.feed import RECORDS
from tests.chaos.proxy import Proxy
from tests.services.events import alert, ended, scored, session, started
from tests.services.gateway.conftest import opened

STREAMS = 3
EVENTS = 120


class Owner:
    """Publishes one session through a writer, at a pace drawn by chance."""

    def __init__(self, bus, clock, number):
        self.bus = bus
        self.clock = clock
        self.session_id = f"ses_{number}"
        self.stream = f"s{number}"
        self.last = 0

    async def run(self, chance, begun, calm):
        """Live until the server stays up: what is lost after a writer closed, nobody has."""
        key = StreamKey("default", self.stream)
        epoch = await self.bus.epoch(key, self.clock.wall_ms())
        entry = session(self.session_id, stream=self.stream, epoch=epoch)
        writer = await open_writer(self.bus, self.clock, entry)
        await begun.wait()
        writer.put([started(0, self.session_id, self.stream)])
        seq = 0
        while seq < EVENTS or not calm.is_set():
            seq += 1
            make = alert if chance.random() < 0.1 else scored
            event = make(seq, self.session_id)
            writer.put([event])
            await asyncio.sleep(chance.random() * 0.03)  # the pace of a live stream
        self.last = seq + 1
        writer.put([ended(self.last, self.session_id)])
        await writer.close()


async def follow(bench, chance, ledger, gaps, owners):
    """Read every session to its end, with connections that break off now and then."""
    since = {}
    over = set()
    while len(over) < len(owners):
        until_s = asyncio.get_running_loop().time() + 0.2 + chance.random()
        async with bench.reader() as reader:
            if since:
                await reader.send(type="resume", id="2", since=since)
            else:
                await reader.send(type="subscribe", id="1", snapshot=False)
            try:
                async with asyncio.timeout_at(until_s):
                    while len(over) < len(owners):
                        note(await reader.next(), since, ledger, gaps, over)
            except (TimeoutError, ConnectionClosed):
                continue


def note(event, since, ledger, gaps, over):
    if event["type"] == "gap" and event["kind"] == "delivery":
        gaps.append(event)
    if event.get("seq") is None:
        return
    name, seq = event["session_id"], event["seq"]
    if seq <= since.get(name, -1):
        return
    since[name] = seq
    ledger.setdefault(name, []).append(seq)
    if event["type"] == "session.ended":
        over.add(name)


@pytest.mark.parametrize("seed", range(5))
async def test_killed_and_restarted_server_costs_no_event(valkey, redis_bench, seed):
    bench, chance = redis_bench, random.Random(seed)
    owners = [Owner(bench.bus, bench.clock, number) for number in range(STREAMS)]
    ledger, gaps = {}, []

    begun, calm = asyncio.Barrier(STREAMS + 1), asyncio.Event()

    async def nemesis():
        await begun.wait()  # nobody can publish a new session while the bus is away
        for _ in range(2):
            await asyncio.sleep(chance.uniform(0.0, 0.7))
            valkey.kill()
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            await asyncio.to_thread(valkey.start)
        calm.set()

    async with asyncio.timeout(60):
        steady, moving = {}, {}
        async with bench.reader() as reader, asyncio.TaskGroup() as group:
            await reader.send(type="subscribe", id="1")
            await reader.until("subscribed")
            for number, owner in enumerate(owners):
                group.create_task(owner.run(random.Random(f"{seed}-{number}"), begun, calm))
            group.create_task(nemesis())
            group.create_task(follow(bench, chance, moving, gaps, owners))
            since, over = {}, set()
            while len(over) < len(owners):
                note(await reader.next(), since, steady, gaps, over)
    for ledger in (steady, moving):
        assert set(ledger) == {owner.session_id for owner in owners}
        for owner in owners:
            numbers = ledger[owner.session_id]
            first = numbers[0] if ledger is moving else 0
            assert numbers == list(range(first, owner.last + 1)), (ledger is moving, gaps)
    assert gaps == []


@pytest.mark.parametrize(("back_at", "held"), [("the same", RECORDS), ("another", LOG_RECORDS)])
async def test_away_for_longer_than_is_held_is_one_exact_gap(redis_bench, back_at, held):
    """A cut that outlasts the log: the first news is the range that is gone, then the rest.

    The gateway where we were holds a little more than the log does, another one the log.
    """
    bench = redis_bench
    key = StreamKey("default", "s0")
    epoch = await bench.bus.epoch(key, bench.clock.wall_ms())
    writer = await open_writer(bench.bus, bench.clock, session("ses_0", stream="s0", epoch=epoch))
    writer.put([started(0, "ses_0", "s0"), scored(1, "ses_0")])
    items = []
    async with (
        asyncio.timeout(60),
        opened(bench.bus) as other,
        Proxy(("127.0.0.1", bench.gateway.ws_port)) as proxy,
    ):
        reader = client.Reader(f"ws://127.0.0.1:{proxy.port}/v1/events", "dev")
        async with aclosing(reader.events()) as events:
            while reader.since != {"ses_0": 1}:
                await anext(events)
            proxy.cut()
            for first in range(2, 502, 100):
                writer.put([scored(seq, "ses_0") for seq in range(first, first + 100)])
                while writer.statistics()["pending"]:
                    await asyncio.sleep(0.01)
            if back_at == "another":
                proxy.servers = (("127.0.0.1", other.gateway.ws_port),)
            proxy.heal()
            while reader.since != {"ses_0": 501}:
                items.append(await anext(events))
    await writer.close()
    news = [item for item in items if not isinstance(item, client.Link)]
    gap, rest = news[0], news[1:]
    assert (gap.kind, gap.from_seq, gap.to_seq) == ("delivery", 2, 501 - held)
    assert gap.cause == "log_trimmed"
    assert [event.seq for event in rest] == list(range(502 - held, 502))
