"""Live streams through one real `demeanor up`: how many, how late, how much CPU and memory.

    python -m tests.bench.live streams --clients 6 8 10   # 60 s each: windows, skips, CPU a stream
    python -m tests.bench.live latency                    # end of window -> event at a client
    python -m tests.bench.live memory --seconds 600       # resident memory and its growth

Publishers run in their own processes and send packets encoded beforehand. Everything stays on
127.0.0.1. Figures hold for this machine in this run; compare ratios.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.events import SessionEnded, SessionStarted, WindowScored, WindowSkipped
from services.client import Link, Reader
from services.tasks import cancelled
from tests.bench import clip
from tests.e2e.harness import ROOT, Server, environment, launch

TICK_HZ = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SETTLE_S = 8.0
"""Publishers start Python and handshake on the same cores; what they delay is told apart."""


@dataclass
class Heard:
    """What one client of the event socket saw."""

    started_ms: dict[str, float] = field(default_factory=dict)
    late_ms: list[float] = field(default_factory=list)
    age_ms: list[float] = field(default_factory=list)
    score_ms: list[float] = field(default_factory=list)
    scored: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    ended: int = 0

    def fresh(self) -> "Heard":
        """Return books that are empty but for what sessions began and ended."""
        return Heard(started_ms=self.started_ms, ended=self.ended)

    @property
    def lost(self) -> dict[str, int]:
        """Windows that were skipped for any reason but the person's own."""
        return {reason: n for reason, n in self.skipped.items() if reason != "no_evidence"}


@dataclass
class Listener:
    """A client whose books can be changed while it reads."""

    heard: Heard = field(default_factory=Heard)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True)
class Usage:
    """CPU seconds and resident bytes of a process and its children."""

    cpu_s: float
    rss_bytes: int
    parts: Counter[str]
    """CPU seconds of the event loop, of the scorer's threads, of the decoder and of the bus."""


def usage(pid: int) -> Usage:
    rss, parts = 0, Counter[str]()
    for each in (pid, *children(pid)):
        for task in Path(f"/proc/{each}/task").iterdir():
            name = _part(each) if each != pid else "loop" if task.name == str(pid) else "workers"
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            parts[name] += (int(fields[11]) + int(fields[12])) / TICK_HZ
        rss += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * PAGE_BYTES
    return Usage(sum(parts.values()), rss, parts)


def _part(pid: int) -> str:
    return "decoder" if "confined" in Path(f"/proc/{pid}/cmdline").read_text() else "bus"


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    direct = [int(word) for word in text.split()]
    return direct + [grandchild for child in direct for grandchild in children(child)]


async def listen(server: Server, listener: Listener) -> None:
    async for item in Reader(server.events, "dev").events():
        now_ms = time.time_ns() / 1e6
        heard = listener.heard
        match item:
            case Link(state="live"):
                listener.ready.set()
            case SessionStarted(session_id=str(session)):
                moment = datetime.fromisoformat(item.started_at)
                heard.started_ms[session] = moment.timestamp() * 1000
            case WindowScored(session_id=str(session)) if session in heard.started_ms:
                heard.scored[session] += 1
                heard.late_ms.append(now_ms - heard.started_ms[session] - item.window.end_ms)
                heard.age_ms.append(item.timing.age_ms)
                heard.score_ms.append(item.timing.score_ms)
            case WindowSkipped():
                heard.skipped[item.reason] += 1
            case SessionEnded():
                heard.ended += 1


