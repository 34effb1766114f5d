"""Whether what a scorer measured is made of numbers: NaN and infinities end here."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.types import FrameReading, Outcome, SlotReading


def finite(outcome: Outcome) -> bool:
    """Tell whether every number of ``outcome`` is finite."""
    return all(map(math.isfinite, _numbers(outcome))) and all(
        bool(np.isfinite(values).all()) for values in _arrays(outcome)
    )


def _arrays(outcome: Outcome) -> Iterator[NDArray[np.float32]]:
    if outcome.voice is not None:
        yield outcome.voice
    for frame in outcome.frames or ():
        for face in frame.faces:
            yield face.probabilities


def _numbers(outcome: Outcome) -> Iterator[float]:
    for frame in outcome.frames or ():
        yield from _of_frame(frame)
    for slot in outcome.slots or ():
        yield from _of_slot(slot)


def _of_frame(frame: FrameReading) -> Iterator[float]:
    yield frame.luma
    yield frame.sharpness
    yield frame.motion or 0.0
    for face in frame.faces:
        yield from face.box
        yield face.score
        yield face.brow_gap or 0.0
        yield face.mouth_open or 0.0


def _of_slot(slot: SlotReading) -> Iterator[float]:
    yield slot.coverage
    yield slot.speech
    yield slot.loudness_dbfs
    yield slot.pitch_hz or 0.0
    yield slot.syllable_rate_hz or 0.0
