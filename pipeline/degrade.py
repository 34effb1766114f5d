"""What is given up first when there is more to score than the machine can do.

A ladder of rungs with a dwell both ways, and what each rung leaves of a window. Every window is
still cut and counted, so indices stay dense and the books exact: what a rung leaves out is skipped
as ``overload`` before anything was queued for it. No clock in here: the caller brings the time.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, Literal

from pipeline.types import FRAME_CELL_TICKS, Window

UP_S: Final = 3.0
"""Pressure lasts this long before the next rung: longer than a measurement needs to show what the
rung before has changed."""
DOWN_S: Final = 10.0
"""Ease lasts this long before a rung is left."""
Pressure = Literal["high", "some", "low"]


class Rung(IntEnum):
    """How much is given up; each rung keeps what those below it gave up."""

    FULL = 0
    HOP_1S = 1
    """Every second window is scored."""
    VIDEO_HALVED = 2
    """… of its pictures every second one. Windows overlap and a picture is measured once, so
    leaving out every second *window's* pictures would save nothing."""
    VIDEO_DROPPED = 3
    """… or none, where there is sound."""
    REFUSE = 4
    """… and no new stream is accepted."""
    DROP = 5
    """… and only every fourth window is scored."""

    @property
    def word(self) -> str:
        """The name in metrics and in ``/readyz``."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, eq=False)
class Treated:
    """A window that is scored, and what was left out of it (wire field ``degraded``)."""

    window: Window
    degraded: tuple[str, ...] = ()


_EVERY: Final = {Rung.FULL: 1, Rung.DROP: 4}
"""Of how many windows one is scored; two where nothing stands here."""


def treat(window: Window, rung: Rung) -> Treated | None:
    """Return what ``rung`` leaves of a window; None: skip it as ``overload``."""
    if window.index % _EVERY.get(rung, 2):
        return None
    if rung == Rung.FULL:
        return Treated(window)
    if rung == Rung.HOP_1S or window.frames is None:
        return Treated(window, ("hop_doubled",))
    if rung >= Rung.VIDEO_DROPPED and window.audio is not None:
        return Treated(replace(window, frames=()), ("hop_doubled", "video_dropped"))
    kept = tuple(frame for frame in window.frames if frame.at // FRAME_CELL_TICKS % 2 == 0)
    return Treated(replace(window, frames=kept), ("hop_doubled", "video_halved"))


class Ladder:
    """The rung that stands; one step at a time."""

    def __init__(self, *, up_s: float = UP_S, down_s: float = DOWN_S) -> None:
        self.rung = Rung.FULL
        self.changes = 0
        """Steps taken, up or down."""
        self._up_s = up_s
        self._down_s = down_s
        self._pressure: Pressure = "some"
        self._since_s = 0.0

    def step(self, pressure: Pressure, now_s: float) -> Rung:
        """Take the pressure as it is now; return the rung that holds from now on."""
        if pressure != self._pressure:
            self._pressure, self._since_s = pressure, now_s
        lasted_s = now_s - self._since_s
        if pressure == "high" and lasted_s >= self._up_s and self.rung < Rung.DROP:
            self._move(Rung(self.rung + 1), now_s)
        elif pressure == "low" and lasted_s >= self._down_s and self.rung > Rung.FULL:
            self._move(Rung(self.rung - 1), now_s)
        return self.rung

    def _move(self, rung: Rung, now_s: float) -> None:
        self.rung, self._since_s = rung, now_s
        self.changes += 1
