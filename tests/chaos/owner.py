"""A process that owns sessions: made-up calls, the real writer, and a book of what it wrote.

    python -m tests.chaos.owner --redis URL --book FILE --streams 3 --rate 8 --seconds 20

Ends its sessions after ``--seconds`` or on SIGTERM; killed, it leaves its book as far as it came.
"""

import argparse
import asyncio
import random
import signal
from pathlib import Path

import uvloop

from services.bus.redis import RedisBus
from services.bus.types import Session, StreamKey
from services.bus.writer import open_writer
from services.clock import SystemClock
from tests.chaos.call import Call, begin_line, end_line, event_lines


async def own(bus: RedisBus, name: str, given: argparse.Namespace, over: asyncio.Event) -> None:
    """Run one session to its end; a newer owner of the stream ends it too."""
    clock = SystemClock()
    chance = random.Random(f"{given.seed}-{name}")
    epoch = await bus.epoch(StreamKey("default", name), clock.wall_ms())
    session = f"ses_{name}_{given.owner}"
    call = Call(session, name, epoch, chance)
    fenced = asyncio.Event()
    entry = Session(session, "default", name, epoch, given.owner, "live", "self")
    writer = await open_writer(bus, clock, entry, on_stop=lambda _: fenced.set())
    with Path(given.book).open("a", buffering=1) as book:
        book.write(begin_line(call.book) + "\n")

        def put(made):
            book.write("".join(f"{line}\n" for line in event_lines(made)))
            writer.put(made)

        put(call.begin(clock.wall_ms()))
        while not (over.is_set() or fenced.is_set()):
            put(call.step(clock.wall_ms()))
            await asyncio.sleep(chance.uniform(0.5, 1.5) / given.rate)
        if not fenced.is_set():
            put(call.end(clock.wall_ms()))
            book.write(end_line(call.book) + "\n")
        await writer.close()
        left = writer.statistics()["pending"]
        state = writer.stopped or ("unwritten" if left else "written")
        print(f"{session} {state}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--redis", required=True)
    parser.add_argument("--book", required=True)
    parser.add_argument("--owner", default="ing_1")
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--rate", type=float, default=8.0, help="windows a second and stream")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", default="0")
    given = parser.parse_args()
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    async with RedisBus.at(given.redis) as bus, asyncio.TaskGroup() as sessions:
        for number in range(given.streams):
            sessions.create_task(own(bus, f"s{number}", given, over))
        print("ready", flush=True)
        loop.call_later(given.seconds, over.set)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.Loop) as runner:  # as in the product
        runner.run(main())
