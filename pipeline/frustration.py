"""Expressed frustration as an open state machine: weighted evidence, attack and release, rules.

Comes in: one window's smoothed probabilities with confidence. Goes out: a value in [0, 1] with an
80 % band and a trend, the state calm/watch/high, and alerts raised and cleared. Only the rule for
"high" alerts; "watch" is a state. Lack of evidence freezes every dwell: it neither raises nor
clears, until after a minute the alert is cleared as lost.
"""

from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.circumplex import project
from pipeline.events import Frustration as Reading
from pipeline.events import State, Trend
from pipeline.latch import Latch, RuleSettings
from pipeline.smoothing import Follower, kept
from pipeline.spec import LABELS
from pipeline.types import SLOT_TICKS, TICKS_PER_MS

HOP_MS = SLOT_TICKS // TICKS_PER_MS
Z80 = 1.2816
"""Half-width of the central 80 % of a normal distribution, in standard deviations."""
_SAD, _ANGRY, _FEAR, _DISGUST = (
    LABELS.index(label) for label in ("sad", "angry", "fear", "disgust")
)

ClearCause = Literal["recovered", "evidence_lost", "session_ended"]


@dataclass(frozen=True, slots=True)
class FrustrationSettings:
    """Weights of the evidence, times of the smoothing, and the rules."""

    angry: float = 0.95
    """Weight of the probability of expressed anger."""
    disgust: float = 0.60
    tense_sad: float = 0.45
    """Weight of expressed sadness, times the tension."""
    tense_fear: float = 0.30
    """Weight of expressed fear, times the tension."""
    negative_valence: float = 0.15
    tension: float = 0.15
    """Weight of the tension: arousal above 0 times the share of negative labels."""
    attack_s: float = 1.5
    """Half-life towards a higher reading."""
    release_s: float = 4.0
    """Half-life towards a lower reading."""
    spread_s: float = 2.0
    """Half-life of the spread of single readings around the value, which makes the band."""
    independent: float = 4.0
    """How many independent readings the value stands for: neighbours share three quarters of
    their media, and the smoothing reaches over some four windows laid end to end."""
    own_spread: float = 0.03
    """Standard deviation that stays when readings agree, against the own baseline."""
    population_spread: float = 0.06
    """The same before there is an own baseline."""
    thin_spread: float = 0.10
    """Standard deviation added where evidence is absent altogether (scaled by what lacks)."""
    trend_s: float = 6.0
    """Half-life of the slow mean that the trend is told from."""
    trend_on: float = 0.05
    """Distance from the slow mean at which a trend begins."""
    trend_off: float = 0.02
    """Distance below which it is over."""
    lost_ms: int = 60_000
    """Without evidence for so long, an alert is cleared."""
    watch: RuleSettings = field(
        default_factory=lambda: RuleSettings(
            "frustration_watch", enter=0.45, enter_ms=3_000, leave=0.35, leave_ms=5_000
        )
    )
    high: RuleSettings = field(
        default_factory=lambda: RuleSettings(
            "frustration_high",
            enter=0.70,
            enter_ms=8_000,
            leave=0.50,
            leave_ms=10_000,
            min_confidence=0.5,
            cool_down_ms=30_000,
        )
    )


