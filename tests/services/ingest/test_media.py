"""Pictures keep their shape, sound keeps its time."""

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.types import AudioChunk
from services.ingest.media import Resampler, Scaler, joined, sampled_size


def _tone(rate_hz, layout, samples, first=0, hz=440):
    wave = np.sin(2 * np.pi * hz * (first + np.arange(samples)) / rate_hz) * 8000
    data = wave.astype(np.int16)
    if layout == "stereo":
        data = np.repeat(data, 2)
    frame = av.AudioFrame.from_ndarray(data.reshape(1, -1), format="s16", layout=layout)
    frame.sample_rate = rate_hz
    return frame


def _all(chunks):
    return np.concatenate([chunk.samples for chunk in chunks])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 360), (320, 180)),
        ((320, 240), (320, 240)),
        ((200, 900), (200, 900)),
        ((1080, 1920), (320, 568)),
        ((641, 361), (320, 180)),
        ((1920, 2), (320, 2)),
    ],
)
def test_pictures_are_scaled_down_never_up(size, expected):
    assert sampled_size(*size) == expected


def test_scaler_follows_a_change_of_size_and_keeps_colours():
    scaler = Scaler()
    for width, height in ((640, 360), (360, 640), (160, 120)):
        rgb = np.zeros((height, width, 3), np.uint8)
        rgb[..., 0] = 200
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
        small = scaler.sampled(frame)
        assert small.shape == (*sampled_size(width, height)[::-1], 3)
        assert not small.flags.writeable
        assert abs(int(small[..., 0].mean()) - 200) < 6
        assert small[..., 1:].mean() < 6


@pytest.mark.parametrize(
    ("rate_hz", "layout"),
    [(48000, "stereo"), (48000, "mono"), (44100, "stereo"), (16000, "mono"), (8000, "mono")],
)
def test_sound_lies_where_it_was(rate_hz, layout):
    resampler = Resampler()
    step = rate_hz // 50
    chunks = []
    for first in range(0, rate_hz * 2, step):
        chunks += resampler.push(_tone(rate_hz, layout, step, first), first * 16000 // rate_hz)
    chunks += resampler.flush()
    assert chunks[0].start == 0
    sound = _all(chunks)
    assert len(sound) == 32000
    expected = np.sin(2 * np.pi * 440 * np.arange(32000) / 16000) * 8000
    assert np.abs(sound[100:-100] - expected[100:-100]).max() < 40


@settings(max_examples=25, deadline=None)
@given(
    cuts=st.lists(st.integers(120, 1200), min_size=1, max_size=40),
    lost=st.sets(st.integers(0, 40)),
    start=st.integers(0, 10**9),
)
def test_loss_leaves_holes_and_never_shifts(cuts, lost, start):
    resampler = Resampler()
    chunks, spans, first = [], [], 0
    for number, size in enumerate(cuts):
        if number not in lost:
            tick = start + first // 3
            chunks += resampler.push(_tone(48000, "mono", size, first), tick)
            spans.append((tick, size))
        first += size
    chunks += resampler.flush()
    total = sum(size for _, size in spans) / 3
    assert abs(sum(len(chunk.samples) for chunk in chunks) - total) <= 2 * len(spans) + 2
    for chunk in chunks:
        assert any(
            tick - 33 <= chunk.start and chunk.start + len(chunk.samples) <= start + first // 3 + 33
            for tick, _ in spans
        )
    ends = [chunk.start + len(chunk.samples) for chunk in chunks]
    assert all(later.start >= end - 33 for later, end in zip(chunks[1:], ends, strict=False))


def test_a_jump_begins_a_new_run_at_its_own_tick():
    resampler = Resampler()
    before = resampler.push(_tone(48000, "mono", 960), 0)
    after = resampler.push(_tone(48000, "mono", 960), 5000) + resampler.flush()
    assert sum(len(chunk.samples) for chunk in before + after) == 640
    assert [chunk.start for chunk in joined(before + after)] == [0, 5000]


def test_rounded_time_stamps_do_not_tear_the_sound():
    resampler = Resampler()
    chunks = []
    for number in range(50):
        rounded_ms = round(number * 1024 / 44.1)
        chunks += resampler.push(_tone(44100, "mono", 1024, number * 1024), rounded_ms * 16)
    chunks += resampler.flush()
    assert len(joined(chunks)) == 1


def test_joined_keeps_holes():
    def chunk(start, n):
        return AudioChunk(start, np.full(n, start, np.int16))

    runs = joined([chunk(0, 10), chunk(10, 5), chunk(20, 4), chunk(24, 1), chunk(24, 2)])
    assert [(run.start, len(run.samples)) for run in runs] == [(0, 15), (20, 5), (24, 2)]
    assert joined([]) == []
