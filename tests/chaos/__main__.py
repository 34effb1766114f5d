"""Faults on purpose, by hand: rounds of the nemesis, leaks, the soak.

python -m tests.chaos run --seeds 20 --round short      # one row per seed, then a summary
python -m tests.chaos run --seed 7 --round long         # one seed again
python -m tests.chaos zombie                            # an owner that wakes up too late
python -m tests.chaos away                              # away for longer than the log holds
python -m tests.chaos media                             # real media through real faults
python -m tests.chaos leak --readers 500 --publishers 50
python -m tests.chaos soak --minutes 30 --streams 4
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Coroutine
from typing import Any

from tests.chaos import leak, nemesis, soak, special


async def sweep(given: argparse.Namespace) -> int:
    """Play many seeds, a few at once; returns how many were not clean."""
    kind = nemesis.KINDS[given.round]
    seeds = (
        [given.seed]
        if given.seed is not None
        else list(range(given.first, given.first + given.seeds))
    )
    turn = asyncio.Semaphore(given.parallel)
    reports: list[nemesis.Report] = []
    broken: list[str] = []
    print(nemesis.HEADING, flush=True)

    async def one(seed: int) -> None:
        async with turn:
            try:
                report = await nemesis.run(seed, kind)
            except (RuntimeError, TimeoutError) as error:
                broken.append(f"{seed}: {error}")
                print(f"{seed:5d}  {error}", flush=True)
                return
        reports.append(report)
        print(report.row(), flush=True)
        for fault in report.verdict.faults[:5]:
            print(f"       {fault}", flush=True)

    async with asyncio.TaskGroup() as group:
        for seed in seeds:
            group.create_task(one(seed))
    dirty = [report.seed for report in reports if not report.clean]
    summary(reports)
    if dirty or broken:
        print(f"NOT CLEAN: seeds {dirty} {broken}; replay with --seed N --round {given.round}")
    return len(dirty) + len(broken)


def summary(reports: list[nemesis.Report]) -> None:
    waits = sorted(report.resumed_s for report in reports) or [0.0]
    total = nemesis.Verdict()
    for report in reports:
        total.add(report.verdict)
    print(
        f"{len(reports)} rounds on {os.cpu_count()} cores: {total.events} events at two readers, "
        f"lost {total.lost}, twice {total.twice}, gaps {total.gaps}; "
        f"{sum(report.windows for report in reports)} windows cut, books exact in "
        f"{sum(report.accounted for report in reports)}; resumed after "
        f"{waits[len(waits) // 2]:.1f} s (median), {waits[-1]:.1f} s at most"
    )


async def leaks(given: argparse.Namespace) -> int:
    """Connect and close many times; returns how many kinds left something behind."""
    found = [await leak.readers(given.readers), await leak.publishers(given.publishers)]
    faults = 0
    for one in found:
        print(one, flush=True)
        limit = leak.LIMIT_KIB[one.what]
        if not one.back or one.kib_per_cycle > limit:
            print(f"PASSED THE LIMIT: {one.what} (memory: {limit:.0f} KiB a cycle)")
            faults += 1
    return faults


async def played(report: Awaitable[nemesis.Report]) -> int:
    """Play one special round."""
    print(nemesis.HEADING, flush=True)
    made = await report
    print(made.row())
    for fault in made.verdict.faults:
        print(f"       {fault}")
    return 0 if made.clean else 1


def work(given: argparse.Namespace) -> Coroutine[Any, Any, int]:
    """Return what the command line asks for."""
    match given.verb:
        case "run":
            return sweep(given)
        case "zombie":
            return played(special.zombie(given.seed, given.seconds))
        case "media":
            return played(special.media(given.seed, given.seconds))
        case "leak":
            return leaks(given)
        case _:
            return soak.soak(given.minutes, given.streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="rounds of the nemesis")
    run.add_argument("--seeds", type=int, default=20)
    run.add_argument("--first", type=int, default=1)
    run.add_argument("--seed", type=int, default=None, help="play one seed again")
    run.add_argument("--round", choices=sorted(nemesis.KINDS), default="short")
    run.add_argument("--parallel", type=int, default=2)
    zombie = verbs.add_parser("zombie", help="an owner that wakes up after a takeover")
    zombie.add_argument("--seed", type=int, default=1)
    zombie.add_argument("--seconds", type=float, default=20.0, help="how long it sleeps")
    media = verbs.add_parser("media", help="real media through real faults")
    media.add_argument("--seed", type=int, default=1)
    media.add_argument("--seconds", type=float, default=3.0, help="how long each fault lasts")
    leaking = verbs.add_parser("leak", help="connects and closes")
    leaking.add_argument("--readers", type=int, default=500)
    leaking.add_argument("--publishers", type=int, default=50)
    soaking = verbs.add_parser("soak", help="live streams for long")
    soaking.add_argument("--minutes", type=float, default=30.0)
    soaking.add_argument("--streams", type=int, default=4)
    sys.exit(1 if asyncio.run(work(parser.parse_args())) else 0)


if __name__ == "__main__":
    main()
