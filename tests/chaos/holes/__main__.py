"""Runs the attacks and prints one row each, with and without the guard."""

import asyncio
import sys

import structlog

from tests.chaos.holes.table import HOLES, Figures, Hole

LIMIT_S = 120


def main(names: list[str]) -> int:
    structlog.configure(processors=[lambda *_: _drop()])
    wrong = 0
    for hole in HOLES:
        if not names or hole.name in names:
            wrong += not _row(hole)
    return wrong


def _drop() -> None:
    raise structlog.DropEvent


def _row(hole: Hole) -> bool:
    guarded = asyncio.run(asyncio.wait_for(hole.attack(True), LIMIT_S))
    bare = asyncio.run(asyncio.wait_for(hole.attack(False), LIMIT_S))
    held, shown = hole.safe(guarded), hole.open(bare)
    print(
        f"{hole.name:4s} {hole.what}\n"
        f"     with the guard    {'holds ' if held else 'FAILS '} {_told(guarded)}\n"
        f"     without it        {'breaks' if shown else 'HOLDS?'} {_told(bare)}",
        flush=True,
    )
    return held and shown


def _told(figures: Figures) -> str:
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
