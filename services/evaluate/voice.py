"""Judge a whole clip's voice with the production graphs.

Comes in: a clip's samples. Goes out: seven probabilities. The clip is cut into slots and read as a
live call is: the same voice activity, the same front end, the same mask. The emotion net then
hears all slots at once, which its free time axis allows.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ScoreError
from pipeline.graphs import Floats
from pipeline.hearing import SLOT_PCM, Hearing
from pipeline.types import LEAD_TICKS, SLOT_TICKS

SILENT_DBFS = -60.0
"""A clip whose loudest half second is below this holds no voice."""

Samples = NDArray[np.int16]


def slots(pcm: Samples) -> Iterator[Samples]:
    """Yield the clip's slots with their lead; silence stands before the clip and after it."""
    count = max(-(-pcm.size // SLOT_TICKS), 1)
    padded = np.zeros(LEAD_TICKS + count * SLOT_TICKS, np.int16)
    padded[LEAD_TICKS : LEAD_TICKS + pcm.size] = pcm
    for slot in range(count):
        yield padded[slot * SLOT_TICKS : slot * SLOT_TICKS + SLOT_PCM]


def judge(hearer: Hearing, pcm: Samples) -> Floats | None:
    """Return probabilities (7,); ``None`` for a silent clip.

    A labelled clip is taken to be speech: where the voice activity model finds none, all of it is
    heard. Raises :class:`ScoreError` when a model has no sound answer.
    """
    readings = hearer.read(list(slots(pcm)))
    heard = [reading for reading in readings if reading is not None]
    if len(heard) < len(readings):
        raise ScoreError("the clip's sound could not be measured")
    if max(slot.loudness_dbfs for slot in heard) < SILENT_DBFS:
        return None
    return hearer.judge([heard])[0]
