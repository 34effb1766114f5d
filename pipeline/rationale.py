"""One sentence made of measured cues, each with its value and baseline; never invented.

The words describe what is expressed and heard; they claim nothing about what a person feels. A cue
is named only when it stands out: when nothing does, there is no sentence.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from pipeline.baseline import Baseline, Measure, Norm, deviation
from pipeline.events import Cue, Reason
from pipeline.fusion import TrackedFrame
from pipeline.spec import LABELS
from pipeline.types import Face, SlotReading

ADJECTIVES = {
    "neutral": "neutral",
    "happy": "happy",
    "sad": "sad",
    "angry": "angry",
    "fear": "fearful",
    "disgust": "disgusted",
    "surprise": "surprised",
}
"""Label → the word for an expression or a tone of voice."""

_UNITS: dict[Measure, str] = {
    "loudness": "dBFS",
    "pitch": "Hz",
    "speech_rate": "syllables/s",
    "brow_gap": "eye distances",
    "mouth_open": "eye distances",
}
_COMPARATIVES: dict[Measure, tuple[str, str]] = {
    "loudness": ("louder", "quieter"),
    "pitch": ("higher", "lower"),
    "speech_rate": ("faster", "slower"),
}
_CODES = {"audio": "voice", "video": "face"}


@dataclass(frozen=True, slots=True)
class RationaleSettings:
    """When a cue stands out."""

    stands_out: float = 1.5
    """Standard deviations from the own baseline."""
    stands_out_early: float = 2.0
    """Standard deviations from the population norm, before there is an own baseline."""
    brow_deviations: float = 1.0
    """Standard deviations by which the brows of one frame count as lowered or raised."""
    mouth_deviations: float = 2.0
    most_frames: float = 0.5
    """Share of the frames with a face that must agree."""
    least_frames: int = 3
    """Frames with a face below which nothing is said about it."""
    clear_tone: float = 0.5
    """Probability from which the voice model's first label is named."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The measures of a window's speech; None where nothing was measured."""

    loudness: float | None = None
    pitch: float | None = None
    speech_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One phrase and the cues that prove it."""

    phrase: str
    cues: tuple[Cue, ...]


def heard(slots: Sequence[SlotReading] | None, min_speech: float = 0.5) -> Heard:
    """Return the means over the slots with speech."""
    spoken = [slot for slot in slots or () if slot.speech >= min_speech]
    return Heard(
        _mean([slot.loudness_dbfs for slot in spoken]),
        _mean([slot.pitch_hz for slot in spoken]),
        _mean([slot.syllable_rate_hz for slot in spoken]),
    )


def findings(
    window: Heard,
    voice: NDArray[np.float64] | None,
    frames: Sequence[TrackedFrame] | None,
    *,
    baseline: Baseline,
    now_ms: int,
    settings: RationaleSettings,
) -> tuple[Finding, ...]:
    """Return what stands out in a window that ends at ``now_ms``, voice first.

    ``voice`` is None when the voice did not count, ``frames`` when the face did not.
    """
    said = (*_manner(window, baseline, now_ms, settings), *_tone(voice, settings))
    seen = [frame for frame in frames or () if frame.faces]
    if len(seen) < settings.least_frames:
        return said
    return (
        *said,
        *_brows(seen, baseline, now_ms, settings),
        *_mouth(seen, baseline, now_ms, settings),
        *_expression(seen, settings),
    )


def sentence(found: Sequence[Finding]) -> Reason | None:
    """Return the findings as one sentence; None when there are none."""
    if not found:
        return None
    text = "; ".join(finding.phrase for finding in found)
    modalities = {cue.modality for finding in found for cue in finding.cues}
    code = {frozenset({"audio"}): "voice", frozenset({"video"}): "face"}
    return Reason(
        code.get(frozenset(modalities), "voice_and_face"), f"{text[0].upper()}{text[1:]}."
    )


