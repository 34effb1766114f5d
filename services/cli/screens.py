"""How ``demeanor run`` shows a session: a redrawn panel, plain lines, or JSON lines."""

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.events import Event, Evidence, WindowScored, encode
from pipeline.spec import LABELS
from pipeline.types import TICKS_PER_S
from services.cli.tally import Tally, coverage, reasons, shares, short

REDRAWS_PER_S = 4
STEP = 0.05
"""A plain line is printed for each twentieth of the way."""
LIVE_STEP_S = 10
"""… or, where the end is not known, for every so many seconds of media."""
_BAR = 24
_TRACE = "▁▂▃▄▅▆▇█"
_STATE = {"calm": "● CALM", "watch": "▲ WATCH", "high": "■ HIGH"}
_TREND = {"rising": "↑ rising", "steady": "→ steady", "falling": "↓ falling"}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a source was read and how fast."""

    position_ticks: int
    duration_ticks: int | None
    speed: float
    """Media time over time on the clock."""
    p50_ms: float | None
    """Time to score one batch."""
    p95_ms: float | None

    @property
    def share(self) -> float | None:
        """How much of the source is done, in [0, 1]; None when its length is not known."""
        if not self.duration_ticks:
            return None
        return min(1.0, self.position_ticks / self.duration_ticks)


@dataclass(frozen=True, slots=True)
class Closing:
    """What is said when a source is done."""

    name: str
    file: Path | None
    """The events that were written."""
    complaint: str | None
    speed: float
    stopped: bool = False
    """Whether Ctrl-C ended it."""


class Screen(Protocol):
    """Shows one source after the other."""

    def __enter__(self) -> Self:
        """Take the terminal."""

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""

    def begin(self, name: str) -> None:
        """A source begins."""

    def event(self, event: Event) -> None:
        """One event left the session."""

    def progress(self, progress: Progress) -> None:
        """Some more media was scored."""

    def close(self, closing: Closing) -> None:
        """The source is done."""


class Lines(AbstractContextManager["Lines"]):
    """Plain lines: progress, alerts, and the sum at the end."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._steps = Steps()

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()

    def begin(self, name: str) -> None:
        """Start a new sum."""
        self.tally, self._steps = Tally(), Steps()
        _say(name)

    def event(self, event: Event) -> None:
        """Print alerts as they come."""
        if line := self.tally.add(event):
            _say(f"  {line}")

    def progress(self, progress: Progress) -> None:
        """Print a line when another step is done."""
        if self._steps.due(progress):
            counts = f"scored {self.tally.scored}, skipped {self.tally.skipped.total()}"
            _say(f"  {_place(progress)}  {counts}  {progress.speed:.1f}x real time")

    def close(self, closing: Closing) -> None:
        """Print the sum."""
        for line in summary(self.tally, closing):
            _say(line)


