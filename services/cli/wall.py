"""How ``watch`` shows events: a redrawn table, plain lines, or the JSON itself."""

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import compress
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.events import (
    AlertCleared,
    AlertRaised,
    AnyEvent,
    Error,
    EvidenceSet,
    Explanation,
    Frustration,
    Gap,
    SessionEnded,
    SessionStarted,
    WindowScored,
    WindowSkipped,
    encode,
)
from services.client import Link

MARKS = {
    "calm": ("●", "CALM", "cyan"),
    "watch": ("▲", "WATCH", "yellow"),
    "high": ("■", "HIGH", "bold red"),
    "no_evidence": ("◌", "NO EVID", "dim"),
    "ended": ("○", "ENDED", "dim"),
}
_TREND = {"rising": "↑ rising", "steady": "→ steady", "falling": "↓ falling"}
_REDRAWS_PER_S = 4
_COLUMNS = (
    ("state", 0),
    ("session", 0),
    ("frustration", 0),
    ("trend", 70),
    ("expressed", 50),
    ("time", 60),
    ("from", 90),
    ("why", 80),
)
"""Columns and how wide a terminal must be to show them."""


class View(Protocol):
    """Takes what the reader yields, one by one."""

    def __enter__(self) -> Self:
        """Take the terminal."""

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""

    def show(self, item: AnyEvent | Link) -> None:
        """Show one event or link change."""


BUSY = "the server is busy: readings come less often"


@dataclass(frozen=True, slots=True)
class Row:
    """One session on the wall."""

    name: str
    state: str = "no_evidence"
    frustration: Frustration | None = None
    top: str = ""
    at_ms: int = 0
    used: str = ""
    note: str = ""
    generated: str = ""
    """What an explain model wrote last; no evidence."""

    @property
    def order(self) -> tuple[int, float, str]:
        """Latched alerts first, then by the lower edge of the band."""
        rank = ("high", "watch", "calm", "no_evidence", "ended").index(self.state)
        low = self.frustration.low if self.frustration else 0.0
        return rank, -low, self.name


def used(evidence: EvidenceSet) -> str:
    """Return which modalities counted: ``voice face``, ``voice``, ``–``."""
    names = [
        name for name, part in (("voice", evidence.audio), ("face", evidence.video)) if part.used
    ]
    return " ".join(names) or "–"


def why_not(evidence: EvidenceSet) -> str:
    """Return why nothing counted, in a few words."""
    parts = (("voice", evidence.audio), ("face", evidence.video))
    return ", ".join(
        f"{name}: {part.reason.replace('_', ' ')}" for name, part in parts if part.reason
    )


def said(event: Explanation) -> str:
    """Return generated words on one line, never without the word that marks them."""
    made = event.generation
    label = f" ({made.label})" if made is not None and made.label else ""
    return f"generated{label}: {' '.join(event.text.split()) or 'nothing that may be shown'}"


def advance(row: Row, event: AnyEvent) -> Row:
    """Return the row after ``event``."""
    if isinstance(event, SessionStarted):
        return replace(row, name=event.stream, note="no window yet")
    if isinstance(event, WindowScored):
        return replace(
            row,
            state=event.state,
            frustration=event.frustration,
            top=event.top or "not sure",
            at_ms=event.window.end_ms,
            used=used(event.evidence),
            note=BUSY
            if "hop_doubled" in event.degraded
            else event.reason.text
            if event.reason
            else "",
        )
    if isinstance(event, WindowSkipped) and event.reason == "overload":
        return replace(row, state=event.state, at_ms=event.window.end_ms, note=BUSY)
    if isinstance(event, WindowSkipped):
        return replace(
            row,
            state=event.state,
            frustration=None,
            top="",
            at_ms=event.window.end_ms,
            used="–",
            note=why_not(event.evidence) or event.reason,
        )
    if isinstance(event, AlertRaised):
        return replace(row, note=event.reason.text)
    if isinstance(event, Explanation) and event.generated:
        return replace(row, generated=said(event))
    if isinstance(event, SessionEnded):
        return replace(row, state="ended", frustration=None, note=event.reason.replace("_", " "))
    return row


def clock(ms: int) -> str:
    """Return ``3:10`` for media time."""
    return f"{ms // 60_000}:{ms // 1000 % 60:02d}"


def level(frustration: Frustration | None) -> str:
    """Return ``74 ±8``, or a dash for no evidence: never 0."""
    if frustration is None:
        return "—"
    half = (frustration.high - frustration.low) / 2
    return f"{frustration.value * 100:.0f} ±{half * 100:.0f}"


