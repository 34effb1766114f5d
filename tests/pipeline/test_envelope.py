"""Envelopes count without a hole, and what goes inside is rounded without breaking."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.envelope import Envelopes, emotions, faces
from pipeline.spec import LABELS
from tests.pipeline.readings import face, tracked


def test_seq_is_dense_and_ids_are_the_same_on_every_replay():
    first, again = Envelopes("ses_1"), Envelopes("ses_1")
    stamps = [first.stamp(1_000 + at, "p1") for at in range(5)]
    assert [stamp["seq"] for stamp in stamps] == [0, 1, 2, 3, 4]
    assert first.next_seq == 5
    assert stamps == [again.stamp(1_000 + at, "p1") for at in range(5)]
    assert len({stamp["id"] for stamp in stamps}) == 5
    assert Envelopes("ses_2").stamp(1_000, "p1")["id"] != stamps[0]["id"]


def test_the_time_is_rfc_3339_with_milliseconds():
    assert Envelopes("s").stamp(1_795_420_810_004, None)["ts"] == "2026-11-23T08:00:10.004Z"


@given(arrays(np.float64, 7, elements=st.floats(1e-6, 1)))
def test_rounded_emotions_still_sum_to_one(raw):
    rounded = emotions((raw / raw.sum()).tolist())
    assert tuple(rounded) == LABELS
    assert abs(sum(rounded.values()) - 1) <= 0.001


def test_the_newest_frame_is_listed_the_face_that_counts_first():
    frames = (tracked(0, face("sad")), tracked(8_000, face("happy"), face("angry", x=0.6)))
    listed = faces(frames, {1: True}, 8)
    assert [(box.face_id, box.at_ms) for box in listed] == [(1, 500), (2, 500)]
    assert [box.speaking for box in listed] == [True, None]
    assert listed[0].emotions["happy"] == 0.9
    assert listed[1].box == (0.6, 0.2, 0.2, 0.4)
    assert len(faces(frames, {}, 1)) == 1


def test_null_means_no_video_and_empty_means_no_face():
    assert faces(None, {}, 8) is None
    assert faces((), {}, 8) == []
    assert faces((tracked(0, face()), tracked(8_000)), {}, 8) == []
