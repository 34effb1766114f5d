"""Frames are sampled once a cell, whatever the rate and the order."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sampling import FrameSampler
from pipeline.types import FRAME_CELL_TICKS


@given(st.lists(st.integers(-10_000, 200_000), max_size=100))
def test_keeps_the_first_frame_of_each_new_cell(ticks):
    sampler, seen = FrameSampler(), -1
    for at in ticks:
        cell = at // FRAME_CELL_TICKS
        assert sampler.keeps(at) == (cell > seen)
        seen = max(seen, cell)


@given(rate_hz=st.integers(4, 120), offset=st.integers(0, 50_000))
def test_takes_four_frames_a_second_of_any_faster_stream(rate_hz, offset):
    sampler = FrameSampler()
    kept = [at for n in range(rate_hz * 5) if sampler.keeps(at := offset + n * 16_000 // rate_hz)]
    assert len(kept) in {20, 21}
    assert len({at // FRAME_CELL_TICKS for at in kept}) == len(kept)


def test_ignores_media_before_the_session():
    assert not FrameSampler().keeps(-1)
    assert FrameSampler().keeps(0)
