"""The live path on a real server that goes away."""

import asyncio

import pytest

from pipeline.errors import BusError
from services.bus.redis import RedisBus
from services.bus.types import Reconnected, StreamKey
from tests.services.events import KEY, take
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