def _manner(
    window: Heard, baseline: Baseline, now_ms: int, settings: RationaleSettings
) -> Iterator[Finding]:
    """Loudness, rate and pitch beside the baseline, as one comparison per kind of baseline."""
    words: dict[bool, list[str]] = {True: [], False: []}
    cues: dict[bool, list[Cue]] = {True: [], False: []}
    measured: tuple[tuple[Measure, float | None], ...] = (
        ("loudness", window.loudness),
        ("speech_rate", window.speech_rate),
        ("pitch", window.pitch),
    )
    for measure, value in measured:
        norm = baseline.norm(measure, now_ms)
        by = deviation(measure, value, norm)
        if value is None or norm is None:
            continue
        if abs(by) >= (settings.stands_out if norm.own else settings.stands_out_early):
            words[norm.own].append(_COMPARATIVES[measure][by < 0])
            cues[norm.own].append(_cue(measure, value, norm))
    for own, than in ((True, "than the first minute"), (False, "than is usual on calls")):
        if words[own]:
            yield Finding(f"{_and(words[own])} {than}", tuple(cues[own]))


def _tone(voice: NDArray[np.float64] | None, settings: RationaleSettings) -> Iterator[Finding]:
    if voice is None:
        return
    best = int(voice.argmax())
    label, value = LABELS[best], float(voice[best])
    if label != "neutral" and value >= settings.clear_tone:
        cue = Cue(f"tone_{label}", "audio", round(value, 3), None, "probability")
        yield Finding(f"{_article(ADJECTIVES[label])} tone of voice", (cue,))


def _brows(
    seen: Sequence[TrackedFrame], baseline: Baseline, now_ms: int, settings: RationaleSettings
) -> Iterator[Finding]:
    norm = baseline.norm("brow_gap", now_ms)
    gaps = [face.brow_gap for face in _faces(seen) if face.brow_gap is not None]
    if norm is None or not gaps:
        return
    limit = settings.brow_deviations
    lowered = [gap for gap in gaps if deviation("brow_gap", gap, norm) <= -limit]
    raised = [gap for gap in gaps if deviation("brow_gap", gap, norm) >= limit]
    for word, some in (("lowered", lowered), ("raised", raised)):
        if len(some) > settings.most_frames * len(seen):
            cue = _cue("brow_gap", fmean(gaps), norm)
            yield Finding(f"brows {word} in {len(some)} of {len(seen)} frames", (cue,))


def _mouth(
    seen: Sequence[TrackedFrame], baseline: Baseline, now_ms: int, settings: RationaleSettings
) -> Iterator[Finding]:
    norm = baseline.norm("mouth_open", now_ms)
    gaps = [face.mouth_open for face in _faces(seen) if face.mouth_open is not None]
    if norm is None:
        return
    wide = [g for g in gaps if deviation("mouth_open", g, norm) >= settings.mouth_deviations]
    if len(wide) > settings.most_frames * len(seen):
        cue = _cue("mouth_open", fmean(gaps), norm)
        yield Finding(f"mouth wide open in {len(wide)} of {len(seen)} frames", (cue,))


def _expression(seen: Sequence[TrackedFrame], settings: RationaleSettings) -> Iterator[Finding]:
    named = Counter(LABELS[int(face.probabilities.argmax())] for face in _faces(seen))
    label, count = named.most_common(1)[0]
    if label != "neutral" and count > settings.most_frames * len(seen):
        share = round(count / len(seen), 3)
        cue = Cue(f"expression_{label}", "video", share, None, "share of frames")
        phrase = f"{_article(ADJECTIVES[label])} expression in {count} of {len(seen)} frames"
        yield Finding(phrase, (cue,))


def _faces(seen: Sequence[TrackedFrame]) -> list[Face]:
    return [frame.faces[0][1] for frame in seen]


def _cue(measure: Measure, value: float, norm: Norm) -> Cue:
    return Cue(
        name=measure,
        modality="audio" if measure in _COMPARATIVES else "video",
        value=round(value, 3),
        baseline=round(norm.mean, 3),
        unit=_UNITS[measure],
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _article(adjective: str) -> str:
    return f"{'an' if adjective[0] in 'aeiou' else 'a'} {adjective}"
