"""Identities that hold, are never used twice, and the face that counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tracking import MAX_FACES, MISS_TICKS, MOUTH_MOTION, FaceTracker
from pipeline.types import FRAME_CELL_TICKS, Face, FrameReading, SlotReading

EVEN = np.full(7, 1 / 7, np.float32)
STEP = FRAME_CELL_TICKS


def face(x, y=0.3, size=0.2, mouth=None):
    return Face((x, y, size, size), 0.9, EVEN, None, mouth)


def frame(at, *faces):
    return FrameReading(at, 100.0, 100.0, None, faces)


def talk(*indices, speech=1.0):
    return [SlotReading(index, 1.0, speech, -20.0, None, None) for index in indices]


def ids(answer):
    return [face_id for face_id, _ in answer]


def test_a_moving_face_keeps_its_identity():
    tracker = FaceTracker()
    for n in range(20):
        x = 0.1 + 0.03 * n  # 0.6 of a width a second
        assert ids(tracker.update(frame(n * STEP, face(x)))) == [0]


def test_two_faces_that_pass_closely_are_not_swapped():
    tracker = FaceTracker()
    for n in range(10):
        left, right = face(0.20 + 0.01 * n), face(0.45 - 0.01 * n)
        order = [left, right] if n % 2 else [right, left]
        found = dict(tracker.update(frame(n * STEP, *order)))
        if n == 0:
            name = {0: found[0].box[0], 1: found[1].box[0]}
        assert (found[0] is left) == (name[0] == 0.20)
        assert (found[1] is left) == (name[1] == 0.20)


@pytest.mark.parametrize(("missed", "same"), [(1, True), (4, True), (5, False), (40, False)])
def test_a_face_missed_for_a_second_keeps_its_identity_and_not_longer(missed, same):
    tracker = FaceTracker()
    tracker.update(frame(0, face(0.4)))
    for n in range(1, missed + 1):
        assert tracker.update(frame(n * STEP)) == ()
    assert ids(tracker.update(frame((missed + 1) * STEP, face(0.4)))) == [0 if same else 1]
    assert same == ((missed + 1) * STEP <= MISS_TICKS)


def test_a_face_elsewhere_is_another_one():
    tracker = FaceTracker()
    tracker.update(frame(0, face(0.1)))
    assert ids(tracker.update(frame(STEP, face(0.7)))) == [1]


boxes = st.builds(
    face, st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0, 0.5), st.none() | st.floats(0, 0.5)
)


@given(st.lists(st.tuples(st.integers(1, 40_000), st.lists(boxes, max_size=12)), max_size=12))
def test_ids_are_unique_in_a_frame_and_never_used_again(script):
    tracker, at, last_seen = FaceTracker(), -1, {}
    for ticks, faces in script:
        at += ticks
        reading = frame(at, *faces)
        answer = tracker.update(reading)
        assert len(answer) == min(len(faces), MAX_FACES)
        assert len(set(ids(answer))) == len(answer)
        assert all(any(one is face for face in faces) for _, one in answer)
        for face_id in ids(answer):
            if face_id in last_seen:
                assert at - last_seen[face_id] <= MISS_TICKS
            else:
                assert all(face_id > known for known in last_seen if known not in ids(answer))
            last_seen[face_id] = at
        assert tracker.update(reading) == answer
        spoken = tracker.speaking(talk(at // 8_000))
        assert set(ids(answer)) <= set(spoken)
        assert sum(value is True for value in spoken.values()) <= 1


def test_the_smallest_of_many_faces_are_left_out():
    faces = [face(0.1 * n, size=0.05 + 0.001 * n) for n in range(10)]
    answer = FaceTracker().update(frame(0, *faces))
    assert {id(one) for _, one in answer} == {id(one) for one in faces[2:]}


def test_a_frame_seen_before_changes_nothing_and_an_older_one_has_no_answer():
    tracker = FaceTracker()
    first, later = frame(0, face(0.1)), frame(3 * STEP, face(0.15))
    answer = tracker.update(first)
    tracker.update(later)
    assert tracker.update(first) == answer
    assert tracker.update(frame(STEP, face(0.9))) == ()
    for n in range(4, 40):
        tracker.update(frame(n * STEP, face(0.15)))
    assert tracker.update(first) == ()
    assert len(tracker._answers) == 16


def test_the_larger_face_counts():
    answer = FaceTracker().update(frame(0, face(0.1, size=0.1), face(0.5, size=0.3)))
    assert [one.box[2] for _, one in answer] == [0.3, 0.1]


def test_somebody_who_passes_close_to_the_camera_does_not_take_over():
    tracker = FaceTracker()
    for n in range(8):
        tracker.update(frame(n * STEP, face(0.1)))
    passing = face(0.5, size=0.3)
    assert ids(tracker.update(frame(8 * STEP, face(0.1), passing))) == [0, 1]
    assert ids(tracker.update(frame(9 * STEP, face(0.1)))) == [0]


def test_somebody_larger_who_stays_takes_over():
    tracker = FaceTracker()
    for n in range(8):
        tracker.update(frame(n * STEP, face(0.1)))
    firsts = [
        ids(tracker.update(frame(n * STEP, face(0.1), face(0.5, size=0.4))))[0]
        for n in range(8, 24)
    ]
    assert firsts[0] == 0
    assert firsts[-1] == 1
    assert firsts == sorted(firsts)


def test_when_the_face_that_counts_is_missed_the_next_one_leads_and_gives_way_again():
    tracker = FaceTracker()
    both = face(0.1, size=0.3), face(0.6, size=0.25)
    for n in range(8):
        tracker.update(frame(n * STEP, *both))
    assert ids(tracker.update(frame(8 * STEP, both[1]))) == [1]
    assert ids(tracker.update(frame(9 * STEP, *both))) == [0, 1]


def mouths(tracker, openings, frames=8):
    """Show faces side by side whose mouths alternate between 0.05 and 0.05 + opening."""
    for n in range(frames):
        faces = [
            face(0.3 * k, size=0.2 - 0.01 * k, mouth=None if o is None else 0.05 + o * (n % 2))
            for k, o in enumerate(openings)
        ]
        tracker.update(frame(n * STEP, *faces))


def test_the_face_that_moves_its_mouth_during_speech_speaks_and_counts():
    tracker = FaceTracker()
    mouths(tracker, [0.01, 0.2, None])
    assert tracker.speaking(talk(0, 1, 2, 3)) == {0: False, 1: True, 2: None}
    answer = tracker.update(frame(8 * STEP, face(0.0), face(0.3, size=0.19)))
    assert ids(answer) == [1, 0]


def test_when_two_mouths_move_alike_the_face_that_counts_stays():
    tracker = FaceTracker()
    mouths(tracker, [0.18, 0.2])
    assert tracker.speaking(talk(0, 1, 2, 3)) == {0: False, 1: True}
    assert ids(tracker.update(frame(8 * STEP, face(0.0), face(0.3, size=0.19)))) == [0, 1]


def test_a_voice_from_elsewhere_is_nobodys():
    tracker = FaceTracker()
    mouths(tracker, [MOUTH_MOTION / 2])
    assert tracker.speaking(talk(0, 1, 2, 3)) == {0: False}


@pytest.mark.parametrize("slots", [[], talk(0, 1, 2, 3, speech=0.2), talk(50), talk(0)], ids=str)
def test_without_enough_speech_nothing_is_said(slots):
    tracker = FaceTracker()
    mouths(tracker, [0.2])
    assert tracker.speaking(slots) == {0: None}


def test_mouth_samples_far_apart_say_nothing():
    tracker = FaceTracker()
    for n in range(8):
        tracker.update(frame(n * 4 * STEP, face(0.1, mouth=0.2 * (n % 2))))
    assert tracker.speaking(talk(*range(20))) == {0: None}


def test_boxes_without_area_are_nobody():
    tracker = FaceTracker()
    tracker.update(frame(0, face(0.1, size=0.0)))
    assert ids(tracker.update(frame(STEP, face(0.1, size=0.0)))) == [1]
