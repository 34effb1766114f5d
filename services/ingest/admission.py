"""Whether one more publisher is taken: decided from what was measured, before anything is built.

Running streams win over new ones. Each reason has a mark at which it trips and a lower one at which
it clears, and must last a moment, so that the door does not flap.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.degrade import Rung
from services.load import HIGH_LAG_S, HIGH_WAIT_S, Load
from services.problems import Problem

RETRY_S: Final = (3, 4, 5, 6, 7, 8)
"""``Retry-After`` of a 503, jittered so that those who were refused do not come back at once."""
MEMORY_SHARE: Final = 0.8
BUS_AWAY_S: Final = 5.0
TRIP_S: Final = 1.0
"""How long a mark must be passed before it counts."""
EASE: Final = 0.7
"""A reason clears below this share of its mark."""


@dataclass(slots=True)
class _Mark:
    """One measured reason to refuse."""

    code: str
    detail: str
    value: Callable[[Load], float]
    limit: float
    needs_streams: bool
    """Without a running stream there is none to protect, and the refusal would help nobody."""
    trip_s: float = TRIP_S
    tripped: bool = False
    above_s: float | None = None

    def note(self, load: Load, now_s: float) -> None:
        value = self.value(load)
        if value <= self.limit:
            self.above_s = None
            self.tripped = self.tripped and value > EASE * self.limit
            return
        self.above_s = now_s if self.above_s is None else self.above_s
        self.tripped = self.tripped or now_s - self.above_s >= self.trip_s


def _marks() -> list[_Mark]:
    return [
        _Mark(
            "memory",
            "memory is nearly full: wait until a stream ends, or give the server more",
            lambda load: load.memory_share,
            MEMORY_SHARE,
            needs_streams=False,
        ),
        _Mark(
            "bus_away",
            "the result bus does not answer, so nobody could read the stream: try again later",
            lambda load: load.bus_away_s,
            BUS_AWAY_S,
            needs_streams=False,
            trip_s=0.0,
        ),
        _Mark(
            "scorer_busy",
            "the models are busy with running streams: try again later",
            lambda load: load.wait_p95_s,
            HIGH_WAIT_S,
            needs_streams=True,
        ),
        _Mark(
            "loop_busy",
            "the server is busy with running streams: try again later",
            lambda load: load.lag_p99_s,
            HIGH_LAG_S,
            needs_streams=True,
        ),
    ]


class Admission:
    """The door's judgement; :meth:`refusal` costs a few comparisons."""

    def __init__(self, max_streams: int) -> None:
        self.max_streams = max_streams
        self.draining = False
        """Set once and for all when the process begins to end."""
        self._marks = _marks()
        self._rung = Rung.FULL

    def note(self, load: Load, rung: Rung, now_s: float) -> None:
        """Take a measurement."""
        self._rung = rung
        for mark in self._marks:
            mark.note(load, now_s)

    def refusal(self, live: int) -> Problem | None:
        """Return why a publisher is not taken while ``live`` streams are, or None."""
        if self.draining:
            return busy("draining", "the server is shutting down: try again in a moment")
        if live >= self.max_streams:
            return busy(
                "at_capacity", f"all {self.max_streams} streams are in use: try again later"
            )
        for mark in self._marks:
            if mark.tripped and (live or not mark.needs_streams):
                return busy(mark.code, mark.detail)
        if live and self._rung >= Rung.REFUSE:
            return busy(
                "scorer_busy", "running streams are scored less often already: try again later"
            )
        return None

    def reasons(self, live: int) -> list[str]:
        """Return the codes for which a publisher would be refused now."""
        found = self.refusal(live)
        return [] if found is None else [found.code]


def busy(code: str, detail: str) -> Problem:
    """Return a 503 that says when to come back."""
    return Problem(503, code, detail, {"Retry-After": str(secrets.choice(RETRY_S))})