@dataclass(frozen=True, slots=True)
class Raised:
    """The rule for "high" held for its dwell time."""

    reading: Reading
    since_ms: int
    windows: tuple[int, ...]
    """Indices of the windows that counted, oldest first."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """An alert is over."""

    cause: ClearCause
    duration_ms: int
    peak: float


def evidence(
    probabilities: NDArray[np.float64], arousal: float, settings: FrustrationSettings
) -> float:
    """Return one window's own reading in [0, 1], before any smoothing.

    ``arousal`` is the one corrected by the voice's deviation from the baseline.
    """
    p = probabilities
    negative = p[_ANGRY] + p[_DISGUST] + p[_SAD] + p[_FEAR]
    tension = max(0.0, arousal) * negative
    valence, _ = project(p)
    total = (
        settings.angry * p[_ANGRY]
        + settings.disgust * p[_DISGUST]
        + tension * (settings.tense_sad * p[_SAD] + settings.tense_fear * p[_FEAR])
        + settings.negative_valence * max(0.0, -valence)
        + settings.tension * tension
    )
    return float(min(1.0, total))


class Frustration:
    """One person's frustration over a session, window by window in order of media time."""

    def __init__(self, settings: FrustrationSettings | None = None) -> None:
        self.settings = settings or FrustrationSettings()
        self._watch = Latch(self.settings.watch)
        self._high = Latch(self.settings.high)
        self._last_ms: int | None = None
        self._begin()

    def _begin(self) -> None:
        self._level = Follower(attack_s=self.settings.attack_s, release_s=self.settings.release_s)
        self._variance = 0.0
        self._slow = 0.0
        self._trend: Trend = "steady"
        self._since_ms = 0

    @property
    def state(self) -> State:
        """The latched state."""
        if self._high.on:
            return "high"
        return "watch" if self._watch.on else "calm"

    @property
    def alerting(self) -> bool:
        """Whether an alert is up."""
        return self._high.on

    def step(
        self, raw: float, *, confidence: float, weight: float, own: bool, index: int, end_ms: int
    ) -> tuple[Reading, list[Raised | Cleared]]:
        """Take one window's reading; return the smoothed one and the alerts it changed.

        ``weight`` in [0, 1] is how much evidence there was, ``own`` whether the baseline is the
        person's own.
        """
        changes: list[Raised | Cleared] = [*self.absent(end_ms)]
        fresh = self._last_ms is None
        dt_ms = HOP_MS if self._last_ms is None else end_ms - self._last_ms
        self._last_ms = end_ms
        reading = self._read(raw, weight, own=own, end_ms=end_ms, dt_ms=dt_ms, fresh=fresh)
        stepped_ms = min(dt_ms, HOP_MS)
        value = self._level.value
        self._watch.step(value, confidence, index=index, now_ms=end_ms, dt_ms=stepped_ms)
        if self._high.step(value, confidence, index=index, now_ms=end_ms, dt_ms=stepped_ms):
            if self._high.on:
                changes.append(Raised(reading, self._high.since_ms, tuple(self._high.windows)))
            else:
                changes.append(self._cleared("recovered", end_ms))
        return reading, changes

    def absent(self, end_ms: int) -> list[Cleared]:
        """Take the end of a window without evidence; return the alert that is lost by it."""
        if self._last_ms is None or end_ms - self._last_ms < self.settings.lost_ms:
            return []
        self._last_ms = None
        self._begin()
        self._watch.release(end_ms)
        return [self._cleared("evidence_lost", end_ms)] if self._high.release(end_ms) else []

    def finish(self, end_ms: int) -> list[Cleared]:
        """End the session; return the alert that was still up."""
        return [self._cleared("session_ended", end_ms)] if self._high.release(end_ms) else []

    def _cleared(self, cause: ClearCause, end_ms: int) -> Cleared:
        duration_ms = max(0, end_ms - self._high.latched_ms)
        return Cleared(cause, duration_ms, round(self._high.peak, 3))

    def _read(
        self, raw: float, weight: float, *, own: bool, end_ms: int, dt_ms: int, fresh: bool
    ) -> Reading:
        settings, dt_s = self.settings, dt_ms / 1000
        value = self._level.update(raw, dt_s)
        keep = kept(dt_s, settings.spread_s)
        self._variance = keep * self._variance + (1 - keep) * (raw - value) ** 2
        least = settings.own_spread if own else settings.population_spread
        thin = settings.thin_spread * (1.0 - weight)
        half = Z80 * sqrt(self._variance / settings.independent + least**2 + thin**2)
        if fresh:
            self._slow, self._since_ms = value, end_ms
        self._turn(value, kept(dt_s, settings.trend_s), end_ms)
        return Reading(
            value=round(value, 3),
            low=round(max(0.0, value - half), 3),
            high=round(min(1.0, value + half), 3),
            trend=self._trend,
            since_ms=self._since_ms,
        )

    def _turn(self, value: float, keep: float, end_ms: int) -> None:
        """Tell the trend from the distance to a slow mean, with hysteresis."""
        self._slow = value + (self._slow - value) * keep
        distance = value - self._slow
        trend: Trend = "steady"
        if abs(distance) >= (
            self.settings.trend_on if self._trend == "steady" else self.settings.trend_off
        ):
            trend = "rising" if distance > 0 else "falling"
        if trend != self._trend:
            self._trend, self._since_ms = trend, end_ms
