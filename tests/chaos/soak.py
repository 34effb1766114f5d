"""Hours in minutes: live streams through one real ``demeanor up``, and what each process holds.

Once a minute: resident memory, threads and files of the server, its decoder and its Redis server,
and the server's tasks. Growth is judged after the warm-up, by the least-squares slope.
"""

import asyncio
import re
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path

from pipeline.events import Gap, SessionEnded, WindowScored, WindowSkipped
from services.client import Reader
from services.ingest.decoding import WORKER
from services.tasks import cancelled
from tests.bench import clip
from tests.chaos.gauges import Held, family, held, slope
from tests.e2e.harness import ROOT, Server, environment, launch

MIB_PER_10_MIN = 1.0
WARM_UP_MIN = 3.0
"""Not judged: until then logs and pools fill; half of a shorter soak."""
READINGS = 30
SPARE = 2
_TASKS = re.compile(r"^demeanor_process_tasks(?:\{\})? ([0-9.]+)$", re.MULTILINE)


class Heard:
    """What a reader counted over the whole soak."""

    def __init__(self) -> None:
        self.windows: Counter[str] = Counter()
        self.gaps = 0
        self.wrong: list[str] = []
        self._of: dict[str, Counter[str]] = defaultdict(Counter)

    async def read(self, server: Server) -> None:
        async for item in Reader(server.events, "dev").events():
            match item:
                case WindowScored(session_id=str(session)):
                    self._of[session]["scored"] += 1
                    self.windows["scored"] += 1
                case WindowSkipped(session_id=str(session)):
                    self._of[session]["skipped"] += 1
                    self.windows[item.reason] += 1
                case Gap(kind="delivery"):
                    self.gaps += 1
                case SessionEnded(session_id=str(session)):
                    self._close(session, item)
                case _:
                    pass

    def _close(self, session: str, end: SessionEnded) -> None:
        told = (end.counts.scored, sum(end.counts.skipped.values()))
        mine = (self._of[session]["scored"], self._of[session]["skipped"])
        if told != mine:
            self.wrong.append(f"a session's end says {told}, its events say {mine}")
        self.windows["ended"] += 1


def tasks(server: Server) -> int:
    """Return how many tasks the server runs, as its metrics say."""
    with urllib.request.urlopen(f"{server.http}/metrics", timeout=10) as answer:
        found = _TASKS.search(answer.read().decode())
    return int(float(found[1])) if found else -1


def name_of(pid: int, server: Server) -> str:
    """Return what a process is to the product."""
    if pid == server.process.pid:
        return "server"
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    if b"valkey" in words[0] or b"redis" in words[0]:
        return "redis"
    return "decoder" if WORKER.encode() in words else "helper"


async def soak(minutes: float, streams: int) -> int:
    """Run, print a table; returns how many limits were passed."""
    with tempfile.TemporaryDirectory() as folder:
        call = clip.make(Path(folder))
        server = await asyncio.to_thread(launch, Path(folder))
        try:
            return await _watch(server, call, minutes, streams)
        finally:
            await asyncio.to_thread(server.stop)


async def _watch(server: Server, call: Path, minutes: float, streams: int) -> int:
    heard = Heard()
    reading = asyncio.create_task(heard.read(server))
    seconds = minutes * 60
    publisher = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "push", str(call), "--loop"),
        *("--to", server.whip("soak"), "--clients", str(streams), "--duration", str(seconds)),
        cwd=ROOT,
        env=environment(server.runtime),
        stdout=asyncio.subprocess.DEVNULL,
    )
    rows = await _readings(server, seconds)
    await publisher.wait()
    deadline_s = time.monotonic() + 30
    while heard.windows["ended"] < streams and time.monotonic() < deadline_s:
        await asyncio.sleep(0.2)
    await cancelled(reading)
    return _judge(rows, heard, streams)


Row = tuple[float, dict[str, Held], int]


async def _readings(server: Server, seconds: float) -> list[Row]:
    rows: list[Row] = []
    began_s, every_s = time.monotonic(), max(5.0, seconds / READINGS)
    print(f"{'minute':>6s}  {'MiB, threads and files of each process':64s}  tasks", flush=True)
    while (now_s := time.monotonic() - began_s) < seconds:
        each = {name_of(pid, server): held(pid) for pid in family(server.process.pid)}
        rows.append((now_s / 60, each, await asyncio.to_thread(tasks, server)))
        told = "  ".join(f"{name} {what}" for name, what in sorted(each.items()))
        print(f"{rows[-1][0]:6.1f}  {told:64s}  {rows[-1][2]}", flush=True)
        await asyncio.sleep(min(every_s, max(0.0, seconds - now_s)))
    return rows


def _more(first: Held, last: Held) -> bool:
    """Tell whether threads or files grew; a pool may take a connection or two more."""
    return last.threads > first.threads + SPARE or last.files > first.files + SPARE


def _judge(rows: list[Row], heard: Heard, streams: int) -> int:
    warm_min = min(WARM_UP_MIN, rows[-1][0] / 2)
    judged = [row for row in rows if row[0] >= warm_min]
    faults = list(heard.wrong)
    for name in sorted({name for _, each, _ in judged for name in each}):
        points = [(at, each[name].rss_kib / 1024) for at, each, _ in judged if name in each]
        growth = 10 * slope(points)
        print(f"{name}: {growth:+.2f} MiB per 10 minutes after the warm-up")
        if growth > MIB_PER_10_MIN:
            faults.append(f"{name} grows by {growth:.2f} MiB per 10 minutes")
        last, first = judged[-1][1].get(name), judged[0][1].get(name)
        if first and last and _more(first, last):
            faults.append(f"{name} holds more than at the warm-up's end: {first} -> {last}")
    if heard.windows["ended"] != streams:
        faults.append(f"{heard.windows['ended']} of {streams} sessions ended")
    print(f"windows {dict(heard.windows)}, delivery gaps {heard.gaps}")
    for fault in faults:
        print(f"PASSED THE LIMIT: {fault}")
    return len(faults)