async def publish(server: Server, clip: Path, clients: int, seconds: float) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "push", str(clip), "--to", server.whip("bench")),
        *("--clients", str(clients), "--loop", "--duration", str(seconds)),
        cwd=ROOT,
        env=environment(server.runtime),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        told, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the publisher failed:\n{told.decode()}")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def measure(clip: Path, clients: int, seconds: float, *, trace: bool = False) -> None:
    """Run one round and print what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        server = await asyncio.to_thread(launch, Path(folder))
        try:
            await _round(server, clip, clients, seconds, trace=trace)
        finally:
            await asyncio.to_thread(server.stop)


async def _round(server: Server, clip: Path, clients: int, seconds: float, *, trace: bool) -> None:
    listener = Listener()
    idle = usage(server.process.pid)
    reading = asyncio.create_task(listen(server, listener))
    await listener.ready.wait()
    publisher = asyncio.create_task(publish(server, clip, clients, seconds + 2 * SETTLE_S))
    while len(listener.heard.started_ms) < clients and not publisher.done():
        await asyncio.sleep(0.05)
    await asyncio.sleep(SETTLE_S)
    early, listener.heard = listener.heard, listener.heard.fresh()
    before, began = usage(server.process.pid), time.monotonic()
    curve = [before.rss_bytes]
    while (left := began + seconds - time.monotonic()) > 0 and not publisher.done():
        await asyncio.sleep(min(10.0, left))
        curve.append(usage(server.process.pid).rss_bytes)
        if trace:
            print(f"  {time.monotonic() - began:6.0f} s  {curve[-1] / 2**20:7.1f} MiB", flush=True)
    after, took = usage(server.process.pid), time.monotonic() - began
    heard, listener.heard = listener.heard, listener.heard.fresh()
    await publisher
    while listener.heard.ended < clients:
        await asyncio.sleep(0.05)
    await cancelled(reading)
    _tell(heard, early, clients, took, spent(before, after, took), idle, curve)


def spent(before: Usage, after: Usage, took: float) -> dict[str, float]:
    """Return cores used between two readings, as a whole and by thread."""
    parts = {name: (cpu - before.parts[name]) / took for name, cpu in after.parts.items()}
    return {"all": (after.cpu_s - before.cpu_s) / took, **parts}


def _tell(
    heard: Heard,
    early: Heard,
    clients: int,
    took: float,
    cores: dict[str, float],
    idle: Usage,
    curve: list[int],
) -> None:
    scored = sum(heard.scored.values())
    mib = [size / 2**20 for size in curve]
    shares = ", ".join(f"{name} {share:.2f}" for name, share in cores.items() if name != "all")
    print(
        f"streams {clients:3d}  {took:.0f} s  windows scored {scored}, no evidence "
        f"{heard.skipped['no_evidence']}, lost {heard.lost or 0} (while publishers started: "
        f"{early.lost or 0})\n"
        f"  cpu      {cores['all']:.3f} cores, {cores['all'] / clients:.4f} a stream "
        f"(load average {os.getloadavg()[0]:.1f}): {shares}\n"
        f"  late ms  p50 {centile(heard.late_ms, 50):.0f}  p95 {centile(heard.late_ms, 95):.0f}"
        f"   (end of window -> event at the client)\n"
        f"  age ms   p50 {centile(heard.age_ms, 50):.0f}  p95 {centile(heard.age_ms, 95):.0f}"
        f"   score ms p50 {centile(heard.score_ms, 50):.0f}\n"
        f"  memory   idle {idle.rss_bytes / 2**20:.0f} MiB, running {mib[0]:.0f} -> {mib[-1]:.0f} "
        f"MiB, largest {max(mib):.0f} MiB",
        flush=True,
    )


def centile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("streams", "latency", "memory"))
    parser.add_argument("--clip", type=Path, help="left out: the sample, 640x360 at 30 a second")
    parser.add_argument("--clients", type=int, nargs="+", default=None)
    parser.add_argument("--seconds", type=float, default=None)
    given = parser.parse_args()
    rounds = given.clients or ([6] if given.what == "streams" else [1])
    seconds = given.seconds or (600.0 if given.what == "memory" else 60.0)
    with tempfile.TemporaryDirectory() as folder:
        call = given.clip or clip.make(Path(folder))
        print(f"{os.cpu_count()} cores, clip {call.name}")
        for clients in rounds:
            asyncio.run(measure(call, clients, seconds, trace=given.what == "memory"))


if __name__ == "__main__":
    main()
