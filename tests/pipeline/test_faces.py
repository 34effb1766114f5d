"""Which detections count, and what landmarks say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.faces import (
    MAX_DETECTIONS,
    NMS_IOU,
    SCORE_FLOOR,
    SCORED_FACES,
    clipped,
    cues,
    overlap,
    pick,
)


def rows(*boxes):
    return np.array(boxes, np.float32).reshape(-1, 4)


def scores(*values):
    return np.array(values, np.float32)


def test_of_two_overlapping_boxes_the_stronger_stays():
    boxes = rows((0.1, 0.1, 0.4, 0.4), (0.12, 0.1, 0.4, 0.4), (0.6, 0.6, 0.2, 0.2))
    assert pick(boxes, scores(0.7, 0.9, 0.8), 180) == [1, 2]


def test_weak_flat_and_tiny_boxes_are_no_faces():
    boxes = rows((0, 0, 0.5, 0.5), (0, 0, 0, 0.5), (0.5, 0.5, 0.05, 0.05))
    assert pick(boxes, scores(SCORE_FLOOR - 0.01, 0.9, 0.9), 180) == []


def test_the_largest_faces_come_first_and_only_so_many():
    boxes = rows(*((0.2 * n, 0, 0.1 + 0.02 * n, 0.2) for n in range(5)))
    assert pick(boxes, np.full(5, 0.9, np.float32), 180) == [4, 3, 2]


def test_nothing_found_is_nothing_picked():
    assert pick(rows(), scores(), 180) == []


def test_overlap_by_hand():
    found = overlap(rows((0, 0, 2, 2))[0], rows((1, 0, 2, 2), (0, 0, 2, 2), (5, 5, 1, 1)))
    assert found.tolist() == pytest.approx([1 / 3, 1, 0])


def test_a_box_is_clipped_to_the_frame():
    assert clipped(rows((-0.1, 0.5, 0.3, 0.9))[0]) == pytest.approx((0, 0.5, 0.2, 0.5))


@given(
    hnp.arrays(np.float32, (12, 4), elements=st.floats(-0.5, 1.5, width=32)),
    hnp.arrays(np.float32, 12, elements=st.floats(0, 1, width=32)),
)
def test_what_is_picked_is_strong_and_apart(boxes, objectness):
    kept = pick(boxes, objectness, 180)
    assert len(kept) <= min(SCORED_FACES, MAX_DETECTIONS)
    assert all(objectness[row] >= SCORE_FLOOR for row in kept)
    for place, row in enumerate(kept):
        others = list(kept[place + 1 :])
        assert (overlap(boxes[row], boxes[others]) <= NMS_IOU + 1e-6).all()
    assert all(0 <= value <= 1 for row in kept for value in clipped(boxes[row]))


def portrait():
    points = np.zeros((68, 2), np.float32)
    points[36:42], points[42:48] = (0.4, 0.5), (0.6, 0.5)
    points[17:22], points[22:27] = (0.4, 0.4), (0.6, 0.4)
    points[[61, 62, 63]], points[[67, 66, 65]] = (0.5, 0.7), (0.5, 0.75)
    return points


def test_cues_are_measured_in_eye_distances_of_pixels():
    # 200 x 100 px: eyes 40 px apart, brows 10 px above, lips 5 px open
    assert cues(portrait(), 200, 100) == pytest.approx((0.25, 0.125), rel=1e-5)


def test_eyes_that_fall_together_give_no_cues():
    assert cues(np.full((68, 2), 0.5, np.float32), 320, 180) == (None, None)
