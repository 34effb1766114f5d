"""A speaker's own baseline: how they sound and look in their first minute.

Deviation is measured against population norms with a wide band until the first minute is over and
enough of it was heard or seen; from then on against the person's own values, blended with the
norm by how many there are. Measures without a published norm have no baseline before that: nothing
is claimed about them. Every slot and every frame counts once, however many windows it lies in.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log2, sqrt
from types import MappingProxyType
from typing import Literal

from pipeline.fusion import TrackedFrame
from pipeline.types import SLOT_TICKS, TICKS_PER_MS, SlotReading

Measure = Literal["loudness", "pitch", "speech_rate", "brow_gap", "mouth_open"]


@dataclass(frozen=True, slots=True)
class Norm:
    """What is usual for one measure."""

    mean: float
    deviation: float
    """Standard deviation; for pitch in semitones, else in the measure's unit."""
    own: bool
    """The person's own, not the population's."""


POPULATION: Mapping[Measure, Norm] = MappingProxyType(
    {
        "loudness": Norm(-26.0, 15.0, own=False),
        "pitch": Norm(160.0, 6.0, own=False),
        "speech_rate": Norm(5.0, 2.0, own=False),
    }
)
"""Nominal active speech level of telephone networks (ITU-T P.56, G.169: -26 dBov), wide because
microphones differ by more than voices do; between the mean fundamental frequencies of men and women
(Traunmueller & Eriksson 1995: 119 and 207 Hz) and syllable rate, both as :mod:`pipeline.prosody`
finds them in slots of acted English and Polish speech (RAVDESS, nEMO: 5.2 +- 1.9 syllables/s, 6
semitones)."""


@dataclass(frozen=True, slots=True)
class BaselineSettings:
    """How a baseline is learned."""

    learn_ms: int = 60_000
    """Media time in which the own baseline is learned."""
    min_samples: int = 20
    """Slots or frames below which learning goes on and no own baseline is used."""
    prior_samples: float = 8.0
    """How many own samples weigh as much as the population norm."""
    min_speech: float = 0.5
    """Least share of speech in a slot that counts."""


_LEAST_DEVIATION: Mapping[Measure, float] = MappingProxyType(
    {"loudness": 2.0, "pitch": 1.0, "speech_rate": 0.5, "brow_gap": 0.01, "mouth_open": 0.01}
)


class _Running:
    """Mean and variance of a growing sample (Welford 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def variance(self) -> float:
        return self._squares / self.count


class Baseline:
    """Learns from slots and frames in order of media time."""

    def __init__(self, settings: BaselineSettings | None = None) -> None:
        self._settings = settings or BaselineSettings()
        self._own: dict[Measure, _Running] = {}
        self._next_slot = 0
        self._next_tick = 0

    def hear(self, slots: Sequence[SlotReading]) -> None:
        """Learn from slots that were not learned from before."""
        for slot in slots:
            if slot.index < self._next_slot:
                continue
            self._next_slot = slot.index + 1
            if slot.speech >= self._settings.min_speech:
                end_ms = (slot.index + 1) * SLOT_TICKS // TICKS_PER_MS
                self._learn("loudness", slot.loudness_dbfs, end_ms)
                self._learn("pitch", slot.pitch_hz, end_ms)
                self._learn("speech_rate", slot.syllable_rate_hz, end_ms)

    def see(self, frames: Iterable[TrackedFrame]) -> None:
        """Learn from the face that counts in frames that were not learned from before."""
        for frame in frames:
            at = frame.reading.at
            if at < self._next_tick or not frame.faces:
                continue
            self._next_tick = at + 1
            face = frame.faces[0][1]
            self._learn("brow_gap", face.brow_gap, at // TICKS_PER_MS)
            self._learn("mouth_open", face.mouth_open, at // TICKS_PER_MS)

    def norm(self, measure: Measure, now_ms: int) -> Norm | None:
        """Return what ``measure`` is compared with at ``now_ms``; None while nothing is known."""
        own = self._own.get(measure)
        population = POPULATION.get(measure)
        settings = self._settings
        if own is None or now_ms < settings.learn_ms or own.count < settings.min_samples:
            return population
        if population is None:
            return Norm(own.mean, max(_LEAST_DEVIATION[measure], sqrt(own.variance)), own=True)
        share = own.count / (own.count + settings.prior_samples)
        mean = share * own.mean + (1 - share) * scaled(measure, population.mean)
        variance = share * own.variance + (1 - share) * population.deviation**2
        deviation = max(_LEAST_DEVIATION[measure], sqrt(variance))
        return Norm(_unscaled(measure, mean), deviation, own=True)

    def own(self, now_ms: int) -> bool:
        """Return whether anything is compared with the person's own values at ``now_ms``."""
        norms = (self.norm(measure, now_ms) for measure in self._own)
        return any(norm is not None and norm.own for norm in norms)

    def _learn(self, measure: Measure, value: float | None, at_ms: int) -> None:
        if value is None:
            return
        own = self._own.setdefault(measure, _Running())
        if at_ms <= self._settings.learn_ms or own.count < self._settings.min_samples:
            own.add(scaled(measure, value))


def deviation(measure: Measure, value: float | None, norm: Norm | None) -> float:
    """Return how many standard deviations ``value`` lies above ``norm``; 0 where either lacks."""
    if value is None or norm is None:
        return 0.0
    return (scaled(measure, value) - scaled(measure, norm.mean)) / norm.deviation


def scaled(measure: Measure, value: float) -> float:
    """Return ``value`` on the scale of its deviations: semitones for pitch, else unchanged."""
    return 12.0 * log2(value) if measure == "pitch" else value


def _unscaled(measure: Measure, value: float) -> float:
    return float(2.0 ** (value / 12.0)) if measure == "pitch" else value
