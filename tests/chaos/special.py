"""Two rounds of their own: an owner that wakes up too late, and real media through real faults."""

import asyncio
import contextlib
import shutil
import tempfile
import time
from pathlib import Path

from services.bus.redis import RedisBus
from services.bus.types import StreamKey
from tests.bench import clip
from tests.chaos.ledger import Counts, Seen, Verdict, alone, judge_all, read_books, read_lines, rows
from tests.chaos.nemesis import (
    CATCH_UP_S,
    GATEWAY,
    NETWORK,
    REDIS,
    STREAMS,
    Fault,
    Kind,
    Report,
    Stage,
    ended,
    exact,
    resumed,
    schedule,
    stage,
    strike,
    until,
)
from tests.chaos.processes import Program, free_port
from tests.chaos.proxy import Proxy
from tests.e2e.harness import launch
from tests.services.valkey import PASSWORD, Valkey

RATE = 8.0
PUBLISHERS = 2


async def zombie(seed: int, seconds: float) -> Report:
    """Freeze the owner, let another take its streams over, let the first one wake up.

    Nothing that it writes then may enter a log or reach a reader.
    """
    began_s = time.monotonic()
    fault = Fault("owner-freeze", 2.0, seconds)
    async with stage(seed, RATE, seconds + CATCH_UP_S) as made:
        await asyncio.sleep(fault.at_s)
        made.owner.freeze()
        await asyncio.sleep(seconds / 2)
        second = _second_owner(made, seed)
        try:
            await second.start()
            await second.ready()
            await until(lambda: len(read_books(made.folder / "book.1")) == STREAMS, "taken over")
            await asyncio.sleep(seconds / 2)
            tops = await _tops(made)
            made.owner.thaw()
            made.healed_s.append(time.monotonic())
            await made.owner.over()  # it is told and ends by itself
            await asyncio.sleep(1.0)
            second.terminate()
            await second.over()
            return await _judged(seed, fault, made, tops, began_s)
        finally:
            await second.close()


def _second_owner(made: Stage, seed: int) -> Program:
    url = f"redis://:{PASSWORD}@127.0.0.1:{made.gateway_link.port}"
    return Program(
        made.folder,
        "second",
        *("tests.chaos.owner", "--redis", url, "--book", str(made.folder / "book.1")),
        *("--owner", "ing_2", "--streams", str(STREAMS), "--rate", str(RATE)),
        *("--seconds", "120", "--seed", f"{seed}-second"),
    )


async def _tops(made: Stage) -> dict[str, int]:
    """Return the newest seq of each of the first owner's sessions that is in a log."""
    tops = {}
    async with RedisBus.at(made.valkey.url) as bus:
        for book in read_books(made.book):
            stream = book.session.split("_")[1]
            held = await bus.replay(StreamKey("default", stream), book.epoch, -1)
            tops[book.session] = held.records[-1].header.seq
    return tops


async def _judged(
    seed: int, fault: Fault, made: Stage, tops: dict[str, int], began_s: float
) -> Report:
    old, new = read_books(made.book), read_books(made.folder / "book.1")
    with contextlib.suppress(TimeoutError):
        await until(lambda: all(ended(path, new) for path in made.heard), "all is read")
    total = Verdict()
    for path in made.heard:
        lines = read_lines(path)
        total.add(judge_all(lines, [*old, *new]))
        total.faults += [
            f"stale: {line} after the takeover at {tops[line.session]}"
            for line in lines
            if isinstance(line, Seen) and line.seq > tops.get(line.session, line.seq)
        ]
    if tops != await _tops(made):
        total.faults.append("stale events have entered a log")
    fenced = sum(line.endswith(" fenced") for line in made.owner.told)
    if fenced != STREAMS:
        total.faults.append(f"{fenced} of {STREAMS} old sessions were told: {made.owner.told}")
    return Report(
        seed=seed,
        faults=[fault],
        verdict=total,
        windows=sum(book.cut or 0 for book in new),
        accounted=all(exact(path, new) for path in made.heard),
        resumed_s=max(resumed(path, made.healed_s) for path in made.heard),
        took_s=time.monotonic() - began_s,
    )


