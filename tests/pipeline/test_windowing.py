"""Windows against a model that sees the whole session at once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.types import (
    FRAME_CELL_TICKS,
    LEAD_TICKS,
    SLOT_TICKS,
    WINDOW_TICKS,
    AudioChunk,
    Gap,
    VideoFrame,
    Window,
)
from pipeline.windowing import JUMP_TICKS, PATIENCE_TICKS, READY_LIMIT, Windower

SECOND = 16_000


def sound(start, length):
    """Samples whose value names their tick and is never zero."""
    return AudioChunk(start, ((np.arange(start, start + length) % 30_000) + 1).astype(np.int16))


def picture(at):
    return VideoFrame(at, np.full((2, 3, 3), at % 251, np.uint8))


def play(windower, audio_until=None, video_until=None, step=1600):
    """Feed both tracks evenly from tick 0 and return everything."""
    out = []
    for start in range(0, max(audio_until or 0, video_until or 0), step):
        if audio_until and start < audio_until:
            windower.feed(sound(start, min(step, audio_until - start)))
        if video_until and start < video_until:
            windower.feed(picture(start))
            windower.reached("video", min(start + step, video_until))
        out += windower.take()
    return out


def windows(items):
    return [item for item in items if isinstance(item, Window)]


def gaps(items):
    return [item for item in items if isinstance(item, Gap)]


def same(left, right):
    """Whether two windows are equal, bit for bit."""
    if (left.index, left.audio_coverage) != (right.index, right.audio_coverage):
        return False
    if (left.audio is None) != (right.audio is None):
        return False
    if left.audio is not None and not np.array_equal(left.audio, right.audio):
        return False
    frames = [w.frames if w.frames is None else [f.at for f in w.frames] for w in (left, right)]
    return frames[0] == frames[1]


# --- the property: cuts, losses, duplicates and calls do not matter -------------------------

holes = st.lists(st.tuples(st.integers(0, 9 * SECOND), st.integers(1, 3 * SECOND)), max_size=3)


def lost(intervals, start, end):
    return any(a < end and start < a + n for a, n in intervals)


@st.composite
def sessions(draw):
    """(feeds in order, model of what arrived): two tracks, skewed, lossy, with duplicates."""
    total = draw(st.integers(2 * SECOND, 9 * SECOND))
    kinds = draw(st.sampled_from([("audio",), ("video",), ("audio", "video")]))
    skew = draw(st.integers(-3_000, 3_000))
    feeds, arrived, frames = [], np.zeros(total, bool), {}
    if "audio" in kinds:
        gone = draw(holes)
        cuts = sorted({0, total, *draw(st.lists(st.integers(1, total - 1), max_size=30))})
        cuts = sorted({*cuts, *range(0, total, 4_000)})
        for start, end in pairwise(cuts):
            if not lost(gone, start, end):
                arrived[start:end] = True
                feeds.append((end, sound(start, end - start)))
                if draw(st.integers(0, 9)) == 0:
                    feeds.append((end, AudioChunk(start, np.full(end - start, -1, np.int16))))
    if "video" in kinds:
        gone, step = draw(holes), draw(st.integers(400, 3_900))
        for at in range(0, total, step):
            if not lost(gone, at, at + 1):
                feeds.append((at + skew, picture(at)))
                feeds.append((at + skew, ("reached", at + min(step, 500))))
                frames.setdefault(at // FRAME_CELL_TICKS, at)
    feeds.sort(key=lambda feed: feed[0])
    return kinds, [media for _, media in feeds], arrived, sorted(frames.values())


def model(kinds, arrived, frames, lead):
    """The windows of a whole session, cut at once."""
    ramp = ((np.arange(len(arrived)) % 30_000) + 1).astype(np.int16)
    row = np.concatenate([np.zeros(LEAD_TICKS, np.int16), np.where(arrived, ramp, 0)])
    row = np.concatenate([row, np.zeros(WINDOW_TICKS, np.int16)]).astype(np.int16)
    known = np.concatenate([arrived, np.zeros(WINDOW_TICKS, bool)])
    count = max(0, (lead - WINDOW_TICKS) // SLOT_TICKS + 1)
    if count == 0 and lead:
        count = 1
    made = []
    for index in range(count):
        start = index * SLOT_TICKS
        slots = known[start : start + WINDOW_TICKS].reshape(4, SLOT_TICKS)
        made.append(
            Window(
                index,
                row[start : start + LEAD_TICKS + WINDOW_TICKS] if "audio" in kinds else None,
                tuple(slots.mean(axis=1)) if "audio" in kinds else (),
                tuple(picture(at) for at in frames if start <= at < start + WINDOW_TICKS)
                if "video" in kinds
                else None,
            )
        )
    return made


def audio_holes(arrived, lead):
    """Holes of 250 ms and more after the first sound, up to ``lead``."""
    found, since = [], None
    edges = np.flatnonzero(np.diff(arrived.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    for start, end in [*edges, (lead, lead)]:
        if since is not None and start - since >= 4_000:
            found.append(Gap(int(since), int(start), ("audio",), "packet_loss"))
        since = end
    return found


@settings(deadline=None)
@given(sessions(), st.integers(1, 50))
def test_windows_equal_the_model_whatever_the_cuts_losses_and_copies(session, every):
    kinds, feeds, arrived, frames = session
    windower = Windower(audio="audio" in kinds, video="video" in kinds)
    out, lead = [], 0
    for n, media in enumerate(feeds):
        if isinstance(media, tuple):
            windower.reached("video", media[1])
            lead = max(lead, media[1])
        else:
            windower.feed(media)
            end = media.at if isinstance(media, VideoFrame) else media.start + len(media.samples)
            lead = max(lead, end)
        if n % every == 0:
            out += windower.take()
    out += windower.finish()
    expected = model(kinds, arrived, frames, lead) if feeds else []
    got = windows(out)
    assert [window.index for window in got] == [window.index for window in expected]
    assert all(map(same, got, expected))
    if "audio" in kinds:
        found = [gap for gap in gaps(out) if gap.tracks == ("audio",)]
        assert found == audio_holes(arrived, lead)
    assert windower.dropped["late_frames"] == windower.dropped["untaken"] == 0


@given(st.integers(0, 5 * SECOND), st.integers(1, 8 * SECOND))
def test_one_chunk_of_any_length_is_the_same_as_many(start, length):
    one, many = Windower(audio=True, video=False), Windower(audio=True, video=False)
    one.feed(sound(start, length))
    whole = sound(start, length).samples
    pieces = []
    for at in range(0, length, 1_777):
        many.feed(AudioChunk(start + at, whole[at : at + 1_777]))
        pieces += many.take()
    left, right = windows(one.finish()), windows(pieces + many.finish())
    assert len(left) == len(right)
    assert all(map(same, left, right))


# --- waiting ---------------------------------------------------------------------------------


def test_a_window_waits_for_both_tracks():
    windower = Windower(audio=True, video=True)
    windower.feed(sound(0, WINDOW_TICKS))
    windower.feed(picture(0))
    windower.reached("video", WINDOW_TICKS - 1)
    assert windower.take() == []
    windower.reached("video", WINDOW_TICKS)
    (window,) = windower.take()
    assert (window.index, window.start, window.end) == (0, 0, WINDOW_TICKS)
    assert len(window.frames) == 1


@pytest.mark.parametrize("silent", ["audio", "video"])
def test_a_silent_track_holds_the_other_for_patience_only(silent):
    windower = Windower(audio=True, video=True)
    live = {"video_until" if silent == "audio" else "audio_until": WINDOW_TICKS + PATIENCE_TICKS}
    *early, last = windows(play(windower, **live))
    assert early == []
    assert last.index == 0
    if silent == "audio":
        assert not last.audio.any()
        assert last.audio_coverage == (0, 0, 0, 0)
    else:
        assert last.frames == ()


def test_an_ended_track_is_not_waited_for():
    windower = Windower(audio=True, video=True)
    windower.feed(sound(0, WINDOW_TICKS))
    assert windower.take() == []
    windower.ended("video")
    assert [window.index for window in windower.take()] == [0]
    windower.feed(sound(WINDOW_TICKS, SLOT_TICKS))
    assert [window.index for window in windower.take()] == [1]
    windower.add_track("video")  # it comes back
    windower.feed(sound(WINDOW_TICKS + SLOT_TICKS, SLOT_TICKS))
    assert windower.take() == []


def test_when_all_tracks_ended_what_is_complete_is_cut():
    windower = Windower(audio=True, video=True)
    windower.feed(sound(0, WINDOW_TICKS))
    windower.ended("audio")
    assert windower.take() == []
    windower.ended("video")
    assert len(windower.take()) == 1
    assert windower.finish() == []


def test_a_track_that_joins_late_takes_part_from_then_on():
    windower = Windower(audio=False, video=True)
    before = play(windower, video_until=3 * SECOND)
    assert all(window.audio is None and window.audio_coverage == () for window in before)
    windower.add_track("audio")
    join = 50_000
    for start in range(3 * SECOND, 6 * SECOND, 1600):
        windower.feed(picture(start))
        windower.reached("video", start + 1600)
        if start >= join:
            windower.feed(sound(start, 1600))
    after = windower.finish()
    assert gaps(after) == []
    assert [window.index for window in after] == list(range(3, 9))
    first, *_, last = after
    assert first.start == 24_000
    assert first.audio_coverage == pytest.approx((0, 0, 0, 4_800 / SLOT_TICKS), abs=0.01)
    assert last.audio_coverage == (1, 1, 1, 1)


def test_tracks_nobody_announced_are_added():
    windower = Windower(audio=False, video=False)
    windower.ended("audio")
    windower.feed(sound(0, 100))
    windower.feed(picture(0))
    windower.reached("video", 200)
    (window,) = windower.finish()
    assert len(window.frames) == 1
    assert window.audio_coverage[0] == 100 / SLOT_TICKS
    marked = Windower(audio=False, video=False)
    marked.reached("video", WINDOW_TICKS)
    assert [window.frames for window in marked.take()] == [()]


# --- lateness --------------------------------------------------------------------------------


def test_late_media_is_counted_and_never_changes_a_cut_window():
    windower = Windower(audio=True, video=True)
    (first,) = windows(play(windower, video_until=WINDOW_TICKS + PATIENCE_TICKS))
    copy = first.audio.copy()
    windower.feed(sound(WINDOW_TICKS - 1_000, 3_000))
    windower.feed(picture(WINDOW_TICKS - 1))
    windower.feed(AudioChunk(-50, np.ones(20, np.int16)))
    assert windower.dropped["late_audio_ticks"] == 1_020
    assert windower.dropped["late_frames"] == 1
    assert np.array_equal(first.audio, copy)
    second, *_ = windows(windower.finish())
    span = second.audio[LEAD_TICKS:]
    assert not span[: WINDOW_TICKS - SLOT_TICKS].any()
    assert np.array_equal(
        span[WINDOW_TICKS - SLOT_TICKS :][:2_000], sound(WINDOW_TICKS, 2_000).samples
    )


def test_second_copies_and_surplus_frames_are_counted():
    windower = Windower(audio=True, video=True)
    windower.feed(sound(0, 100))
    windower.feed(AudioChunk(50, np.full(100, -5, np.int16)))
    windower.feed(picture(10))
    windower.feed(picture(20))
    assert windower.dropped["duplicate_audio_ticks"] == 50
    assert windower.dropped["surplus_frames"] == 1
    (window,) = windower.finish()
    assert window.audio[LEAD_TICKS + 99] == 100
    assert window.audio[LEAD_TICKS + 100] == -5
    assert [frame.at for frame in window.frames] == [10]


def test_windows_and_frames_are_read_only():
    windower = Windower(audio=True, video=True)
    (window,) = windows(play(windower, audio_until=WINDOW_TICKS, video_until=WINDOW_TICKS))
    for array in (window.audio, window.frames[0].rgb):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# --- holes and jumps -------------------------------------------------------------------------


def test_holes_are_announced_once_before_the_window_in_which_they_end():
    windower = Windower(audio=True, video=False)
    windower.feed(sound(0, SECOND))
    windower.feed(sound(SECOND + 3_999, 12_001))  # too short to announce
    windower.feed(sound(3 * SECOND, 2 * SECOND))
    assert [type(item) for item in windower.take()] == [*[Window] * 3, Gap, *[Window] * 4]
    assert windower.finish() == []


def test_order_of_gaps_is_that_of_media_time():
    windower = Windower(audio=True, video=True)
    for start in range(0, 4 * SECOND, 1600):
        if not SECOND <= start < 3 * SECOND:
            windower.feed(picture(start))
        if not SECOND // 2 <= start < 3 * SECOND:
            windower.feed(sound(start, 1600))
        windower.reached("video", start + 1600)
    found = gaps(windower.finish())
    assert [gap.tracks for gap in found] == [("audio",), ("video",)]
    assert found[0] == Gap(SECOND // 2, 3 * SECOND, ("audio",), "packet_loss")
    assert found[1].end == 3 * SECOND


def test_slow_pictures_are_no_loss():
    windower = Windower(audio=False, video=True)
    for start in range(0, 8 * SECOND, SECOND + 300):
        windower.feed(picture(start))
    assert gaps(windower.finish()) == []


def test_a_track_that_falls_silent_is_announced_at_the_end_unless_it_ended():
    for tells in (True, False):
        windower = Windower(audio=True, video=True)
        play(windower, audio_until=2 * SECOND, video_until=5 * SECOND)
        if tells:
            windower.ended("audio")
        expected = [] if tells else [Gap(2 * SECOND, 5 * SECOND, ("audio",), "packet_loss")]
        assert gaps(windower.finish()) == expected


@pytest.mark.parametrize("far", [JUMP_TICKS + 1, 3600 * SECOND, 1 << 44])
def test_a_jump_is_announced_and_windows_go_on_behind_it(far):
    windower = Windower(audio=True, video=True)
    before = play(windower, audio_until=3 * SECOND, video_until=3 * SECOND - 1600)
    there = 3 * SECOND + far
    windower.feed(sound(there, 3 * SECOND))
    windower.ended("video")
    items = before + windower.take()
    at = items.index(gaps(items)[0])
    assert gaps(items) == [Gap(3 * SECOND, there, ("audio", "video"), "clock_jump")]
    assert [window.index for window in items[:at]] == [0, 1, 2]
    after = items[at + 1 :]
    first = there // SLOT_TICKS
    assert [window.index for window in after] == list(range(first, first + len(after)))
    assert len(after) in {2, 3}
    inside = there - first * SLOT_TICKS
    assert not after[0].audio[: LEAD_TICKS + inside].any()
    assert after[0].audio[LEAD_TICKS + inside :].all()
    windower.feed(sound(2 * SECOND, 100))
    assert windower.dropped["late_audio_ticks"] == 100


def test_ten_seconds_of_nothing_are_a_hole_not_a_jump():
    windower = Windower(audio=True, video=False)
    windower.feed(sound(0, SECOND))
    windower.feed(sound(SECOND + JUMP_TICKS, SECOND))
    items = windower.finish()
    assert gaps(items) == [Gap(SECOND, SECOND + JUMP_TICKS, ("audio",), "packet_loss")]
    assert [window.index for window in windows(items)] == list(range(21))


def test_holes_before_a_jump_are_not_lost():
    windower = Windower(audio=True, video=True)
    windower.feed(sound(0, 100))
    play(windower, video_until=SECOND)
    windower.feed(picture(60 * SECOND))
    assert gaps(windower.take()) == [
        Gap(100, SECOND, ("audio",), "packet_loss"),
        Gap(SECOND, 60 * SECOND, ("audio", "video"), "clock_jump"),
    ]


# --- ends and bounds -------------------------------------------------------------------------


def test_a_short_session_gives_one_padded_window():
    windower = Windower(audio=True, video=False)
    windower.feed(sound(0, 12_000))
    (window,) = windower.finish()
    assert window.audio_coverage == (1, 0.5, 0, 0)
    assert not window.audio[LEAD_TICKS + 12_000 :].any()
    assert windower.finish() == []


def test_one_picture_is_a_session():
    windower = Windower(audio=False, video=True)
    windower.feed(picture(0))
    (window,) = windower.finish()
    assert window.audio is None
    assert len(window.frames) == 1


def test_a_session_without_media_gives_nothing():
    assert Windower(audio=True, video=True).finish() == []


def test_what_nobody_takes_is_bounded_and_counted():
    windower = Windower(audio=True, video=False)
    for second in range(80):
        windower.feed(AudioChunk(second * SECOND, np.ones(SECOND, np.int16)))
    made = (80 * SECOND - WINDOW_TICKS) // SLOT_TICKS + 1
    assert windower.dropped["untaken"] == made - READY_LIMIT
    assert [window.index for window in windower.take()] == list(range(made - READY_LIMIT, made))


def test_memory_stays_bounded_over_a_long_session():
    windower = Windower(audio=True, video=True)
    sizes = set()
    for start in range(0, 120 * SECOND, 1600):
        windower.feed(AudioChunk(start, np.ones(1600, np.int16)))
        windower.feed(picture(start))
        windower.reached("video", start + 1600)
        windower.take()
        sizes.add((len(windower._audio._samples), len(windower._frames) <= 11))
    assert sizes == {(LEAD_TICKS + WINDOW_TICKS + PATIENCE_TICKS + SLOT_TICKS, True)}
