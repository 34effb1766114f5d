"""One rule with two thresholds and dwell times, as a table of phases.

::

    signal →   ENTER      UNSURE     BETWEEN    LEAVE
    IDLE       RISING     IDLE       IDLE       IDLE
    RISING     RISING+    RISING     IDLE       IDLE       + counts dwell; full: LATCHED
    LATCHED    LATCHED    LATCHED    LATCHED    FALLING
    FALLING    LATCHED    LATCHED    LATCHED    FALLING+   + counts dwell; full: COOLING
    COOLING    COOLING    COOLING    COOLING    COOLING    until the cool-down is over: IDLE

ENTER: value at or above the upper threshold and sure enough; UNSURE: there, but not sure enough,
which freezes the dwell; LEAVE: at or below the lower threshold. Time without evidence is never
stepped, so it counts for neither dwell.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """Thresholds in [0, 1] and times in ms of media time."""

    name: str
    enter: float
    enter_ms: int
    leave: float
    leave_ms: int
    min_confidence: float = 0.0
    """Confidence that a window needs to count towards entering."""
    cool_down_ms: int = 0
    """After leaving, no entering for so long."""

    def __post_init__(self) -> None:
        if not 0 <= self.leave < self.enter <= 1:
            raise UsageError(
                f"rule {self.name}: leave ({self.leave}) must be below enter ({self.enter}), "
                "both within 0..1"
            )


class Phase(Enum):
    """Where a rule stands."""

    IDLE = "idle"
    RISING = "rising"
    LATCHED = "latched"
    FALLING = "falling"
    COOLING = "cooling"


class Signal(Enum):
    """What one window means to a rule."""

    ENTER = "enter"
    UNSURE = "unsure"
    BETWEEN = "between"
    LEAVE = "leave"


TABLE: Mapping[tuple[Phase, Signal], Phase] = MappingProxyType(
    {
        (Phase.IDLE, Signal.ENTER): Phase.RISING,
        (Phase.IDLE, Signal.UNSURE): Phase.IDLE,
        (Phase.IDLE, Signal.BETWEEN): Phase.IDLE,
        (Phase.IDLE, Signal.LEAVE): Phase.IDLE,
        (Phase.RISING, Signal.ENTER): Phase.RISING,
        (Phase.RISING, Signal.UNSURE): Phase.RISING,
        (Phase.RISING, Signal.BETWEEN): Phase.IDLE,
        (Phase.RISING, Signal.LEAVE): Phase.IDLE,
        (Phase.LATCHED, Signal.ENTER): Phase.LATCHED,
        (Phase.LATCHED, Signal.UNSURE): Phase.LATCHED,
        (Phase.LATCHED, Signal.BETWEEN): Phase.LATCHED,
        (Phase.LATCHED, Signal.LEAVE): Phase.FALLING,
        (Phase.FALLING, Signal.ENTER): Phase.LATCHED,
        (Phase.FALLING, Signal.UNSURE): Phase.LATCHED,
        (Phase.FALLING, Signal.BETWEEN): Phase.LATCHED,
        (Phase.FALLING, Signal.LEAVE): Phase.FALLING,
        (Phase.COOLING, Signal.ENTER): Phase.COOLING,
        (Phase.COOLING, Signal.UNSURE): Phase.COOLING,
        (Phase.COOLING, Signal.BETWEEN): Phase.COOLING,
        (Phase.COOLING, Signal.LEAVE): Phase.COOLING,
    }
)

_DWELLS = {Phase.RISING: Signal.ENTER, Phase.FALLING: Signal.LEAVE}
"""Phases that count time, and the signal that counts."""


class Latch:
    """The state of one rule."""

    def __init__(self, settings: RuleSettings) -> None:
        self.settings = settings
        self.phase = Phase.IDLE
        self.dwell_ms = 0
        self.since_ms = 0
        """Media time at which the present run towards the latch began."""
        self.latched_ms = 0
        """Media time at which it latched."""
        self.peak = 0.0
        """Highest value since the run began."""
        self.windows: list[int] = []
        """Indices of the windows that counted in the run towards the latch, oldest first."""
        self._left_ms = 0

    @property
    def on(self) -> bool:
        """Whether the rule holds now."""
        return self.phase in {Phase.LATCHED, Phase.FALLING}

    def step(self, value: float, confidence: float, *, index: int, now_ms: int, dt_ms: int) -> bool:
        """Take window ``index`` with evidence, which ends at ``now_ms`` and brings ``dt_ms`` of it.

        Returns whether the rule changed between holding and not holding.
        """
        was_on = self.on
        if self.phase is Phase.COOLING and now_ms - self._left_ms >= self.settings.cool_down_ms:
            self.phase = Phase.IDLE
        signal = self._signal(value, confidence)
        self._move(TABLE[self.phase, signal], now_ms - dt_ms)
        self.peak = max(self.peak, value)
        if _DWELLS.get(self.phase) is signal:
            self.dwell_ms += dt_ms
        if self.phase is Phase.RISING and signal is Signal.ENTER:
            self.windows.append(index)
        self._complete(now_ms)
        return self.on != was_on

    def release(self, now_ms: int) -> bool:
        """Stop holding, whatever the value; return whether it held."""
        was_on = self.on
        self._left_ms = now_ms
        self.phase = Phase.COOLING if was_on else Phase.IDLE
        return was_on

    def _signal(self, value: float, confidence: float) -> Signal:
        if value <= self.settings.leave:
            return Signal.LEAVE
        if value < self.settings.enter:
            return Signal.BETWEEN
        return Signal.ENTER if confidence >= self.settings.min_confidence else Signal.UNSURE

    def _move(self, phase: Phase, began_ms: int) -> None:
        if phase is self.phase:
            return
        self.phase = phase
        self.dwell_ms = 0
        if phase is Phase.RISING:
            self.since_ms = began_ms
            self.peak = 0.0
            self.windows = []

    def _complete(self, now_ms: int) -> None:
        if self.phase is Phase.RISING and self.dwell_ms >= self.settings.enter_ms:
            self.phase = Phase.LATCHED
            self.latched_ms = now_ms
        elif self.phase is Phase.FALLING and self.dwell_ms >= self.settings.leave_ms:
            self.release(now_ms)
