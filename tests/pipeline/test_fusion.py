"""Late fusion: what counts, how much, and that one modality cannot shout the other down."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import Evidence
from pipeline.fusion import FusionSettings, Say, fuse, hear, see
from pipeline.spec import LABELS
from tests.pipeline.readings import answer, face, slots, tracked

SETTINGS = FusionSettings()


def say(label, p=0.9, weight=1.0):
    return Say(Evidence(used=True, quality=1.0, reason=None), weight, answer(label, p))


NOTHING = Say(Evidence(used=False, quality=None, reason="no_track"))


@pytest.mark.parametrize(
    ("sound", "voice", "reason"),
    [
        (None, None, "no_track"),
        ((), None, "no_media"),
        (slots(coverage=0.0, speech=0.0, loudness=-120.0), None, "no_media"),
        (slots(coverage=0.4), answer("angry"), "no_media"),
        (slots(speech=0.0, loudness=-120.0), None, "muted"),
        (slots(speech=0.0, loudness=-65.0), None, "silent"),
        (slots(speech=0.0), None, "no_speech"),
        (slots(speech=0.8), None, "no_speech"),
        (slots(speech=0.1), answer("angry"), "no_speech"),
    ],
)
def test_why_a_voice_does_not_count(sound, voice, reason):
    said = hear(sound, voice, SETTINGS)
    assert (said.evidence.used, said.evidence.reason) == (False, reason)
    assert (said.weight, said.probabilities) == (0.0, None)


def test_speech_that_mostly_was_lost_is_thin_not_absent():
    assert hear(slots(coverage=0.4), answer("angry"), SETTINGS).thin
    assert not hear(slots(coverage=0.0, speech=0.0), None, SETTINGS).thin


def test_a_voice_counts_by_quality_and_presence():
    full = hear(slots(speech=0.9, loudness=-20.0), answer("angry"), SETTINGS)
    brief = hear(slots(speech=0.25, loudness=-20.0), answer("angry"), SETTINGS)
    faint = hear(slots(speech=0.9, loudness=-57.0), answer("angry"), SETTINGS)
    assert full.evidence == Evidence(used=True, quality=1.0, reason=None)
    assert full.weight == 1.0
    assert brief.weight == 0.5
    assert faint.weight == faint.evidence.quality == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (None, "no_track"),
        ((), "no_media"),
        ((tracked(0),) * 8, "no_face"),
        ((tracked(0),) * 7 + (tracked(7, face()),), "no_face"),
        ((tracked(0, luma=3.0),) * 8, "dark"),
        ((tracked(0, face(), luma=3.0),) * 8, "dark"),
        ((tracked(0, sharpness=2.0),) * 8, "blurred"),
        ((tracked(0, motion=0.0),) * 8, "frozen"),
    ],
)
def test_why_a_face_does_not_count(frames, reason):
    seen = see(frames, SETTINGS)
    assert (seen.evidence.used, seen.evidence.reason) == (False, reason)
    assert (seen.weight, seen.probabilities) == (0.0, None)


def test_the_first_face_counts_frame_by_frame():
    frames = (tracked(0, face("angry"), face("happy")),) * 6 + (tracked(1, face("neutral")),) * 2
    seen = see(frames, SETTINGS)
    assert LABELS[int(seen.probabilities.argmax())] == "angry"
    assert seen.probabilities[LABELS.index("happy")] < 0.05
    assert seen.weight == 1.0


def test_a_still_picture_of_a_face_counts():
    assert see((tracked(0, face(), motion=0.0),) * 8, SETTINGS).evidence.used


def test_blur_and_a_doubtful_detection_take_quality():
    sharp = see((tracked(0, face()),) * 8, SETTINGS)
    blurred = see((tracked(0, face(), sharpness=0.0),) * 8, SETTINGS)
    doubtful = see((tracked(0, face(score=0.3)),) * 8, SETTINGS)
    assert sharp.evidence.quality == 1.0
    assert blurred.evidence.quality == 0.75
    assert doubtful.evidence.quality == 0.5
    assert see((tracked(0, face(score=0.0)),) * 8, SETTINGS).weight > 0


def test_a_doubtful_frame_says_less_than_a_clear_one():
    frames = (tracked(0, face("angry", score=0.9)), tracked(1, face("happy", score=0.1)))
    assert LABELS[int(see(frames, SETTINGS).probabilities.argmax())] == "angry"


def test_a_face_in_few_frames_has_little_presence():
    frames = (tracked(0, face("angry")),) * 2 + (tracked(1),) * 6
    assert see(frames, SETTINGS).weight == 0.5


def test_nothing_gives_nothing():
    assert fuse(NOTHING, NOTHING, SETTINGS) is None


def test_one_modality_stands_alone_not_diluted_by_the_absent_one():
    fused = fuse(NOTHING, say("sad", 0.7), replace(SETTINGS, face_noise=0.0))
    assert fused == pytest.approx(answer("sad", 0.7), abs=1e-6)


def test_two_that_agree_are_surer_than_either():
    both = fuse(say("angry", 0.6), say("angry", 0.6), SETTINGS)
    assert both.max() > fuse(say("angry", 0.6), NOTHING, SETTINGS).max()
    assert both.max() > fuse(NOTHING, say("angry", 0.6), SETTINGS).max()


def test_a_sure_voice_outweighs_a_face_inclined_to_neutral():
    undecided = np.array([0.45, 0.02, 0.06, 0.40, 0.03, 0.02, 0.02])
    look = Say(Evidence(used=True, quality=1.0, reason=None), 1.0, undecided)
    assert LABELS[int(fuse(say("angry", 0.7), look, SETTINGS).argmax())] == "angry"


def test_a_modality_that_is_sure_and_wrong_is_no_veto():
    wrong = np.full(7, 1e-6)
    wrong[LABELS.index("fear")] = 1 - 6e-6
    voice = Say(Evidence(used=True, quality=1.0, reason=None), 1.0, wrong)
    fused = fuse(voice, say("happy", 0.97), SETTINGS)
    assert fused[LABELS.index("happy")] > 0.3


def test_little_evidence_is_little_sure():
    assert fuse(NOTHING, say("angry", 0.9, weight=0.2), SETTINGS).max() < 0.35


labels = st.sampled_from(LABELS)
shares = st.floats(0.2, 0.99)
weights = st.floats(0.01, 1)


@given(labels, shares, weights, labels, shares, weights)
def test_the_pool_is_a_distribution_and_prefers_what_both_prefer(a, p, wa, b, q, wb):
    fused = fuse(say(a, p, wa), say(b, q, wb), SETTINGS)
    assert fused.min() > 0
    assert fused.sum() == pytest.approx(1)
    assert LABELS[int(fused.argmax())] in {a, b}


@given(
    st.lists(
        st.tuples(labels, st.floats(0, 1), st.floats(0, 255), st.floats(0, 500), st.integers(0, 2)),
        max_size=8,
    )
)
def test_used_means_a_weight_an_answer_and_no_reason(made):
    frames = tuple(
        tracked(at, *(face(label, score=score),) * count, luma=luma, sharpness=sharpness)
        for at, (label, score, luma, sharpness, count) in enumerate(made)
    )
    seen = see(frames, SETTINGS)
    assert seen.evidence.used == (seen.evidence.reason is None)
    assert seen.evidence.used == (seen.probabilities is not None) == (seen.weight > 0)
    assert 0 <= seen.weight <= 1
