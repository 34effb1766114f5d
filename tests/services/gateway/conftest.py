"""A gateway over a bus, and a client that reads it."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from services.auth import Guard
from services.bus.memory import MemoryBus
from services.bus.redis import RedisBus
from services.clock import SystemClock
from services.gateway.app import Gateway
from services.settings import Settings
from tests.services import leftovers
from tests.services.events import record, session
from tests.services.identity.tokens import Issuer
from tests.services.valkey import Valkey

AUTH = {"Authorization": "Bearer dev"}


class Reader:
    """A client of the event socket that fails instead of waiting for ever."""

    def __init__(self, socket):
        self.socket = socket

    async def send(self, **message):
        await self.socket.send(json.dumps(message))

    async def next(self):
        return json.loads(await asyncio.wait_for(self.socket.recv(), 10))

    async def take(self, count):
        return [await self.next() for _ in range(count)]

    async def until(self, kind):
        """Return all messages up to the first of type ``kind``."""
        seen = []
        while not seen or seen[-1]["type"] != kind:
            seen.append(await self.next())
        return seen

    async def ask(self, **message):
        await self.send(**message)
        return await self.next()

    async def rest(self):
        """Return what still comes, and the close code."""
        seen = []
        try:
            async with asyncio.timeout(60):
                while True:
                    seen.append(json.loads(await self.socket.recv()))
        except ConnectionClosed as closed:
            return seen, closed.rcvd.code if closed.rcvd else 1006


class Bench:
    """A gateway, its bus, and sessions published by the test."""

    def __init__(self, gateway, bus):
        self.gateway = gateway
        self.bus = bus
        self.clock = gateway.clock

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.gateway.ws_port}/v1/events"

    @asynccontextmanager
    async def reader(self, *, headers=AUTH, greet=True, url=None, **options):
        async with connect(
            url or self.url,
            additional_headers=headers,
            subprotocols=["demeanor.v1.json"],
            close_timeout=1,
            **options,
        ) as socket:
            reader = Reader(socket)
            if greet:
                assert (await reader.next())["type"] == "hello"
            yield reader

    async def announce(self, session_id="ses_1", *, lease_ms=60_000, **more):
        entry = session(session_id, **more)
        await self.bus.announce(entry, self.clock.wall_ms() + lease_ms)
        return entry

    async def publish(self, *events, key, epoch=1000, role="self"):
        await self.bus.append(key, [record(event, epoch=epoch, role=role) for event in events])


@asynccontextmanager
async def opened(bus, **settings):
    made = Settings(ws_port=0, http_port=8080, **settings)
    async with Gateway(
        bus, guard=Guard.bound_to([made.host]), clock=SystemClock(), settings=made
    ) as gateway:
        yield Bench(gateway, bus)


@pytest.fixture(autouse=True)
async def nothing_is_left():
    async for _ in leftovers.watched():
        yield


@pytest.fixture
async def bench():
    async with opened(MemoryBus()) as bench:
        yield bench


@pytest.fixture
def valkey():
    server = Valkey().start()
    yield server
    server.close()


@pytest.fixture
async def redis_bench(valkey):
    async with RedisBus.at(valkey.url) as bus, opened(bus) as bench:
        yield bench


@pytest.fixture
def issuer(tmp_path):
    return Issuer(tmp_path)


@pytest.fixture
async def acme(issuer):
    """A gateway with tokens: tenant acme has ses_a and ses_b, tenant rival has ses_r."""
    from tests.services.gateway.trust import trusted

    async with trusted(issuer) as bench:
        await bench.session("ses_a", "a")
        await bench.session("ses_b", "b")
        await bench.session("ses_r", "a", "rival")
        yield bench
