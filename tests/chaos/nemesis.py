"""Faults on purpose against real processes, at seeded times, and the proof of what they cost.

One round: a Valkey server, an ingest process that owns three streams, two gateways, two readers in
a process of their own, and proxies between all of them. When the faults are over the sessions end,
and the ledger checker holds what each reader's application saw against the owner's book.
"""

import asyncio
import contextlib
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.ledger import Book, Verdict, judge_all, read_books, read_lines, rows
from tests.chaos.processes import Program, free_port
from tests.chaos.proxy import BLACK_HOLE, HALF_OPEN, SLICED, Proxy
from tests.services.valkey import PASSWORD, Valkey

CATCH_UP_S = 60.0
"""How long readers may take to have everything after the last fault."""
STREAMS = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that happens."""

    name: str
    at_s: float
    """Seconds after everybody is connected."""
    for_s: float

    def __str__(self) -> str:
        return f"{self.name}@{self.at_s:.1f}+{self.for_s:.1f}"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a round is made of."""

    pools: tuple[tuple[str, ...], ...]
    """One fault is drawn from each."""
    for_s: tuple[float, float]
    apart_s: tuple[float, float] = (0.5, 2.0)
    rate: float = 8.0
    """Windows a second and stream."""
    calm_s: float = 1.5


REDIS = ("bus-kill", "bus-kill", "bus-freeze", "bus-cut-owner", "bus-cut-gateways")
GATEWAY = ("gateway-kill", "gateway-kill", "gateway-term", "gateway-freeze")
NETWORK = ("net-cut", "net-cut", "net-hole", "net-half", "net-slices")
KINDS = {
    "short": Kind((REDIS, GATEWAY, NETWORK), (0.3, 2.0)),
    "long": Kind((REDIS, GATEWAY, NETWORK), (8.0, 26.0), rate=4.0, calm_s=3.0),
}


def schedule(seed: int, kind: Kind) -> list[Fault]:
    """Return the faults of a seed: one from each pool, in an order of its own."""
    chance = random.Random(f"schedule-{seed}")
    pools = list(kind.pools)
    chance.shuffle(pools)
    faults, at_s = [], chance.uniform(0.5, 1.5)
    for pool in pools:
        fault = Fault(chance.choice(pool), at_s, chance.uniform(*kind.for_s))
        faults.append(fault)
        # now and then the next one begins before this one is over
        overlap = chance.random() < 0.25
        at_s += (fault.for_s / 2 if overlap else fault.for_s) + chance.uniform(*kind.apart_s)
    return faults


@dataclass(slots=True)
class Report:
    """What one round cost."""

    seed: int
    faults: list[Fault]
    verdict: Verdict
    windows: int
    """Windows cut by all sessions."""
    accounted: bool
    """Whether every session's end adds up."""
    resumed_s: float
    """From the end of the last fault to the next event, at the reader that waited longer."""
    took_s: float

    @property
    def clean(self) -> bool:
        return self.accounted and not self.verdict.faults and not self.verdict.lost

    def row(self) -> str:
        told = " ".join(map(str, self.faults))
        verdict = self.verdict
        return (
            f"{self.seed:5d}  {told:64s}  {verdict.events:6d}  {verdict.lost:4d}  "
            f"{verdict.twice:5d}  {verdict.gaps:4d}  {self.resumed_s:7.1f}  "
            f"{'exact' if self.accounted else 'WRONG':8s}  {self.took_s:5.0f}"
        )


HEADING = (
    f"{'seed':>5s}  {'faults @ second + duration':64s}  {'events':>6s}  {'lost':>4s}  "
    f"{'twice':>5s}  {'gaps':>4s}  {'resumed':>7s}  {'books':8s}  {'took':>5s}"
)


@dataclass(slots=True)
class Stage:
    """Everything that runs in a round."""

    folder: Path
    valkey: Valkey
    owner_link: Proxy
    gateway_link: Proxy
    front: Proxy
    gateways: list[Program]
    readers: Program
    owner: Program
    healed_s: list[float] = field(default_factory=list)

    @property
    def heard(self) -> list[Path]:
        return [self.folder / "reader.0", self.folder / "reader.1"]

    @property
    def book(self) -> Path:
        return self.folder / "book.0"


@asynccontextmanager
async def stage(seed: int, rate: float, seconds: float) -> AsyncIterator[Stage]:
    """Start everything; yields when both readers follow all streams from their start."""
    folder = Path(tempfile.mkdtemp(prefix="nemesis-"))
    async with contextlib.AsyncExitStack() as closing:
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        valkey = await asyncio.to_thread(lambda: Valkey().start())
        closing.callback(valkey.close)
        socket = str(valkey.socket)
        links = [
            await closing.enter_async_context(Proxy(socket, seed=f"{seed}-{name}"))
            for name in ("owner", "gateways")
        ]
        ports = [free_port(), free_port()]
        doors = [("127.0.0.1", port) for port in ports]
        front = await closing.enter_async_context(Proxy(*doors, seed=f"{seed}-front"))
        side = await closing.enter_async_context(Proxy(*reversed(doors), seed=f"{seed}-side"))
        urls = [f"redis://:{PASSWORD}@127.0.0.1:{link.port}" for link in links]
        gateways = [
            Program(
                folder, f"gateway-{n}", "tests.chaos.door", "--redis", urls[1], "--port", f"{p}"
            )
            for n, p in enumerate(ports)
        ]
        readers = Program(
            folder,
            "readers",
            *("tests.chaos.watcher", "--file", str(folder / "reader")),
            *(f"ws://127.0.0.1:{proxy.port}/v1/events" for proxy in (front, side)),
        )
        owner = Program(
            folder,
            "owner",
            *("tests.chaos.owner", "--redis", urls[0], "--book", str(folder / "book.0")),
            *("--streams", str(STREAMS), "--rate", str(rate), "--seconds", str(seconds)),
            *("--seed", str(seed)),
        )
        for program in (*gateways, readers, owner):
            closing.push_async_callback(program.close)
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        await asyncio.gather(*(gateway.ready() for gateway in gateways))
        await readers.start()
        made = Stage(folder, valkey, links[0], links[1], front, gateways, readers, owner)
        try:
            await until(lambda: all(live(path) for path in made.heard), "the readers connect")
            await owner.start()
            await owner.ready()
            await until(lambda: all(started(path) for path in made.heard), "sessions have begun")
        except TimeoutError as error:
            logs = [f"{each.name}: {each.log()[-600:]}" for each in (*gateways, readers, owner)]
            raise RuntimeError("\n".join([str(error), *logs])) from error
        yield made


