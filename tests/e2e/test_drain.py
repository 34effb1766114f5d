"""How a server ends: with nothing lost, in time, whatever is away, and by whom it may be asked."""

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import aiohttp
import pytest

from pipeline.events import AnyEvent, SessionEnded, WindowScored, decode
from services.bus.redis import RedisBus
from services.bus.types import StreamKey
from services.client import Link, Reader
from services.tasks import cancelled
from tests.e2e.harness import Server, demeanor
from tests.e2e.test_product import publish
from tests.services.valkey import PASSWORD, Valkey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
LIMIT_S = 30
AUTH = {"Authorization": "Bearer dev"}


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with closing(Valkey().start()) as running:
        yield running


def on(valkey: Valkey) -> list[str]:
    """Return the flags of a server on this bus."""
    password = valkey.folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    return [f"--redis-url=unix://{valkey.socket}", f"--redis-password-file={password}"]


QUEUES = {
    *("udp_socket", "ice_rx", "jitter", "decoder_in", "decoder_batches"),
    *("decoded_video", "decoded_audio", "windows_stream", "scorer_in", "sequencer"),
    *("writer_ring", "bus_feed", "gw_cache", "gw_out", "gw_in", "connections", "audit_out"),
}
"""What a composed process with a publisher and a reader can fill (reliability, section 3)."""


async def listed(server: Server) -> None:
    """Look whether every queue says its bound, its rule, its depth and what it dropped."""
    session = aiohttp.ClientSession(server.http, headers=AUTH)
    async with session as client, client.get("/metrics") as answer:
        text = await answer.text()
    books = dict(
        re.findall(r"demeanor_ingest_windows_(cut_total|scored_total|in_flight) (\S+)", text)
    )
    skipped = re.findall(r'demeanor_ingest_windows_skipped_total{reason="\w+"} (\S+)', text)
    left = float(books["scored_total"]) + float(books["in_flight"]) + sum(map(float, skipped))
    assert float(books["cut_total"]) == left > 0
    for name in ("depth", "dropped_total"):
        assert set(re.findall(rf'demeanor_queue_{name}{{.*?queue="(\w+)"', text)) >= QUEUES
    bounds = re.findall(r'demeanor_queue_bound{queue="(\w+)",rule="(\w+)",unit="\w+"} (\S+)', text)
    assert {name for name, _, _ in bounds} >= QUEUES
    assert all(float(bound) >= 1 for _, _, bound in bounds)


def log_of(server: Server) -> str:
    return (server.runtime / "server.log").read_text()


class Ledger:
    """What one client saw, by its own account."""

    def __init__(self, server: Server) -> None:
        self.events: list[AnyEvent] = []
        self.live = asyncio.Event()
        self._reader = Reader(server.events, "dev")

    async def read(self) -> None:
        async for item in self._reader.events():
            if isinstance(item, Link):
                if item.state == "live":
                    self.live.set()
            elif item.seq is not None:
                self.events.append(item)

    async def scored(self, count: int) -> None:
        async with asyncio.timeout(60):
            while sum(isinstance(event, WindowScored) for event in self.events) < count:
                await asyncio.sleep(0.02)

    @property
    def reasons(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, SessionEnded)]


async def held(url: str, stream: str, epoch_of: AnyEvent) -> list[bytes]:
    """Return the whole log of a stream, straight from the bus."""
    async with RedisBus.at(url) as bus:
        key = StreamKey("default", stream)
        last = await bus.last(key)
        assert last is not None
        assert last.header.session_id == epoch_of.session_id
        return [record.data for record in (await bus.replay(key, last.header.epoch, -1)).records]


def test_a_signal_loses_nothing(own_server: Callable[..., Server], valkey: Valkey) -> None:
    server = own_server(*on(valkey))

    async def story() -> tuple[Ledger, list[bytes], int]:
        ledger = Ledger(server)
        reading = asyncio.create_task(ledger.read())
        await ledger.live.wait()
        publisher = await publish(server, "drain", "--loop")
        await ledger.scored(4)
        await listed(server)
        server.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(server.over)
        await cancelled(reading)
        await publisher.wait()
        return ledger, await held(valkey.url, "drain", ledger.events[0]), code

    began = time.monotonic()
    ledger, log, code = asyncio.run(story())
    assert code == 0, log_of(server)
    assert time.monotonic() - began < 90
    assert ledger.reasons == ["drained"]
    assert ledger.events == [decode(data) for data in log]
    assert [event.seq for event in ledger.events] == list(range(len(log)))
    told = log_of(server)
    assert "Traceback" not in told
    assert "Task was destroyed" not in told


def test_a_bus_that_is_away_does_not_keep_it(
    own_server: Callable[..., Server], valkey: Valkey
) -> None:
    server = own_server(*on(valkey))

    async def story() -> float:
        ledger = Ledger(server)
        reading = asyncio.create_task(ledger.read())
        await ledger.live.wait()
        publisher = await publish(server, "away", "--loop")
        await ledger.scored(1)
        valkey.kill()
        async with aiohttp.ClientSession(server.http) as client:
            async with client.get("/livez") as alive:
                assert alive.status == 200
            async with client.get("/readyz") as ready:
                assert ready.status == 503
                assert (await ready.json())["checks"]["bus"] != "ok"
        asked = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.over)
        took = time.monotonic() - asked
        await cancelled(reading)
        await publisher.wait()
        return took

    assert asyncio.run(story()) <= LIMIT_S
    assert server.process.returncode == 0, log_of(server)
    assert "Task was destroyed" not in log_of(server)


def test_a_soft_drain_lets_streams_end_by_themselves(own_server: Callable[..., Server]) -> None:
    server = own_server()

    async def story() -> Ledger:
        ledger = Ledger(server)
        reading = asyncio.create_task(ledger.read())
        await ledger.live.wait()
        publisher = await publish(server, "soft", "--duration", "4")
        await ledger.scored(1)
        draining = asyncio.create_task(asyncio.to_thread(drain, server))
        async with aiohttp.ClientSession(server.http, headers=AUTH) as client:
            while (problem := await ask(client)).get("code") != "draining":
                await asyncio.sleep(0.05)
            assert problem["status"] == 503
            async with client.get("/readyz") as ready:
                assert ready.status == 503
                assert (await ready.json())["checks"]["draining"] == "draining"
        assert await publisher.wait() == 0
        done = await draining
        assert done.returncode == 0, done.stderr
        await asyncio.to_thread(server.over)
        await cancelled(reading)
        return ledger

    ledger = asyncio.run(story())
    assert server.process.returncode == 0, log_of(server)
    assert ledger.reasons == ["publisher_left"]


async def ask(client: aiohttp.ClientSession) -> dict[str, Any]:
    async with client.post("/whip/other", data="v=0") as answer:
        told: dict[str, Any] = await answer.json(content_type=None)
        assert answer.status != 503 or 3 <= int(answer.headers["Retry-After"]) <= 8
        return told


def drain(server: Server) -> subprocess.CompletedProcess[str]:
    return demeanor("drain", "--to", server.http, "--soft", "60", runtime=server.runtime)
