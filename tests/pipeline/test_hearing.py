"""What counts as speech, and what the emotion model gets to hear."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.hearing import (
    LISTEN_FLOOR,
    MARGIN_FRAMES,
    MIN_SPEECH_FRAMES,
    SLOT_FRAMES,
    SPEECH_FLOOR,
    Heard,
    listened,
    speech,
)


def heard(chances):
    slots = np.array(chances, np.float32).reshape(-1, SLOT_FRAMES)
    return [
        Heard(slot, np.zeros((SLOT_FRAMES, 3), np.float32), -20.0, None, None) for slot in slots
    ]


def chances(slots=4, **spans):
    row = np.zeros(slots * SLOT_FRAMES)
    for value, (first, last) in zip((0.9, 0.3), spans.values(), strict=False):
        row[first:last] = value
    return heard(row)


def test_one_stretch_with_margins_is_heard():
    mask = listened(chances(sure=(60, 70), faint=(100, 110)))
    np.testing.assert_array_equal(np.flatnonzero(mask), np.arange(50, 120))


def test_margins_end_with_the_window():
    assert listened(chances(sure=(0, 200))).sum() == 200
    np.testing.assert_array_equal(np.flatnonzero(listened(chances(sure=(0, 1)))), np.arange(11))


def test_where_nothing_is_speech_everything_is_heard():
    assert listened(chances()).all()


@pytest.mark.parametrize(("frames", "enough"), [(MIN_SPEECH_FRAMES, True), (19, False)])
def test_a_voice_needs_a_syllable_of_sure_speech(frames, enough):
    assert speech(chances(sure=(40, 40 + frames), faint=(100, 200))) is enough


@given(st.lists(st.floats(0, 1, width=32), min_size=200, max_size=200))
def test_all_speech_is_heard_and_nothing_beyond_its_margins(row):
    row = np.array(row, np.float32)
    mask = listened(heard(row)) > 0
    assert mask[row >= SPEECH_FLOOR].all()
    likely = np.flatnonzero(row >= LISTEN_FLOOR)
    if likely.size:
        assert not mask[: max(likely[0] - MARGIN_FRAMES, 0)].any()
        assert not mask[likely[-1] + MARGIN_FRAMES + 1 :].any()
