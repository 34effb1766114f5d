"""A process that reads as an application does, and writes down what it gets.

    python -m tests.chaos.watcher --file FILE ws://127.0.0.1:9001/v1/events …

One reader per address; reader N writes ``FILE.N``: events, gaps, and each change of its link with
the moment of it (monotonic seconds, the same clock in every process of a machine).
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

from pipeline.events import AnyEvent, Gap, SessionEnded
from services.client import Link, Reader
from tests.chaos.call import seen
from tests.chaos.ledger import Hole, line_of


def lines_of(item: AnyEvent | Link, now_s: float) -> list[str]:
    if isinstance(item, Link):
        return [json.dumps(["link", item.state, round(now_s, 3), item.detail])]
    if isinstance(item, Gap) and item.kind == "delivery":
        assert isinstance(item.from_seq, int)
        assert isinstance(item.to_seq, int)
        return [line_of(Hole(str(item.session_id), item.from_seq, item.to_seq))]
    if item.seq is None:
        return [json.dumps(["notice", item.session_id, getattr(item, "code", ""), now_s])]
    lines = [line_of(seen(item)), json.dumps(["at", round(now_s, 3)])]
    if isinstance(item, SessionEnded):
        counts = item.counts
        skipped = sum(counts.skipped.values())
        lines.append(json.dumps(["counts", item.session_id, counts.scored, skipped]))
    return lines


async def read(url: str, path: Path) -> None:
    with path.open("a", buffering=1) as file:
        async for item in Reader(url, "dev").events():
            for line in lines_of(item, time.monotonic()):
                file.write(line + "\n")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("urls", nargs="+")
    given = parser.parse_args()
    async with asyncio.TaskGroup() as readers:
        for number, url in enumerate(given.urls):
            path = given.file.with_name(f"{given.file.name}.{number}")
            readers.create_task(read(url, path))


if __name__ == "__main__":
    asyncio.run(main())
