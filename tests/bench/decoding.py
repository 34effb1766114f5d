"""What the decoder's own process costs: the same call by a thread and by the process, in turn.

    python -m tests.bench.decoding                 # 8 streams of 640x360, ten rounds of each
    python -m tests.bench.decoding --streams 16

Every round decodes the same half seconds of all streams, as fast as they go; thread and process
alternate, so what else the machine does meets both. Prints CPU a batch (ours and the child's) and
the time from handing a batch over to having it back, and their ratios. Then the child is killed
several times, to see how long it takes until it decodes again: a cold start, and with a spare.
"""

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import av

from pipeline.types import SLOT_TICKS, TICKS_PER_S, Kind
from services.ingest.collector import Encoded
from services.ingest.decoder import Decoded, Decoder
from services.ingest.decoding import SPARE_AFTER_S, Decoding
from services.queues import Registry
from tests.bench import clip

Decode = Callable[[str, Sequence[Encoded]], Awaitable[Decoded]]
KILLS = 5


@dataclass
class Cost:
    """What batches cost, round by round."""

    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)


def batches(path: Path) -> list[list[Encoded]]:
    """Return the call as the collector gives it: half a second at a time."""
    found: dict[int, list[Encoded]] = {}
    codecs: dict[str, tuple[Kind, str]] = {"h264": ("video", "H264"), "opus": ("audio", "opus")}
    with av.open(str(path)) as source:
        for packet in source.demux(video=0, audio=0):
            if packet.pts is None:
                continue
            kind, codec = codecs[packet.stream.codec_context.name]
            tick = int(packet.pts * packet.time_base * TICKS_PER_S)
            frame = Encoded(kind, codec, tick, bytes(packet), packet.is_keyframe)
            found.setdefault(tick // SLOT_TICKS, []).append(frame)
    return [found[slot] for slot in sorted(found)]


def cpu_s(pid: int) -> float:
    """Return the time a process has run, all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def memory_mb(pid: int) -> str:
    """Tell how much address space and memory a process has needed at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    space, resident = (int(values[name].split()[0]) // 1024 for name in ("VmPeak", "VmHWM"))
    return f"address space {space} MiB, resident {resident} MiB"


async def measure(
    decode: Decode, pids: Sequence[int], call: list[list[Encoded]], streams: int, cost: Cost
) -> None:
    names = [f"{id(cost)}-{number}" for number in range(streams)]
    spent_s = sum(map(cpu_s, pids))
    walls = []

    async def one(name: str) -> None:
        for batch in call:
            began_s = time.perf_counter()
            await decode(name, batch)
            walls.append(time.perf_counter() - began_s)

    for name in names:  # one after another: how long a batch takes that meets no other
        await one(name)
    cost.wall_ms.append(statistics.median(walls) * 1000)
    cost.cpu_ms.append((sum(map(cpu_s, pids)) - spent_s) / (len(call) * streams) * 1000)


async def compare(call: list[list[Encoded]], streams: int, rounds: int) -> None:
    decoder = Decoder()
    loop = asyncio.get_running_loop()
    thread, child = Cost(), Cost()
    with ThreadPoolExecutor(1) as executor:
        async with Decoding(Registry(), streams) as decoding:
            await decoding.ready()
            assert decoding.pid is not None
            ours, theirs = os.getpid(), decoding.pid

            async def by_thread(name: str, batch: Sequence[Encoded]) -> Decoded:
                return await loop.run_in_executor(executor, decoder.decode, name, batch)

            for _ in range(rounds):
                await measure(by_thread, [ours], call, streams, thread)
                for number in range(streams):
                    decoder.forget(f"{id(thread)}-{number}")
                await measure(decoding.decode, [ours, theirs], call, streams, child)
                held = memory_mb(theirs)
                for number in range(streams):
                    await decoding.forget(f"{id(child)}-{number}")
    print(f"{streams} streams in the process: {held}")
    for what, one, other in (
        ("cpu  ms a batch", thread.cpu_ms, child.cpu_ms),
        ("wall ms a batch", thread.wall_ms, child.wall_ms),
    ):
        ratios = [mine / its for its, mine in zip(one, other, strict=True)]
        print(
            f"{what}  thread {statistics.median(one):.2f}  process {statistics.median(other):.2f}"
            f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )


async def recover(call: list[list[Encoded]], *, spare: bool) -> None:
    """Kill the child and tell how long it takes until another has decoded a batch."""
    took = []
    async with Decoding(Registry(), 1) as decoding:
        for number in range(KILLS):
            await decoding.ready()
            await asyncio.sleep(SPARE_AFTER_S + 2.0 if spare else 0.2)
            killed = decoding.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            began_s = time.perf_counter()
            while decoding.pid in {killed, None}:
                await asyncio.sleep(0.001)
            await decoding.decode(str(number), call[0])
            took.append((time.perf_counter() - began_s) * 1000)
    print(
        f"killed -> decodes again, {'with' if spare else 'without'} a spare: "
        f"median {statistics.median(took):.0f} ms, longest {max(took):.0f} ms of {KILLS} "
        f"(load average {os.getloadavg()[0]:.1f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="of the call, each round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        call = batches(clip.make(Path(folder)))[: int(given.seconds * 2)]
    asyncio.run(compare(call, given.streams, given.rounds))
    for spare in (False, True):
        asyncio.run(recover(call, spare=spare))


if __name__ == "__main__":
    main()