async def media(seed: int, seconds: float) -> Report:
    """Publish real media to a real ``demeanor up`` while Redis, a gateway and the network fail."""
    began_s = time.monotonic()
    kind = Kind((REDIS, GATEWAY, NETWORK), (seconds / 2, seconds))
    faults = schedule(seed, kind)
    lasts_s = max(fault.at_s + fault.for_s for fault in faults) + 4.0
    folder = Path(tempfile.mkdtemp(prefix="nemesis-"))
    async with contextlib.AsyncExitStack() as closing:
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        valkey = await asyncio.to_thread(lambda: Valkey().start())
        closing.callback(valkey.close)
        links = [
            await closing.enter_async_context(Proxy(str(valkey.socket), seed=f"{seed}-{name}"))
            for name in ("owner", "gateways")
        ]
        urls = [f"redis://:{PASSWORD}@127.0.0.1:{link.port}" for link in links]
        secret = folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(PASSWORD)
        bus = ("--redis-url", f"redis://127.0.0.1:{links[0].port}")
        server = await asyncio.to_thread(launch, folder, *bus, "--redis-password-file", str(secret))
        closing.push_async_callback(asyncio.to_thread, server.stop)
        port = free_port()
        door = Program(
            folder, "gateway", "tests.chaos.door", "--redis", urls[1], "--port", str(port)
        )
        own = int(server.events.partition("//")[2].partition("/")[0].rpartition(":")[2])
        front = await closing.enter_async_context(
            Proxy(("127.0.0.1", port), ("127.0.0.1", own), seed=f"{seed}-front")
        )
        readers = Program(
            folder,
            "readers",
            *("tests.chaos.watcher", "--file", str(folder / "reader")),
            *(f"ws://127.0.0.1:{front.port}/v1/events", f"ws://127.0.0.1:{own}/v1/events"),
        )
        publisher = Program(
            folder,
            "publisher",
            *("services.cli", "push", str(await asyncio.to_thread(clip.make, folder)), "--loop"),
            *("--to", server.whip("cam"), "--clients", str(PUBLISHERS)),
            *("--duration", str(lasts_s + 10.0)),
        )
        for program in (door, readers, publisher):
            closing.push_async_callback(program.close)
        await door.start()
        await door.ready()
        await readers.start()
        made = Stage(folder, valkey, links[0], links[1], front, [door], readers, publisher)
        await publisher.start()
        await until(
            lambda: all(len(_sessions(path)) == PUBLISHERS for path in made.heard), "media flows"
        )
        async with asyncio.TaskGroup() as strikes:
            for number, fault in enumerate(faults):
                strikes.create_task(strike(made, fault, number))
        await publisher.over()
        with contextlib.suppress(TimeoutError):
            await until(
                lambda: all(len(_ends(path)) == PUBLISHERS for path in made.heard), "all has ended"
            )
        return _of_media(seed, faults, made, time.monotonic() - began_s)


def _sessions(path: Path) -> set[str]:
    return {line.session for line in read_lines(path)}


def _ends(path: Path) -> dict[str, Counts]:
    return {
        str(row[1]): Counts(int(str(row[2])), int(str(row[3])))
        for row in rows(path)
        if row[0] == "counts"
    }


def _of_media(seed: int, faults: list[Fault], made: Stage, took_s: float) -> Report:
    total, windows = Verdict(), 0
    for path in made.heard:
        ends = _ends(path)
        for session in sorted(_sessions(path)):
            lines = [line for line in read_lines(path) if line.session == session]
            if session not in ends:
                total.lost += 1
                total.faults.append(f"{session} never ended at {path.name}")
            else:
                total.add(alone(lines, ends[session]))
                windows += ends[session].scored + ends[session].skipped
    return Report(
        seed=seed,
        faults=faults,
        verdict=total,
        windows=windows // 2,
        accounted=not any("counts" in fault for fault in total.faults),
        resumed_s=max(resumed(path, made.healed_s) for path in made.heard),
        took_s=took_s,
    )
