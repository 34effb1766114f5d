"""What ``demeanor run`` does: sources one after the other through one scorer, events to files.

Each source is one session and one file. A file is written beside its final name and moved there
when it is complete, so a result that bears its name is never half a result.
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import DemeanorError, PolicyRefused, UsageError
from pipeline.events import Event, LoadedModel, Role, WindowScored
from pipeline.events import Source as WireSource
from pipeline.ids import ulid
from pipeline.policy import ROLES, Case, Policy
from pipeline.scorer import OrtScorer
from pipeline.stream import Facts, StreamSettings
from pipeline.types import TICKS_PER_S
from services.cli.exits import Exit, complain
from services.cli.screens import Closing, JsonSteps, Lines, Panel, Progress, Screen
from services.clock import Clock, SystemClock
from services.ingest.address import Address, addresses
from services.ingest.play import play
from services.ingest.session import Session
from services.ingest.sink import JsonlSink
from services.ingest.source import Source
from services.policing import person_settings
from services.scorer.loop import ScoringLoop

_SCREENS: dict[str, type[Panel | Lines | JsonSteps]] = {
    "panel": Panel,
    "lines": Lines,
    "json": JsonSteps,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for."""

    source: str
    out: Path
    role: str
    model: tuple[Path, ...]
    device: Literal["cpu", "cuda"]
    policy: Policy
    shown: Literal["panel", "lines", "json"]


@dataclass(frozen=True, slots=True)
class Workplace:
    """What all sources of one run share."""

    out: Path
    role: Role
    policy: Policy
    scoring: ScoringLoop
    loaded: LoadedModel
    clock: Clock
    screen: Screen
    stop: "Stop"


async def score(order: Order) -> Exit:
    """Score all sources of an order; return the exit code.

    Raises :class:`~pipeline.errors.UsageError`, :class:`~pipeline.errors.PolicyRefused`,
    :class:`~pipeline.errors.ModelError`, and for a single source
    :class:`~pipeline.errors.MediaError`.
    """
    role = _allowed(order)
    places = addresses(order.source)
    _writable(order.out)
    scorer = await asyncio.to_thread(OrtScorer.open, order.device, order.model)
    clock, stop = SystemClock(), Stop()
    with stop.on_signals(), _SCREENS[order.shown]() as screen:
        async with ScoringLoop(scorer, clock) as scoring:
            place = Workplace(
                order.out, role, order.policy, scoring, scorer.loaded, clock, screen, stop
            )
            return await _each(place, places)


async def _each(work: Workplace, places: Sequence[Address]) -> Exit:
    codes: list[Exit] = []
    for place in places:
        if work.stop.asked:
            break
        try:
            codes.append(await _one(work, place))
        except DemeanorError as error:
            if len(places) == 1:
                raise
            complain(str(error))
            codes.append(Exit.FAILED)
    return worst(codes)


def worst(codes: Sequence[Exit]) -> Exit:
    """One failure fails the run; if no window of any source was scored there was no evidence."""
    if Exit.FAILED in codes:
        return Exit.FAILED
    return Exit.DONE if Exit.DONE in codes or not codes else Exit.NO_EVIDENCE


async def _one(work: Workplace, place: Address) -> Exit:
    source = await asyncio.to_thread(Source, place)
    work.stop.source = source
    name = Path(place.spec).name or place.spec
    target = work.out / f"{place.stem}.demeanor.jsonl"
    unfinished = target.with_name(f".{target.name}.part")
    pace = Pace(work, source)
    work.screen.begin(name)
    shown = Shown(_opened(unfinished), work.screen)
    session = Session(
        _facts(work, source),
        scoring=work.scoring,
        sink=shown,
        clock=work.clock,
        live=place.live,
        settings=StreamSettings(person=person_settings(work.policy)),
    )
    try:
        await play(source, session, lambda: work.screen.progress(pace.progress()))
    except Unwritten as error:
        _cut_to_lines(unfinished)
        raise UsageError(
            f"{target} cannot be written ({error.strerror}): what fitted is in it; "
            "choose another folder with --out"
        ) from error
    finally:
        unfinished.replace(target)
    work.screen.progress(pace.progress())
    work.screen.close(Closing(name, target, source.complaint, pace.speed, work.stop.asked))
    if source.complaint:
        complain(source.complaint)
    return Exit.DONE if shown.scored else Exit.NO_EVIDENCE


