"""One person: from outcomes to what is expressed, with each frame tracked once."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.person import Judged, Person, PersonSettings, Unjudged
from pipeline.spec import LABELS
from pipeline.types import FRAME_CELL_TICKS, Outcome
from tests.pipeline.readings import answer, face, frame, outcome, slots


def top(judged):
    return LABELS[int(judged.probabilities.argmax())]


def test_a_window_with_voice_and_face_is_judged():
    judged = Person().judge(outcome(0, "angry", "angry"))
    assert isinstance(judged, Judged)
    assert top(judged) == "angry"
    assert judged.evidence.audio.used
    assert judged.evidence.video.used
    assert judged.evidence.text.reason == "no_asr"
    assert judged.valence < -0.3
    assert judged.arousal > 0.3
    assert judged.confidence == pytest.approx(float(judged.probabilities.max()))
    assert len(judged.frames) == 8


@pytest.mark.parametrize(
    ("voice", "look", "reasons"),
    [("happy", None, (None, "no_face")), (None, "happy", ("no_speech", None))],
)
def test_one_modality_is_enough(voice, look, reasons):
    judged = Person().judge(outcome(0, voice, look))
    assert top(judged) == "happy"
    assert (judged.evidence.audio.reason, judged.evidence.video.reason) == reasons


def test_each_share_lies_in_its_band_and_disagreement_widens_it():
    agreed, torn = Person(), Person()
    for index in range(6):
        steady = agreed.judge(outcome(index, "angry", "angry"))
        wavering = torn.judge(outcome(index, *(("angry", "angry"), ("sad", "sad"))[index % 2]))
    for judged in (steady, wavering):
        low, high = judged.bands.T
        assert ((low <= judged.probabilities) & (judged.probabilities <= high)).all()
    angry = LABELS.index("angry")
    assert np.ptp(wavering.bands[angry]) > np.ptp(steady.bands[angry])


def test_neither_is_no_evidence():
    unjudged = Person().judge(outcome(0, None, None))
    assert isinstance(unjudged, Unjudged)
    assert unjudged.reason == "no_evidence"
    nothing = Person().judge(Outcome("ses_1", 0, None, None, None))
    assert nothing.evidence.audio.reason == nothing.evidence.video.reason == "no_track"


def test_speech_that_was_mostly_lost_is_low_coverage():
    lost = Outcome("ses_1", 0, None, slots(coverage=0.3), answer("angry"))
    assert Person().judge(lost).reason == "low_coverage"


def test_a_change_of_expression_shows_within_a_window():
    person = Person()
    for index in range(10):
        person.judge(outcome(index, "neutral", "neutral"))
    person.judge(outcome(10, "happy", "happy"))
    assert top(person.judge(outcome(11, "happy", "happy"))) == "happy"


def test_skipped_windows_change_nothing_but_time():
    gapless, holed = Person(), Person()
    for index in range(9):
        gapless.judge(outcome(index, "sad", "sad"))
        if index % 3 != 1:
            holed.judge(outcome(index, "sad", "sad"))
    last = outcome(9, "happy", "sad", p=0.6)
    assert holed.judge(last).probabilities == pytest.approx(
        gapless.judge(last).probabilities, abs=0.05
    )


def test_a_raised_voice_raises_arousal_by_no_more_than_its_share():
    settings = PersonSettings()
    plain, loud, faint = Person(settings), Person(settings), Person(settings)
    usual = plain.judge(outcome(0, "angry", "angry")).arousal
    raised = loud.judge(outcome(0, "angry", "angry", loudness=-6.0, pitch=320.0)).arousal
    lowered = faint.judge(outcome(0, "angry", "angry", loudness=-45.0, pitch=80.0)).arousal
    assert lowered < usual < raised
    assert raised - usual <= settings.loudness_arousal + settings.pitch_arousal
    extreme = Person(replace(settings, loudness_arousal=5.0))
    assert extreme.judge(outcome(0, "angry", "angry", loudness=0.0)).arousal == 1.0


def test_a_voice_without_evidence_moves_no_arousal():
    silent, shouting = Person(), Person()
    quiet = outcome(0, None, "angry")
    loud = Outcome("ses_1", 0, quiet.frames, slots(speech=0.0, loudness=-3.0), None)
    assert silent.judge(quiet).arousal == shouting.judge(loud).arousal


def test_faces_keep_their_identity_across_windows():
    person = Person()
    ids = set()
    for index in range(12):
        judged = person.judge(outcome(index, "neutral", "neutral"))
        ids |= {face_id for frame in judged.frames for face_id, _ in frame.faces}
    assert ids == {0}


def test_a_window_with_video_track_and_no_frame_has_no_frames():
    judged = Person().judge(Outcome("ses_1", 0, (), slots(), answer("sad")))
    assert judged.frames == ()
    assert judged.evidence.video.reason == "no_media"


def test_whose_mouth_moves_during_speech_speaks():
    def talking(mouths):
        readings = tuple(
            frame(at * FRAME_CELL_TICKS, face(mouth=mouth)) for at, mouth in enumerate(mouths)
        )
        return Person().judge(Outcome("ses_1", 0, readings, slots(), answer("neutral"))).speaking

    assert talking([0.05, 0.25] * 4) == {0: True}
    assert talking([0.05] * 8) == {0: False}
    assert talking([None] * 8) == {0: None}


def test_an_alert_comes_with_the_window_that_completes_it():
    person, changes = Person(), []
    for index in range(40):
        judged = person.judge(outcome(index, "angry", "angry"))
        changes += judged.changes
    assert len(changes) == 1
    assert judged.state == "high"
    assert [finding.phrase for finding in judged.found] == [
        "an angry tone of voice",
        "an angry expression in 8 of 8 frames",
    ]
