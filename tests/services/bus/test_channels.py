"""The live path on a real server that goes away."""

import asyncio

import pytest

from pipeline.errors import BusError
from services.bus.channels import Channels
from services.bus.redis import RedisBus
from services.bus.types import Reconnected, StreamKey
from tests.services.events import KEY, record, started, take
from tests.services.valkey import Valkey

LATE = StreamKey("default", "late")


@pytest.fixture
def server():
    server = Valkey().start()
    yield server
    server.close()


async def test_a_subscription_made_during_an_outage_holds_after_it(server):
    async with RedisBus.at(server.url) as bus, bus.subscribe() as feed:
        await feed.add(KEY)
        server.kill()
        adding = asyncio.create_task(feed.add(LATE))
        await asyncio.to_thread(server.start)
        await asyncio.wait_for(adding, 10)
        assert bus.statistics()["reconnects_total"] == 1
        assert await take(feed, 1) == [Reconnected()]


async def test_a_subscription_given_up_while_it_waits(server):
    async with RedisBus.at(server.url) as bus, bus.subscribe() as feed:
        await feed.add(KEY)
        server.kill()
        while feed._channels._connection is not None:
            await asyncio.sleep(0)  # the reader notices when the socket says so
        adding = asyncio.create_task(feed.add(LATE))
        while "demeanor:res:{default:late}" not in feed._channels._names:
            await asyncio.sleep(0)
        await feed.remove(LATE)
        with pytest.raises(BusError):
            await asyncio.wait_for(adding, 10)


async def test_a_reader_that_falls_over_is_told(server, monkeypatch):
    def broken(self, answer):
        raise ValueError("a bug")

    async with RedisBus.at(server.url) as bus, bus.subscribe() as feed:
        assert bus.feeding
        server.kill()
        await asyncio.to_thread(server.start)  # an outage is no fault of the reader
        await asyncio.wait_for(feed.add(KEY), 10)
        assert bus.feeding
        monkeypatch.setattr(Channels, "_take", broken)
        await bus.append(KEY, [record(started(0))])
        async with asyncio.timeout(20):
            while bus.feeding:
                await asyncio.sleep(0.01)