class Pace:
    """How fast a source is scored."""

    def __init__(self, work: Workplace, source: Source) -> None:
        self._work = work
        self._source = source
        self._began_s = work.clock.monotonic_s()

    @property
    def speed(self) -> float:
        """Media time over time on the clock."""
        seconds = self._work.clock.monotonic_s() - self._began_s
        return self._source.position_ticks / TICKS_PER_S / max(seconds, 0.001)

    def progress(self) -> Progress:
        """Return how far the source is."""
        books = self._work.scoring.statistics()
        return Progress(
            self._source.position_ticks,
            None if self._source.address.live else self._source.duration_ticks,
            self.speed,
            books.percentile_ms(0.50),
            books.percentile_ms(0.95),
        )


class Unwritten(OSError):
    """The events could not be written; a reader of our output that went away is another matter."""


class Shown:
    """An event sink that also shows what it writes."""

    def __init__(self, file: JsonlSink, screen: Screen) -> None:
        self._file = file
        self._screen = screen
        self.scored = 0
        """Windows scored so far."""

    def put(self, events: Sequence[Event]) -> None:
        """Write and show events. Raises :class:`Unwritten` when they cannot be written."""
        try:
            self._file.put(events)
        except OSError as error:
            raise Unwritten(error.errno, error.strerror) from None
        for event in events:
            self.scored += isinstance(event, WindowScored)
            self._screen.event(event)

    def erase(self) -> None:
        """Leave nothing in the file."""
        self._file.erase()

    async def close(self) -> None:
        """Close the file. Raises :class:`Unwritten`."""
        try:
            await self._file.close()
        except OSError as error:
            raise Unwritten(error.errno, error.strerror) from None


class Stop:
    """The first Ctrl-C ends the source that is being read; a second one ends the program."""

    def __init__(self) -> None:
        self.asked = False
        self.source: Source | None = None

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen for Ctrl-C and SIGTERM while inside."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self.asked:
            if sys.stdout.isatty():
                print("\x1b[?25h", flush=True)  # the panel hides the cursor
            os._exit(Exit.FAILED)  # at once: the decoder's thread may be waiting for a device
        self.asked = True
        if self.source is not None:
            self.source.stop()


def _allowed(order: Order) -> Role:
    """Return the role if the policy lets it be scored; nothing is opened before."""
    for role in ROLES:
        if role == order.role:
            # Who runs this holds the recording: that the person agreed is theirs to answer for.
            decision = order.policy.decide(Case(role, own=True))
            if not decision.scored:
                raise PolicyRefused(decision.sentence)
            return role
    raise UsageError(f"unknown role '{order.role}': use one of {', '.join(ROLES)}")


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--out {folder} may not be written: choose another folder")


def _opened(path: Path) -> JsonlSink:
    try:
        return JsonlSink(path)
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be written: {error.strerror}") from error


def _cut_to_lines(path: Path) -> None:
    """Leave whole lines only of a file that could not be written to its end."""
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def _facts(work: Workplace, source: Source) -> Facts:
    return Facts(
        session_id="ses_" + ulid(work.clock.wall_ms(), secrets.token_bytes(10)),
        stream=source.address.stream,
        role=work.role,
        scored=True,
        why_not=None,
        tracks=source.tracks,
        source=WireSource(kind=source.address.kind),
        meta={},
        model=work.loaded,
        policy=work.policy.tag,
        notice=work.policy.notice.version,
    )