def live(path: Path) -> bool:
    return any(row[:2] == ["link", "live"] for row in rows(path))


def started(path: Path) -> bool:
    return len({line.session for line in read_lines(path)}) >= STREAMS


async def until(
    condition: Callable[[], bool], what: str, seconds: float = CATCH_UP_S, look_s: float = 0.1
) -> None:
    """Wait for something. Raises :class:`TimeoutError` that names it."""
    deadline_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"never came true: {what}")
        await asyncio.sleep(look_s)


async def run(seed: int, kind: Kind) -> Report:
    """Play one round and judge it."""
    began_s = time.monotonic()
    faults = schedule(seed, kind)
    seconds = max(fault.at_s + fault.for_s for fault in faults) + kind.calm_s
    async with stage(seed, kind.rate, seconds + CATCH_UP_S) as made:
        async with asyncio.TaskGroup() as strikes:
            for number, fault in enumerate(faults):
                strikes.create_task(strike(made, fault, number))
        await asyncio.sleep(kind.calm_s)
        made.owner.terminate()
        await made.owner.over()
        books = read_books(made.book)
        with contextlib.suppress(TimeoutError):  # the verdict says what is missing
            await until(lambda: all(ended(path, books) for path in made.heard), "all is read")
        return report(seed, faults, made, books, time.monotonic() - began_s)


async def strike(made: Stage, fault: Fault, number: int) -> None:
    """Let one fault happen and pass."""
    await asyncio.sleep(fault.at_s)
    if fault.name == "bus-kill":
        await asyncio.to_thread(made.valkey.kill)
        await asyncio.sleep(fault.for_s)
        await asyncio.to_thread(made.valkey.start)
    elif fault.name in ("gateway-kill", "gateway-term"):
        await _restart(made.gateways[0], fault)
    else:
        with _while(made, fault.name):
            await asyncio.sleep(fault.for_s)
    made.healed_s.append(time.monotonic())


async def _restart(gateway: Program, fault: Fault) -> None:
    if fault.name == "gateway-kill":
        gateway.kill()
    else:
        gateway.terminate()
    await gateway.over()
    await asyncio.sleep(fault.for_s)
    await gateway.start()
    await gateway.ready()


@contextmanager
def _while(made: Stage, name: str) -> Iterator[None]:
    """Hold a fault that is a state."""
    begin, end = {
        "bus-freeze": (
            lambda: made.valkey.process.send_signal(signal.SIGSTOP),
            lambda: made.valkey.process.send_signal(signal.SIGCONT),
        ),
        "bus-cut-owner": (made.owner_link.cut, made.owner_link.heal),
        "bus-cut-gateways": (made.gateway_link.cut, made.gateway_link.heal),
        "gateway-freeze": (made.gateways[0].freeze, made.gateways[0].thaw),
        "net-cut": (made.front.cut, made.front.heal),
        "net-hole": (lambda: made.front.change(BLACK_HOLE), made.front.heal),
        "net-half": (lambda: made.front.change(HALF_OPEN), made.front.heal),
        "net-slices": (lambda: made.front.change(SLICED), made.front.heal),
    }[name]
    begin()
    try:
        yield
    finally:
        end()


def ended(path: Path, books: list[Book]) -> bool:
    over = {row[1] for row in rows(path) if row[0] == "counts"}
    return over >= {book.session for book in books if book.counts is not None}


def report(seed: int, faults: list[Fault], made: Stage, books: list[Book], took_s: float) -> Report:
    total = Verdict()
    for path in made.heard:
        total.add(judge_all(read_lines(path), books))
    return Report(
        seed=seed,
        faults=faults,
        verdict=total,
        windows=sum(book.cut or 0 for book in books),
        accounted=all(exact(path, books) for path in made.heard),
        resumed_s=max((resumed(path, made.healed_s) for path in made.heard), default=0.0),
        took_s=took_s,
    )


def exact(path: Path, books: list[Book]) -> bool:
    """The end that an application read says what its owner's book says, for every session."""
    told = {row[1]: (row[2], row[3]) for row in rows(path) if row[0] == "counts"}
    return all(
        book.counts is not None
        and book.cut == book.counts.scored + book.counts.skipped
        and told.get(book.session) == (book.counts.scored, book.counts.skipped)
        for book in books
    )


def resumed(path: Path, healed_s: list[float]) -> float:
    """Return how long the first event took after everything was in order again."""
    fair_s = max(healed_s)
    moments = [float(str(row[1])) for row in rows(path) if row[0] == "at"]
    return min((at for at in moments if at >= fair_s), default=fair_s) - fair_s
