"""One live stream with the explain tier on and off: does it delay a score?

    python -m tests.bench.explain_live              # three rounds of both, about 80 s
    python -m tests.bench.explain_live --rounds 4 --seconds 12

Two servers run side by side, one of them with a mid-size random model that explains its stream
every two seconds. A publisher streams to one, then to the other, in turn, so that whatever else the
machine does meets both. Prints the time from the end of a window to its event at a client, and what
became of the questions. Random weights: the figures are about time only, and hold for this machine.
"""

import argparse
import asyncio
import os
import re
import tempfile
import urllib.request
from pathlib import Path

from services.tasks import cancelled
from tests.bench import clip
from tests.bench.explain import write
from tests.bench.live import Listener, centile, listen, publish
from tests.e2e.harness import Server, launch

EVERY_S = 2
WARM_WINDOWS = 6
"""First windows of each phase that are not counted: the handshake is not what is asked about."""
TOLD = ("asked_total", "answered_total", "called_off_total", "failed_total", "lost_total")


class Side:
    """One server, and how late its windows were."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server
        self.listener = Listener()
        self.late_ms: list[float] = []
        self.lost = 0

    async def phase(self, call: Path, seconds: float) -> None:
        """Stream for so long and keep what was heard."""
        heard = self.listener.heard = self.listener.heard.fresh()
        await publish(self.server, call, 1, seconds)
        self.late_ms += heard.late_ms[WARM_WINDOWS:]
        self.lost += sum(heard.lost.values())

    def line(self) -> str:
        """Say how late windows were."""
        p50, p95 = (centile(self.late_ms, share) for share in (50, 95))
        return (
            f"{self.name:12} windows {len(self.late_ms):4}  lost {self.lost}  "
            f"p50 {p50:.0f} ms  p95 {p95:.0f} ms"
        )


def numbers(server: Server) -> str:
    """Return what became of the questions, from ``/metrics``."""
    with urllib.request.urlopen(f"{server.http}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    told = {
        name: found[1]
        for name in TOLD
        if (found := re.search(rf"^demeanor_explain_{name} (\S+)$", text, re.MULTILINE))
    }
    drops = re.findall(r'^demeanor_queue_dropped_total\{.*"explain".*$', text, re.MULTILINE)
    counts = ", ".join(f"{name.removesuffix('_total')} {value}" for name, value in told.items())
    return f"questions    {counts}\ndrops        {'; '.join(drops) or 'none'}"


async def measure(folder: Path, rounds: int, seconds: float) -> None:
    """Run all phases and print the figures."""
    model = await asyncio.to_thread(write, folder)
    call = clip.make(folder)
    flags = (
        *("--explain", str(model), "--explain-accept"),
        *("--explain-every-s", str(EVERY_S), "--explain-per-min", str(60 // EVERY_S)),
    )
    sides = []
    for name, options in (("tier off", ()), ("tier on", flags)):
        runtime = folder / name.replace(" ", "-")
        runtime.mkdir()
        sides.append(Side(name, await asyncio.to_thread(launch, runtime, *options)))
    readers = [asyncio.create_task(listen(side.server, side.listener)) for side in sides]
    try:
        for side in sides:
            await side.listener.ready.wait()
        for number in range(rounds):
            for side in sides if number % 2 == 0 else sides[::-1]:
                await side.phase(call, seconds)
        print(numbers(sides[1].server))
    finally:
        await cancelled(*readers)
        for side in sides:
            await asyncio.to_thread(side.server.stop)
    off, on = sides
    for side in sides:
        print(side.line())
    for share in (50, 95):
        ratio = centile(on.late_ms, share) / centile(off.late_ms, share)
        print(f"p{share} on / off  {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), given.rounds, given.seconds))


if __name__ == "__main__":
    main()
