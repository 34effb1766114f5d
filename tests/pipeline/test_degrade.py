"""The ladder goes up under pressure and comes down at ease; every window has one fate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.degrade import DOWN_S, UP_S, Ladder, Rung, treat
from pipeline.types import FRAME_CELL_TICKS, SLOT_TICKS, VideoFrame, Window

AUDIO = np.zeros(4, np.int16)


def window(index=0, *, audio=True, video=True):
    frames = tuple(
        VideoFrame(index * SLOT_TICKS + cell * FRAME_CELL_TICKS, np.zeros((2, 2, 3), np.uint8))
        for cell in range(8)
    )
    return Window(index, AUDIO if audio else None, (), frames if video else None)


def scored(rung, count=16):
    return [index for index in range(count) if treat(window(index), rung) is not None]


def test_at_full_service_windows_are_left_alone():
    whole = window(3)
    treated = treat(whole, Rung.FULL)
    assert treated is not None
    assert treated.window is whole
    assert treated.degraded == ()


@pytest.mark.parametrize(
    ("rung", "every"),
    [
        (Rung.FULL, 1),
        (Rung.HOP_1S, 2),
        (Rung.VIDEO_HALVED, 2),
        (Rung.VIDEO_DROPPED, 2),
        (Rung.REFUSE, 2),
        (Rung.DROP, 4),
    ],
)
def test_how_many_windows_are_scored(rung, every):
    assert scored(rung) == list(range(0, 16, every))


@pytest.mark.parametrize(
    ("rung", "given", "frames", "flags"),
    [
        (Rung.HOP_1S, {}, 8, ("hop_doubled",)),
        (Rung.VIDEO_HALVED, {}, 4, ("hop_doubled", "video_halved")),
        (Rung.VIDEO_DROPPED, {}, 0, ("hop_doubled", "video_dropped")),
        (Rung.REFUSE, {}, 0, ("hop_doubled", "video_dropped")),
        (Rung.DROP, {}, 0, ("hop_doubled", "video_dropped")),
        (Rung.DROP, {"audio": False}, 4, ("hop_doubled", "video_halved")),
        (Rung.VIDEO_HALVED, {"video": False}, None, ("hop_doubled",)),
        (Rung.VIDEO_DROPPED, {"video": False}, None, ("hop_doubled",)),
    ],
)
def test_what_is_left_of_a_window_and_what_it_says(rung, given, frames, flags):
    whole = window(4, **given)
    treated = treat(whole, rung)
    assert treated is not None
    assert treated.degraded == flags
    assert (treated.window.index, treated.window.audio) == (whole.index, whole.audio)
    kept = treated.window.frames
    assert (None if kept is None else len(kept)) == frames


def test_overlapping_windows_keep_the_same_pictures():
    """… or each picture would be measured for one of them anyhow."""
    first, second = (treat(window(index), Rung.VIDEO_HALVED) for index in (0, 2))
    assert first is not None
    assert second is not None
    common = {frame.at for frame in first.window.frames or () if frame.at >= 2 * SLOT_TICKS}
    assert common == {frame.at for frame in second.window.frames or () if frame.at < 4 * SLOT_TICKS}
    assert common


def climb(ladder, pressure, seconds, start=0.0):
    times = (start + half / 2 for half in range(int(2 * seconds) + 1))
    return list(dict.fromkeys([ladder.step(pressure, now_s) for now_s in times]))


def test_it_goes_up_rung_by_rung_and_comes_down_slower():
    ladder = Ladder()
    assert climb(ladder, "high", UP_S - 0.5) == [Rung.FULL]
    assert climb(ladder, "high", 60, start=UP_S - 0.5) == list(Rung)
    assert ladder.changes == 5
    down = climb(ladder, "low", DOWN_S * 5, start=200)
    assert down == list(reversed(Rung))
    assert ladder.changes == 10


def test_some_pressure_keeps_the_rung():
    ladder = Ladder()
    climb(ladder, "high", UP_S)
    assert ladder.rung == Rung.HOP_1S
    assert climb(ladder, "some", 100, start=50) == [Rung.HOP_1S]


def test_a_peak_starts_the_dwell_anew():
    ladder = Ladder()
    for at_s in range(20):
        ladder.step("high" if at_s % 2 else "some", float(at_s))
    assert ladder.rung == Rung.FULL


@given(st.lists(st.tuples(st.sampled_from(["high", "some", "low"]), st.floats(0.1, 5))))
def test_it_moves_one_rung_at_a_time_and_never_faster_than_its_dwell(steps):
    ladder, now_s, changed_s = Ladder(), 0.0, None
    for pressure, took_s in steps:
        now_s += took_s
        before = ladder.rung
        after = ladder.step(pressure, now_s)
        assert abs(after - before) <= 1
        if after != before:
            least_s = UP_S if after > before else DOWN_S
            assert changed_s is None or now_s - changed_s >= least_s - 1e-6
            changed_s = now_s
