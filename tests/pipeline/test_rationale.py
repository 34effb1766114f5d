"""The reason is built from what was measured, and from nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.baseline import Baseline
from pipeline.events import Cue
from pipeline.rationale import ADJECTIVES, Heard, RationaleSettings, findings, heard, sentence
from pipeline.spec import LABELS
from tests.pipeline.readings import answer, face, slot, slots, tracked

SETTINGS = RationaleSettings()
LATE_MS = 90_000


@pytest.fixture
def baseline():
    known = Baseline()
    known.hear([slot(at, loudness=-24.0 + at % 3 - 1, pitch=160.0, rate=3.9) for at in range(110)])
    known.see([tracked(at * 4_000, face(brow=0.34 + at % 3 / 100)) for at in range(200)])
    return known


def found(baseline, window=None, voice=None, frames=None, now_ms=LATE_MS):
    return findings(
        window or Heard(), voice, frames, baseline=baseline, now_ms=now_ms, settings=SETTINGS
    )


def text(*args, **values):
    reason = sentence(found(*args, **values))
    return reason and reason.text


def test_means_are_taken_over_speech_alone():
    window = (
        *slots(loudness=-20.0)[:2],
        slot(2, speech=0.1, loudness=-60.0, pitch=None, rate=None),
    )
    assert heard(window) == Heard(-20.0, 160.0, 4.0)
    assert heard(slots(pitch=None, rate=None)) == Heard(-26.0, None, None)
    assert heard(slots(speech=0.0)) == heard(None) == Heard()


def test_louder_and_faster_beside_the_own_first_minute(baseline):
    (finding,) = found(baseline, Heard(-14.0, 165.0, 6.5))
    assert finding.phrase == "louder and faster than the first minute"
    loudness, rate = finding.cues
    assert (loudness.name, loudness.value, loudness.unit) == ("loudness", -14.0, "dBFS")
    assert loudness.baseline == pytest.approx(-24.1, abs=0.1)
    assert (rate.name, rate.value, rate.unit) == ("speech_rate", 6.5, "syllables/s")


def test_all_three_the_other_way(baseline):
    expected = "Quieter, slower and lower than the first minute."
    assert text(baseline, Heard(-40.0, 90.0, 1.0)) == expected


def test_before_the_minute_the_population_is_named(baseline):
    fast = Heard(-20.0, 160.0, 9.5)
    assert text(baseline, fast, now_ms=30_000) == "Faster than is usual on calls."
    assert text(baseline, Heard(-14.0, 165.0, 6.0), now_ms=30_000) is None


def test_both_kinds_of_baseline_in_one_window():
    partly = Baseline()
    partly.hear([slot(at, loudness=-30.0, pitch=None, rate=None) for at in range(120)])
    window = Heard(-10.0, 400.0, 4.0)
    assert text(partly, window) == ("Louder than the first minute; higher than is usual on calls.")


def test_a_clear_tone_is_named(baseline):
    (finding,) = found(baseline, voice=answer("angry", 0.7))
    assert finding.phrase == "an angry tone of voice"
    assert finding.cues == (Cue("tone_angry", "audio", pytest.approx(0.7), None, "probability"),)
    assert text(baseline, voice=answer("angry", 0.4)) is None
    assert text(baseline, voice=answer("neutral", 0.9)) is None


def test_brows_lowered_in_most_frames(baseline):
    frames = [tracked(at, face(brow=0.28)) for at in range(7)] + [tracked(8, face(brow=0.35))]
    (finding,) = found(baseline, frames=frames)
    assert finding.phrase == "brows lowered in 7 of 8 frames"
    assert finding.cues[0].name == "brow_gap"
    assert finding.cues[0].value < finding.cues[0].baseline
    assert text(baseline, frames=frames, now_ms=30_000) is None
    raised = [tracked(at, face(brow=0.42)) for at in range(4)]
    assert text(baseline, frames=raised) == "Brows raised in 4 of 4 frames."
    half = [tracked(at, face(brow=0.28 + 0.07 * (at % 2))) for at in range(8)]
    assert text(baseline, frames=half) is None


def test_mouth_wide_open(baseline):
    frames = [tracked(at, face(brow=None, mouth=0.4)) for at in range(4)]
    assert text(baseline, frames=frames) == "Mouth wide open in 4 of 4 frames."
    unseen = [tracked(at, face(brow=None, mouth=None)) for at in range(4)]
    assert text(baseline, frames=unseen) is None


def test_the_expression_of_most_frames(baseline):
    frames = [tracked(at, face("angry", brow=0.35)) for at in range(5)] + [
        tracked(6, face("happy", brow=0.35)),
        tracked(7),
    ]
    (finding,) = found(baseline, frames=frames)
    assert finding.phrase == "an angry expression in 5 of 6 frames"
    assert finding.cues == (Cue("expression_angry", "video", 0.833, None, "share of frames"),)
    mixed = [tracked(at, face(label, brow=0.35)) for at, label in enumerate(LABELS[1:5])]
    assert text(baseline, frames=mixed) is None


def test_few_faces_say_nothing(baseline):
    frames = [tracked(at, face("angry", brow=0.1)) for at in range(2)]
    assert text(baseline, frames=frames) is None


@pytest.mark.parametrize(
    ("voice", "frames", "code"),
    [
        (answer("sad"), None, "voice"),
        (None, [tracked(at, face("sad")) for at in range(4)], "face"),
        (answer("sad"), [tracked(at, face("sad")) for at in range(4)], "voice_and_face"),
    ],
)
def test_the_code_says_which_modalities(voice, frames, code):
    assert sentence(found(Baseline(), voice=voice, frames=frames)).code == code


def test_one_sentence_with_voice_first():
    frames = [tracked(at, face("angry")) for at in range(8)]
    assert text(Baseline(), voice=answer("fear"), frames=frames) == (
        "A fearful tone of voice; an angry expression in 8 of 8 frames."
    )


def test_nothing_stands_out_nothing_is_said(baseline):
    frames = [tracked(at, face(brow=0.35)) for at in range(8)]
    calm = Heard(-24.0, 160.0, 3.9)
    assert text(baseline, calm, answer("neutral"), frames) is None
    assert set(ADJECTIVES) == set(LABELS)


@given(
    st.floats(-60, 0), st.floats(60, 500), st.floats(0.5, 9), st.sampled_from(LABELS),
    st.lists(st.tuples(st.sampled_from(LABELS), st.floats(0.1, 0.6)), max_size=8),
    st.sampled_from([10_000, LATE_MS]),
)  # fmt: skip
def test_every_phrase_has_a_cue_that_was_measured(loud, pitch, rate, tone, looks, now_ms):
    known = Baseline()
    known.hear([slot(at) for at in range(110)])
    known.see([tracked(at * 4_000, face()) for at in range(200)])
    frames = [tracked(at, face(look, brow=brow)) for at, (look, brow) in enumerate(looks)]
    made = found(known, Heard(loud, pitch, rate), answer(tone, 0.6), frames, now_ms)
    measured = {"loudness": loud, "pitch": pitch, "speech_rate": rate, f"tone_{tone}": 0.6}
    if looks:
        measured["brow_gap"] = float(np.mean([brow for _, brow in looks]))
    for finding in made:
        assert finding.cues
        for cue in finding.cues:
            if cue.name in measured:
                assert cue.value == pytest.approx(measured[cue.name], abs=6e-4)
            else:
                assert cue.name.startswith("expression_")
