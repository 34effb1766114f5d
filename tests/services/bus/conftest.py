"""One bus contract, two buses: in memory and on a real server."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from services.bus.memory import MemoryBus
from services.bus.redis import RedisBus
from tests.services import leftovers
from tests.services.valkey import Valkey


class MemoryFault:
    """The faults of a server, in memory."""

    def __init__(self, bus):
        self.bus = bus

    @asynccontextmanager
    async def outage(self, *, wipe=True):
        with self.bus.outage():
            if wipe:
                self.bus.wipe()
            yield

    async def wipe(self):
        self.bus.wipe()


class ServerFault:
    """The same faults on a real server."""

    def __init__(self, server, bus):
        self.server = server
        self.bus = bus

    @asynccontextmanager
    async def outage(self, *, wipe=True):
        assert wipe, "a killed server has lost everything"
        self.server.kill()
        yield
        await asyncio.to_thread(self.server.start)

    async def wipe(self):
        await self.bus._client.flushall()


@pytest.fixture(autouse=True)
async def nothing_is_left():
    async for _ in leftovers.watched():
        yield


@pytest.fixture(scope="session")
def valkey():
    server = Valkey().start()
    yield server
    server.close()


@pytest.fixture(params=["memory", "valkey"])
async def bus(request):
    if request.param == "memory":
        yield MemoryBus()
        return
    server = request.getfixturevalue("valkey")
    async with RedisBus.at(server.url) as bus:
        await bus._client.flushall()
        yield bus


@pytest.fixture
def fault(bus, request):
    if isinstance(bus, MemoryBus):
        return MemoryFault(bus)
    return ServerFault(request.getfixturevalue("valkey"), bus)
