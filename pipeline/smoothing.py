"""Time-aware smoothing of evidence: half-lives in seconds, never in windows.

A skipped window changes nothing but the time until the next one, so a busy machine does not
distort what follows. A :class:`Smoother` weights by evidence, a :class:`Follower` by direction.
"""

import numpy as np
from numpy.typing import NDArray


def kept(dt_s: float, half_life_s: float) -> float:
    """Return the share of an old value that is left after ``dt_s``.

    Raises :class:`ValueError` when time does not move forward.
    """
    if dt_s <= 0:
        raise ValueError(f"time must move forward, got {dt_s} s")
    return float(0.5 ** (dt_s / half_life_s))


class Smoother:
    """Exponentially weighted mean of vectors, weighted by time and by evidence.

    Equal to the integral of ``weight * value`` over an exponential window divided by that of
    ``weight``: the same input held for a span gives the same result however often it is called,
    thin evidence moves the mean little, and after a long hole the first new value stands alone.
    The mean of simplex vectors stays on the simplex.
    """

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._sum: NDArray[np.float64] | None = None
        self._squares: NDArray[np.float64] | None = None
        self._mass = 0.0

    @property
    def variance(self) -> NDArray[np.float64]:
        """Weighted variance of the values around their mean; same shape as the values.

        Raises :class:`ValueError` before the first update.
        """
        if self._sum is None or self._squares is None:
            raise ValueError("nothing was taken yet")
        mean = self._sum / self._mass
        return np.maximum(0.0, self._squares / self._mass - mean * mean)

    def update(
        self, values: NDArray[np.float64], weight: float, dt_s: float
    ) -> NDArray[np.float64]:
        """Return the mean after ``values`` held for ``dt_s`` seconds with ``weight`` > 0."""
        keep = kept(dt_s, self._half_life_s)
        gain = weight * (1.0 - keep)
        self._sum = gain * values + (0.0 if self._sum is None else keep * self._sum)
        squares = gain * values * values
        self._squares = squares + (0.0 if self._squares is None else keep * self._squares)
        self._mass = keep * self._mass + gain
        return self._sum / self._mass


class Follower:
    """One number that follows its target fast upwards and slowly downwards (attack, release)."""

    def __init__(self, *, attack_s: float, release_s: float, start: float = 0.0) -> None:
        self._attack_s = attack_s
        self._release_s = release_s
        self.value = start

    def update(self, target: float, dt_s: float) -> float:
        """Return the value after ``target`` held for ``dt_s`` seconds."""
        half_life_s = self._attack_s if target > self.value else self._release_s
        self.value = target + (self.value - target) * kept(dt_s, half_life_s)
        return self.value
