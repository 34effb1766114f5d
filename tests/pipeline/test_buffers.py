"""Buffers keep what arrived, once, where it belongs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.buffers import AUDIO_HOLE_TICKS, AudioBuffer, FrameBuffer, Holes
from pipeline.types import LEAD_TICKS, SLOT_TICKS, WINDOW_TICKS, VideoFrame


def frame(at):
    return VideoFrame(at, np.full((2, 2, 3), at % 251, np.uint8))


def test_holes_need_a_beginning_and_a_length():
    holes = Holes(100)
    assert holes.covered(500, 600) is None
    assert holes.covered(699, 800) is None
    assert holes.covered(900, 950) == (800, 900)
    assert holes.close(1049) is None
    assert holes.close(5000) is None
    holes.covered(0, 10)
    assert holes.close(110) == (10, 110)


@given(st.lists(st.tuples(st.integers(0, 30_000), st.integers(0, 2_000)), max_size=12))
def test_first_copy_of_every_tick_wins(pieces):
    buffer, expected = AudioBuffer(0, WINDOW_TICKS), np.zeros(WINDOW_TICKS, np.int16)
    arrived, doubles = np.zeros(WINDOW_TICKS, bool), 0
    for n, (start, length) in enumerate(pieces, 1):
        span = slice(start, start + length)
        doubles += np.count_nonzero(arrived[span])
        expected[span] = np.where(arrived[span], expected[span], n)
        arrived[span] = True
        buffer.write(start, np.full(length, n, np.int16))
    audio, coverage = buffer.window()
    assert np.array_equal(audio[LEAD_TICKS:], expected)
    assert coverage == tuple(arrived.reshape(4, SLOT_TICKS).mean(axis=1))
    rebuilt = np.zeros(WINDOW_TICKS, bool)
    for start, end in buffer.runs(0, WINDOW_TICKS):
        rebuilt[start:end] = True
    assert np.array_equal(rebuilt, arrived)


def test_write_counts_second_copies():
    buffer = AudioBuffer(0, WINDOW_TICKS)
    assert buffer.write(100, np.ones(50, np.int16)) == 0
    assert buffer.write(120, np.ones(50, np.int16)) == 30


def test_windows_of_sound_are_read_only_copies():
    buffer = AudioBuffer(0, WINDOW_TICKS)
    audio, _ = buffer.window()
    buffer.write(0, np.ones(10, np.int16))
    assert not audio.any()
    with pytest.raises(ValueError, match="read-only"):
        audio[0] = 1


@pytest.mark.parametrize("start", [SLOT_TICKS, WINDOW_TICKS, 10 * WINDOW_TICKS])
def test_sliding_keeps_the_left_context_and_nothing_older(start):
    buffer = AudioBuffer(0, WINDOW_TICKS + SLOT_TICKS)
    ramp = np.arange(1, WINDOW_TICKS + SLOT_TICKS + 1).astype(np.int16)
    buffer.write(0, ramp)
    buffer.slide(start)
    audio, coverage = buffer.window()
    expected = np.zeros(LEAD_TICKS + WINDOW_TICKS, np.int16)
    kept = ramp[start - LEAD_TICKS :][: len(expected)]
    expected[: len(kept)] = kept
    assert np.array_equal(audio, expected)
    assert coverage[0] == (1 if start <= WINDOW_TICKS else 0)


def test_clearing_forgets_the_left_context_too():
    buffer = AudioBuffer(0, WINDOW_TICKS)
    buffer.write(0, np.ones(WINDOW_TICKS, np.int16))
    buffer.clear(SLOT_TICKS)
    audio, coverage = buffer.window()
    assert not audio.any()
    assert coverage == (0, 0, 0, 0)
    buffer.write(SLOT_TICKS, np.ones(AUDIO_HOLE_TICKS, np.int16))
    assert buffer.window()[1][0] == 0.5


def test_one_frame_a_cell_the_earliest_and_of_equals_the_first():
    buffer = FrameBuffer()
    first, twin, earlier, other = frame(4_100), frame(4_100), frame(4_050), frame(100)
    assert not buffer.write(first)
    assert buffer.write(twin)
    assert buffer.between(0, 8_000) == (first,)
    assert buffer.write(earlier)
    assert not buffer.write(other)
    assert buffer.between(0, 8_000) == (other, earlier)
    assert list(buffer.runs(0, 8_000)) == [(100, 4_100), (4_050, 8_050)]
    assert not first.rgb.flags.writeable
    buffer.slide(4_000)
    assert buffer.between(0, 8_000) == (earlier,)
    buffer.clear(0)
    assert len(buffer) == 0