class LiveWall(AbstractContextManager["LiveWall"]):
    """A table of all sessions, redrawn a few times a second."""

    def __init__(self, console: Console | None = None) -> None:
        self._rows: dict[str, Row] = {}
        self._link = Link("lost", "connecting")
        self._console = console or Console()
        self._live = Live(
            console=self._console, refresh_per_second=_REDRAWS_PER_S, get_renderable=self.render
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, item: AnyEvent | Link) -> None:
        """Take one event or link change."""
        if isinstance(item, Link):
            self._link = item
        elif item.session_id is not None:
            row = self._rows.get(item.session_id, Row(item.session_id))
            self._rows[item.session_id] = advance(row, item)
            self._forget()

    def _forget(self) -> None:
        """Keep the wall bounded: the oldest ended sessions leave first."""
        ended = [key for key, row in self._rows.items() if row.state == "ended"]
        for key in ended[: max(0, len(ended) - 20)]:
            del self._rows[key]

    def render(self) -> Table:
        """Draw the wall."""
        rows = sorted(self._rows.values(), key=lambda row: row.order)
        table = Table(box=None, pad_edge=False, title=self._headline(rows), title_justify="left")
        width = self._console.width
        shown = [width >= least for _, least in _COLUMNS]
        for name, least in _COLUMNS:
            if width >= least:
                table.add_column(name, no_wrap=name != "why")
        for row in rows:
            glyph, word, style = MARKS[row.state]
            trend = _TREND[row.frustration.trend] if row.frustration else ""
            cells: tuple[str | Text, ...] = (
                Text(f"{glyph} {word}", style), Text(row.name), level(row.frustration), trend,
                row.top, clock(row.at_ms), row.used, _why(row),
            )  # fmt: skip
            table.add_row(*compress(cells, shown))
        return table

    def _headline(self, rows: list[Row]) -> str:
        live = [row for row in rows if row.state != "ended"]
        counts = [f"{len(live)} live"]
        for state, word in (("high", "high"), ("watch", "watch"), ("no_evidence", "no evidence")):
            if number := sum(row.state == state for row in live):
                counts.append(f"{number} {word}")
        if self._link.state == "live":
            return " · ".join(counts) + "   ● live"
        return " · ".join(counts) + f"   ⨯ disconnected ({self._link.detail})"


def _why(row: Row) -> Text:
    """Return what was measured and, on a line of its own, what a model wrote."""
    note = Text(row.note)
    if row.generated:
        note.append(f"\n{row.generated}" if row.note else row.generated, "italic")
    return note


class PlainLines(AbstractContextManager["PlainLines"]):
    """One line an event that says something new; for pipes and logs of the operator's own."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()

    def show(self, item: AnyEvent | Link) -> None:
        """Print one event or link change."""
        if isinstance(item, Link):
            text = "connected" if item.state == "live" else self._lost(item)
            print(text, file=sys.stderr, flush=True)
            return
        if isinstance(item, SessionStarted) and item.session_id:
            self._names[item.session_id] = item.stream
        name = self._names.get(item.session_id or "", item.session_id or "-")
        if line := describe(item):
            print(f"{name}  {line}", flush=True)
        if isinstance(item, SessionEnded):
            self._names.pop(item.session_id or "", None)

    @staticmethod
    def _lost(link: Link) -> str:
        return f"disconnected ({link.detail}); next try in {link.retry_in_s:.1f} s"


def describe(event: AnyEvent) -> str | None:
    """Return one event as a line, or None when it says nothing to a reader of lines."""
    match event:
        case SessionStarted():
            scored = "scored" if event.participants[0].scored else "not scored (policy)"
            return f"started   role {event.participants[0].role}, {scored}"
        case WindowScored():
            glyph, word, _ = MARKS[event.state]
            top = f"{event.top} {event.confidence:.2f}" if event.top else "not sure"
            return (
                f"{clock(event.window.end_ms):>5}  {glyph} {word:<7} {level(event.frustration):>7}"
                f"  {top:<14} {used(event.evidence):<10}  {event.timing.age_ms} ms"
            )
        case WindowSkipped():
            note = why_not(event.evidence) or event.reason
            return f"{clock(event.window.end_ms):>5}  ◌ NO EVID       —  {event.reason} ({note})"
        case AlertRaised():
            return f"■ alert raised   {event.reason.text}"
        case AlertCleared():
            return f"● alert cleared  {event.cause.replace('_', ' ')}"
        case Gap():
            return f"gap       {event.kind}: {event.cause.replace('_', ' ')}"
        case SessionEnded():
            skipped = ", ".join(f"{why} {n}" for why, n in event.counts.skipped.items()) or "none"
            reason = event.reason.replace("_", " ")
            return f"ended     {reason}; windows scored {event.counts.scored}, skipped {skipped}"
        case _:
            return _in_words(event)


def _in_words(event: AnyEvent) -> str | None:
    """Return what an event says in somebody's words, or None."""
    if isinstance(event, Explanation) and event.generated:
        return f"✎ {said(event)}"
    if isinstance(event, Error) and not event.fatal:
        return f"error     {event.message}"
    return None


class JsonLines(AbstractContextManager["JsonLines"]):
    """The events themselves, one a line."""

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()

    def show(self, item: AnyEvent | Link) -> None:
        """Print one event; link changes go to stderr."""
        if isinstance(item, Link):
            print(f"{item.state} {item.detail}".strip(), file=sys.stderr, flush=True)
        else:
            print(encode(item).decode(), flush=True)
