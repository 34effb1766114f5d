"""What a session's events add up to, for the lines and the panel of ``demeanor run``."""

from collections import Counter, deque
from dataclasses import dataclass, field

from pipeline.events import (
    AlertCleared,
    AlertRaised,
    AnyEvent,
    Event,
    Gap,
    SessionEnded,
    WindowScored,
    WindowSkipped,
)

RECENT = 12
"""Windows that the traces look back on: six seconds."""


@dataclass(slots=True)
class Tally:
    """Takes events one by one; keeps no more than a screen shows."""

    scored: int = 0
    abstained: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    tops: Counter[str] = field(default_factory=Counter)
    alerts: deque[str] = field(default_factory=lambda: deque(maxlen=4))
    """The newest alert lines."""
    raised: int = 0
    gaps: int = 0
    recent: deque[WindowScored] = field(default_factory=lambda: deque(maxlen=RECENT))
    last: WindowScored | WindowSkipped | None = None
    ended: SessionEnded | None = None
    _at_ms: int = 0

    def add(self, event: Event) -> str | None:
        """Take one event; return a line when it is news by itself (an alert)."""
        match event:
            case WindowScored():
                self._score(event)
            case WindowSkipped():
                self.last, self._at_ms = event, event.window.end_ms
                self.skipped[event.reason] += 1
            case AlertRaised() | AlertCleared():
                self.raised += isinstance(event, AlertRaised)
                line = f"{stamp(self._at_ms)}  {told(event)}"
                self.alerts.append(line)
                return line
            case Gap():
                self.gaps += 1
            case SessionEnded():
                self.ended = event
        return None

    @property
    def windows(self) -> int:
        """Windows scored or skipped so far."""
        return self.scored + self.skipped.total()

    def _score(self, event: WindowScored) -> None:
        self.scored += 1
        self.last, self._at_ms = event, event.window.end_ms
        self.recent.append(event)
        if event.top is None:
            self.abstained += 1
        else:
            self.tops[event.top] += 1


def stamp(ms: int) -> str:
    """Return ``00:58.0`` for media time."""
    return f"{ms // 60_000:02d}:{ms % 60_000 / 1000:04.1f}"


def told(event: AnyEvent) -> str:
    """Return an alert in words."""
    if isinstance(event, AlertRaised):
        alert = event.alert
        held = f"{alert.dwell_ms / 1000:g} s"
        return (
            f"▲ alert raised   frustration ≥ {short(alert.threshold)} for {held}"
            f" – {event.reason.text}"
        )
    if isinstance(event, AlertCleared):
        lasted = f"{event.duration_ms / 1000:.0f} s"
        return f"● alert cleared  {event.cause.replace('_', ' ')} after {lasted}"
    return event.__class__.__name__


def short(value: float, *, signed: bool = False) -> str:
    """Return ``.58``, or with its sign ``−.42``."""
    text = f"{abs(value):.2f}".removeprefix("0")
    if not signed:
        return text
    return ("−" if value < 0 else "+") + text


def shares(tally: Tally) -> str:
    """Return ``neutral 61 %, happy 20 %, not sure 5 %`` of the scored windows."""
    counts = [*tally.tops.most_common(), ("not sure", tally.abstained)]
    parts = [f"{name} {count / tally.scored:.0%}" for name, count in counts if count]
    return ", ".join(parts).replace("%", " %")


def reasons(tally: Tally) -> str:
    """Return ``12 (no evidence 10, stale 2)``."""
    total = tally.skipped.total()
    if not total:
        return "0"
    parts = [f"{why.replace('_', ' ')} {count}" for why, count in tally.skipped.most_common()]
    return f"{total} ({', '.join(parts)})"


def coverage(ended: SessionEnded) -> str:
    """Return ``voice 83 %, face 61 %``: the share of windows in which each counted."""
    parts = (("voice", ended.coverage.audio), ("face", ended.coverage.video))
    return ", ".join(
        f"{name} –" if share is None else f"{name} {share * 100:.0f} %" for name, share in parts
    )
