"""The product as its users run it: one server process, real publishers, real clients."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.events import (
    AnyEvent,
    SessionEnded,
    SessionStarted,
    WindowScored,
    WindowSkipped,
    decode,
)
from services.client import Link, Reader
from tests.e2e.harness import ROOT, SAMPLE, Server, children, demeanor, environment, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
SECONDS = 14
SAME_TOP = 0.95
"""Share of windows whose top label must agree between the live path and the file path."""
MEAN_DIFFERENCE = 0.03
"""Mean absolute difference of the seven emotions; pushed pictures are encoded once more."""


async def publish(server: Server, stream: str, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "push", str(SAMPLE), "--to", server.whip(stream)),
        *options,
        cwd=ROOT,
        env=environment(server.runtime),
        stdout=asyncio.subprocess.DEVNULL,
    )


async def collect(reader: Reader, into: list[AnyEvent], live: asyncio.Event) -> None:
    """Read until the first session ended."""
    async for item in reader.events():
        if isinstance(item, Link):
            if item.state == "live":
                live.set()
            continue
        into.append(item)
        if isinstance(item, SessionEnded):
            return


async def watched(server: Server, stream: str, *options: str) -> list[AnyEvent]:
    """Publish the sample and return every event a client saw, to the session's end."""
    events: list[AnyEvent] = []
    live = asyncio.Event()
    reading = asyncio.create_task(collect(Reader(server.events, "dev"), events, live))
    await live.wait()
    publisher = await publish(server, stream, *options)
    await reading
    assert await publisher.wait() == 0
    return events


def by_index(events: list[AnyEvent]) -> dict[int, WindowScored]:
    return {each.window.index: each for each in events if isinstance(each, WindowScored)}


def sequence(events: list[AnyEvent]) -> list[int]:
    return [each.seq for each in events if each.seq is not None]


def test_a_clip_says_the_same_live_and_from_its_file(server: Server, tmp_path: Path) -> None:
    done = demeanor(
        "run", "--source", str(SAMPLE), "--out", str(tmp_path), "--plain", runtime=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "sample.demeanor.jsonl").read_bytes().splitlines()
    filed = by_index([decode(line) for line in lines])
    events = asyncio.run(watched(server, "same", "--duration", str(SECONDS)))
    live = by_index(events)
    both = sorted(filed.keys() & live.keys())
    assert len(both) >= SECONDS
    same = [filed[index].top == live[index].top for index in both]
    assert sum(same) >= SAME_TOP * len(both)
    differences = [
        abs(filed[index].emotions[label] - live[index].emotions[label])
        for index in both
        for label in filed[index].emotions
    ]
    assert sum(differences) / len(differences) <= MEAN_DIFFERENCE


def test_a_live_session_tells_its_whole_story_in_order(server: Server) -> None:
    events = asyncio.run(watched(server, "story", "--duration", "6"))
    assert isinstance(events[0], SessionStarted)
    assert (events[0].stream, events[0].source.kind) == ("story", "whip")
    assert sequence(events) == list(range(len(events)))
    ended = events[-1]
    assert isinstance(ended, SessionEnded)
    windows = [each for each in events if isinstance(each, (WindowScored, WindowSkipped))]
    assert ended.counts.scored + sum(ended.counts.skipped.values()) == len(windows)
    assert [each.window.index for each in windows] == list(range(len(windows)))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def bus_server(server: Server) -> int:
    """Return the process id of the embedded bus server."""
    (pid,) = (
        each
        for each in children(server.process.pid)
        if "valkey" in Path(f"/proc/{each}/cmdline").read_text()
        or "redis" in Path(f"/proc/{each}/cmdline").read_text()
    )
    return pid


def test_killing_the_process_leaves_nothing_behind(own_server: Callable[..., Server]) -> None:
    server = own_server()
    left = children(server.process.pid)
    assert left
    server.process.kill()
    server.over()
    until(lambda: not any(map(alive, left)))


def test_a_second_instance_names_the_first(
    own_server: Callable[..., Server], tmp_path: Path
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = one.getsockname()[1], two.getsockname()[1]
    flags = [f"--http-port={ports[0]}", f"--ws-port={ports[1]}"]
    first = own_server(*flags)
    second = demeanor("up", "--no-open", *flags, runtime=tmp_path)
    assert second.returncode == 75
    assert str(first.process.pid) in second.stderr


def test_a_busy_port_gives_way_to_the_next(own_server: Callable[..., Server]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = own_server(f"--http-port={port}")
        assert urlsplit(server.http).port != port


def test_a_bus_that_dies_loses_no_event(own_server: Callable[..., Server]) -> None:
    server = own_server()

    async def story() -> list[AnyEvent]:
        events: list[AnyEvent] = []
        live = asyncio.Event()
        reading = asyncio.create_task(collect(Reader(server.events, "dev"), events, live))
        await live.wait()
        publisher = await publish(server, "outage", "--duration", "16")
        while len(by_index(events)) < 4:
            await asyncio.sleep(0.05)
        os.kill(bus_server(server), signal.SIGKILL)
        await reading
        assert await publisher.wait() == 0
        return events

    events = asyncio.run(story())
    assert sequence(events) == list(range(len(events)))
    assert len(by_index(events)) > 12


def test_an_interrupt_drains(own_server: Callable[..., Server]) -> None:
    server = own_server()
    server.process.send_signal(signal.SIGINT)
    assert server.over() == 0