class JsonSteps(AbstractContextManager["JsonSteps"]):
    """The same for machines: one JSON object a line."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._steps = Steps()

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()

    def begin(self, name: str) -> None:
        """Start a new sum."""
        self.tally, self._steps = Tally(), Steps()
        _put({"type": "begin", "source": name})

    def event(self, event: Event) -> None:
        """Print alerts as they are on the wire."""
        if self.tally.add(event):
            _say(encode(event).decode())

    def progress(self, progress: Progress) -> None:
        """Print an object when another step is done."""
        if self._steps.due(progress):
            _put(
                {
                    "type": "progress",
                    "share": progress.share,
                    "position_ms": progress.position_ticks * 1000 // TICKS_PER_S,
                    "speed": round(progress.speed, 2),
                    **_counts(self.tally),
                }
            )

    def close(self, closing: Closing) -> None:
        """Print the sum."""
        ended = self.tally.ended
        _put(
            {
                "type": "summary",
                "source": closing.name,
                "file": str(closing.file) if closing.file else None,
                "complaint": closing.complaint,
                "speed": round(closing.speed, 2),
                "tops": dict(self.tally.tops),
                "not_sure": self.tally.abstained,
                "alerts": self.tally.raised,
                "coverage": ended.coverage if ended else None,
                **_counts(self.tally),
            }
        )


class Panel(AbstractContextManager["Panel"]):
    """A panel that is redrawn while the source is scored."""

    def __init__(self, console: Console | None = None) -> None:
        self.tally = Tally()
        self._name = ""
        self._progress = Progress(0, None, 0.0, None, None)
        self._console = console or Console()
        self._live = Live(
            console=self._console,
            refresh_per_second=REDRAWS_PER_S,
            get_renderable=self.render,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begin(self, name: str) -> None:
        """Start a new panel."""
        self.tally, self._name = Tally(), name
        self._progress = Progress(0, None, 0.0, None, None)

    def event(self, event: Event) -> None:
        """Take an event; the next redraw shows it."""
        self.tally.add(event)

    def progress(self, progress: Progress) -> None:
        """Take the progress; the next redraw shows it."""
        self._progress = progress

    def close(self, closing: Closing) -> None:
        """Leave the last state and the sum above the panel of the next source."""
        last, lines = self.render(), summary(self.tally, closing)[1:]
        self.begin("")
        self._live.refresh()
        self._console.print(last)
        for line in lines:
            self._console.print(Text(line))

    def render(self) -> Group:
        """Draw the present state."""
        if not self._name:
            return Group()
        alerts = [Text(f" {line}", "bold") for line in self.tally.alerts]
        return Group(self._headline(), self._body(), *alerts)

    def _headline(self) -> Text:
        share = self._progress.share
        bar = "" if share is None else f"{_bar(share, 30, '━', '╸'):<30}  "
        speed = f"{self._progress.speed:.1f}x real time"
        window = "window 2.0 s / hop 0.5 s"
        return Text(f" {self._name}  {bar}{_place(self._progress)}   {speed}   {window}")

    def _body(self) -> Table:
        last = self.tally.last
        scored = last if isinstance(last, WindowScored) else None
        table = Table.grid(padding=(0, 2))
        right = self._measures(scored)
        ranked = sorted(LABELS, key=lambda label: -scored.emotions.get(label, 0)) if scored else []
        left = [self._emotion(scored, label) for label in ranked[:3]] if scored else _nothing()
        for emotion, measure in zip(left, right, strict=True):
            table.add_row(*emotion, measure)
        table.add_row(*self._evidence(), "", "", self._times())
        return table

    @staticmethod
    def _emotion(scored: WindowScored, label: str) -> tuple[str, str, str]:
        value = scored.emotions.get(label, 0.0)
        low, high = (scored.bands or {}).get(label, (value, value))
        band = f"±{short((high - low) / 2)}"
        return f" {label}", f"{_bar(value, _BAR, '█', '▌'):<{_BAR}}", f"{short(value)} {band}"

    def _measures(self, scored: WindowScored | None) -> tuple[str, str, str]:
        valence = [event.valence for event in self.tally.recent]
        arousal = [event.arousal for event in self.tally.recent]
        return (
            f"valence  {_signed(scored.valence if scored else None)}  {_traced(valence)}",
            f"arousal  {_signed(scored.arousal if scored else None)}  {_traced(arousal)}",
            f"frustration  {_frustration(scored)}",
        )

    def _evidence(self) -> tuple[str]:
        last = self.tally.last
        if last is None:
            return (" ",)
        voice, face = _mark(last.evidence.audio), _mark(last.evidence.video)
        return (f" voice {voice}  face {face}",)

    def _times(self) -> str:
        p50, p95 = self._progress.p50_ms, self._progress.p95_ms
        return "" if p50 is None or p95 is None else f"score p50 {p50:.0f} ms  p95 {p95:.0f} ms"


class Steps:
    """Tells when another plain line is due."""

    def __init__(self) -> None:
        self._done = 0

    def due(self, progress: Progress) -> bool:
        """Return True once for each step of the way."""
        share = progress.share
        seconds = progress.position_ticks / TICKS_PER_S
        step = int(seconds / LIVE_STEP_S) if share is None else int(share / STEP)
        if step <= self._done:
            return False
        self._done = step
        return True


def summary(tally: Tally, closing: Closing) -> list[str]:
    """Return the closing lines of a source."""
    how = "stopped" if closing.stopped else "done"
    lines = [f"{closing.name}: {how}, {closing.speed:.1f}x real time"]
    lines.append(f"  windows  scored {tally.scored}, skipped {reasons(tally)}")
    if tally.scored:
        lines.append(f"  on top   {shares(tally)}")
    if tally.ended:
        lines.append(f"  coverage {coverage(tally.ended)}")
    lines.append(f"  alerts   {tally.raised}, gaps {tally.gaps}")
    if not tally.scored:
        lines.append("  no evidence: no face and no speech was found in any window")
    if closing.file:
        lines.append(f"  → {closing.file}")
    return lines


def _nothing() -> list[tuple[str, str, str]]:
    return [(" ◌ no evidence", "", "—"), (" ", "", ""), (" ", "", "")]


def _frustration(scored: WindowScored | None) -> str:
    value = scored.frustration if scored else None
    if scored is None or value is None:
        return "—"
    half = (value.high - value.low) * 50
    seconds = max(0, scored.window.end_ms - value.since_ms) // 1000
    now = f"{_STATE[scored.state]} {value.value * 100:.0f} ±{half:.0f}"
    return f"{now}  {_TREND[value.trend]} {seconds} s"


def _mark(evidence: Evidence) -> str:
    if evidence.used:
        return "✔"
    return f"– ({evidence.reason.replace('_', ' ')})" if evidence.reason else "–"


def _signed(value: float | None) -> str:
    return "  —" if value is None else short(value, signed=True)


def _traced(values: list[float | None]) -> str:
    top = len(_TRACE) - 1
    return "".join(
        " " if value is None else _TRACE[round((value + 1) / 2 * top)] for value in values
    )


def _bar(share: float, width: int, full: str, half: str) -> str:
    halves = round(share * width * 2)
    return full * (halves // 2) + half * (halves % 2)


def _place(progress: Progress) -> str:
    at = _clock(progress.position_ticks)
    return f"{at} / {_clock(progress.duration_ticks)}" if progress.duration_ticks else at


def _clock(ticks: int) -> str:
    seconds = ticks // TICKS_PER_S
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def _counts(tally: Tally) -> dict[str, object]:
    return {"scored": tally.scored, "skipped": dict(tally.skipped)}


def _say(line: str) -> None:
    print(line, flush=True)


def _put(record: dict[str, object]) -> None:
    _say(msgspec.json.encode(record).decode())
