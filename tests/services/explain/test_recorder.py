"""What is kept of a session for the explain model: bounded, whole, and gone with the session."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.types import TICKS_PER_S, AudioChunk, VideoFrame
from services.explain.recorder import CHUNKS, STRETCH_S, Recorder
from tests.services.events import alert, scored, started

FRAMES = 8
STRETCH = STRETCH_S * TICKS_PER_S


class Rig:
    def __init__(self, every_s=0, tracks=("audio", "video")):
        self.asked = []
        self.recorder = Recorder("ses_1", tracks, self._submit, every_s, FRAMES)

    def _submit(self, question):
        self.asked.append(question)
        return True

    def picture(self, at_s, level=0):
        rgb = np.full((4, 6, 3), level, np.uint8)
        self.recorder.media(VideoFrame(round(at_s * TICKS_PER_S), rgb))

    def sound(self, start_s, end_s, level=1):
        start, end = round(start_s * TICKS_PER_S), round(end_s * TICKS_PER_S)
        self.recorder.media(AudioChunk(start, np.full(end - start, level, np.int16)))

    def heard(self):
        assert self.recorder.asked()
        return np.frombuffer(self.asked[-1].sound, np.int16)


async def test_an_alert_is_asked_about_at_once_with_its_own_id_and_place():
    rig = Rig()
    rig.picture(0)
    rig.sound(0, 1)
    rig.recorder.said([started(), scored(1), alert(2), scored(3)])
    (question,) = rig.asked
    assert (question.trigger, question.about_seq) == ("alert", 2)
    assert question.alert_id == alert(2).alert.id
    assert question.session_id == "ses_1"
    assert (question.pictures[0].width, question.pictures[0].height) == (6, 4)


async def test_the_clock_asks_every_so_many_seconds_of_media():
    rig = Rig(every_s=3)
    for second in range(10):
        rig.picture(second)
        rig.recorder.said([scored(second)])
    assert [(each.trigger, each.about_seq) for each in rig.asked] == [
        ("interval", 3),
        ("interval", 6),
        ("interval", 9),
    ]
    assert all(each.alert_id is None for each in rig.asked)


async def test_an_alert_goes_before_the_clock_and_sets_it_back():
    rig = Rig(every_s=3)
    rig.picture(4)
    rig.recorder.said([scored(1), alert(2), scored(3)])
    rig.picture(6)
    rig.recorder.said([scored(4)])
    assert [each.trigger for each in rig.asked] == ["alert"]
    rig.picture(7)
    rig.recorder.said([scored(5)])
    assert [(each.trigger, each.about_seq) for each in rig.asked[1:]] == [("interval", 5)]


async def test_without_the_clock_only_alerts_and_requests_ask():
    rig = Rig()
    for second in range(20):
        rig.picture(second)
        rig.recorder.said([scored(second)])
    assert not rig.asked
    assert rig.recorder.asked()
    assert (rig.asked[0].trigger, rig.asked[0].about_seq) == ("request", 19)


async def test_nothing_is_asked_without_a_picture():
    rig = Rig(every_s=1)
    rig.sound(0, 5)
    rig.recorder.said([scored(1), alert(2)])
    assert not rig.recorder.asked()
    assert not rig.asked


async def test_what_never_arrived_is_silence_and_the_newest_second_is_last():
    rig = Rig()
    rig.picture(4)
    rig.sound(0, 1, 10)
    rig.sound(2, 3, 20)
    heard = rig.heard()
    assert len(heard) == 4 * TICKS_PER_S
    parts = heard.reshape(4, TICKS_PER_S)
    assert [set(part.tolist()) for part in parts] == [{10}, {0}, {20}, {0}]


async def test_only_the_last_stretch_is_heard_and_seen():
    rig = Rig()
    for second in range(30):
        rig.sound(second, second + 1, second)
        rig.picture(second + 0.5, second)
    heard = rig.heard()
    assert len(heard) == STRETCH
    assert heard[0] == 30 - STRETCH_S
    assert heard[-1] == 29
    levels = [each.rgb[0] for each in rig.asked[0].pictures]
    assert len(levels) == FRAMES
    assert levels == sorted(levels)
    assert min(levels) >= 30 - STRETCH_S


async def test_a_chunk_that_reaches_into_the_stretch_is_cut_where_it_begins():
    rig = Rig()
    rig.sound(0, 5, 7)
    rig.picture(10)
    heard = rig.heard()
    assert set(heard[: 3 * TICKS_PER_S].tolist()) == {7}
    assert set(heard[3 * TICKS_PER_S :].tolist()) == {0}


async def test_a_call_without_sound_says_so():
    rig = Rig(tracks=("video",))
    rig.picture(1)
    rig.recorder.asked()
    assert rig.asked[0].sound is None


async def test_closing_lets_go_of_everything():
    rig = Rig()
    rig.picture(1)
    rig.sound(0, 1)
    rig.recorder.close()
    assert not rig.recorder._pictures
    assert not rig.recorder._sound
    assert not rig.recorder.asked()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 40 * TICKS_PER_S), st.integers(0, 9000)),
        max_size=200,
    )
)
def test_whatever_comes_in_whatever_order_it_stays_bounded(items):
    recorder = Recorder("ses_1", ("audio", "video"), lambda _: True, 0, FRAMES)
    rgb = np.zeros((2, 2, 3), np.uint8)
    for is_sound, at, length in items:
        chunk = AudioChunk(at, np.zeros(length, np.int16))
        recorder.media(chunk if is_sound else VideoFrame(at, rgb))
        assert len(recorder._pictures) <= 2 * FRAMES + 1
        assert len(recorder._heard()) <= 2 * STRETCH, "bytes"


@pytest.mark.parametrize("per_s", [4, 30, 1000])
def test_memory_does_not_grow_with_what_a_publisher_sends(per_s):
    recorder = Recorder("ses_1", ("audio", "video"), lambda _: True, 0, FRAMES)
    rgb = np.zeros((2, 2, 3), np.uint8)
    for number in range(12 * per_s):
        at = number * TICKS_PER_S // per_s
        recorder.media(VideoFrame(at, rgb))
        recorder.media(AudioChunk(at, np.zeros(16, np.int16)))
    assert 2 * FRAMES - 1 <= len(recorder._pictures) <= 2 * FRAMES + 1
    assert len(recorder._sound) <= min(CHUNKS, STRETCH_S * per_s + 1)
