"""The one door to wall clock and monotonic clock; everything else takes time as an argument."""

import time
from typing import Protocol


class Clock(Protocol):
    """Both clocks of a process."""

    def wall_ms(self) -> int:
        """Return unix time in ms; a label, never a base for durations."""

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never goes back."""


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        """Return unix time in ms."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never goes back."""
        return time.monotonic()
