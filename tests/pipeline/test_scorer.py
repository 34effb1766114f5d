"""The scorer on tiny graphs: one outcome a window, the same with a cold and a warm cache."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import models
from pipeline.errors import ModelRefused, ProviderMissing, SpecError, UsageError
from pipeline.scorer import FRAMES_KEPT, SESSIONS_KEPT, SLOTS_KEPT, OrtScorer
from pipeline.spec import LABELS
from pipeline.types import (
    LEAD_TICKS,
    SLOT_TICKS,
    WINDOW_TICKS,
    Batch,
    Job,
    VideoFrame,
    Window,
)
from tests.pipeline import tiny_models
from tests.pipeline.tiny_models import Given

SHAPES = ((90, 160), (120, 90))
"""Frame sizes of the two kinds of sessions."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("models"))


@pytest.fixture
def scorer(files):
    return OrtScorer.open(replacements=files)


def sound(seconds, seed):
    """Noise whose level jumps every quarter second: speech and silence for the tiny VAD."""
    rng = np.random.default_rng(seed)
    levels = rng.choice([0, 5, 3000, 9000], seconds * 4).repeat(4000)
    return (rng.standard_normal(levels.size) * levels).clip(-32000, 32000).astype(np.int16)


def picture(session, at, value=None):
    rng = np.random.default_rng([session, at])
    level = int(rng.integers(0, 235)) if value is None else value
    shape = (*SHAPES[session % 2], 3)
    return (np.full(shape, level) + rng.integers(0, 15, shape)).astype(np.uint8)


def window(session, index, *, audio=True, video=True, value=None, seconds=8):
    start = index * SLOT_TICKS
    pcm = np.concatenate([np.zeros(LEAD_TICKS, np.int16), sound(seconds, session)])
    ticks = range(start, start + WINDOW_TICKS, 4000)
    return Window(
        index=index,
        audio=pcm[start : start + LEAD_TICKS + WINDOW_TICKS] if audio else None,
        audio_coverage=(1.0, 1.0, 0.5, 1.0) if audio else (),
        frames=tuple(VideoFrame(t, picture(session, t, value)) for t in ticks) if video else None,
    )


def job(session, index, **changed):
    return Job(f"s{session}", window(session, index, **changed), 0.0, 0.0)


def batch(*jobs):
    return Batch(tuple(jobs))


def alike(one, other):
    assert (one.session_id, one.index, one.failure) == (
        other.session_id, other.index, other.failure,
    )  # fmt: skip
    assert (one.frames is None) == (other.frames is None)
    for a, b in zip(one.frames or (), other.frames or (), strict=True):
        assert (a.at, a.luma, a.sharpness, a.motion) == (b.at, b.luma, b.sharpness, b.motion)
        for left, right in zip(a.faces, b.faces, strict=True):
            np.testing.assert_allclose(left.box, right.box, atol=1e-5)
            np.testing.assert_allclose(left.probabilities, right.probabilities, atol=1e-5)
            assert left.brow_gap == pytest.approx(right.brow_gap, abs=1e-5)
            assert left.mouth_open == pytest.approx(right.mouth_open, abs=1e-5)
            assert left.score == pytest.approx(right.score, abs=1e-5)
    assert one.slots == other.slots
    assert (one.voice is None) == (other.voice is None)
    if one.voice is not None:
        np.testing.assert_allclose(one.voice, other.voice, atol=1e-5)


def test_an_outcome_carries_every_measurement(scorer):
    (outcome,) = scorer.score(batch(job(0, 0, value=200)))
    assert outcome.failure is None
    assert [reading.at for reading in outcome.frames] == list(range(0, WINDOW_TICKS, 4000))
    assert [reading.motion is None for reading in outcome.frames] == [True] + [False] * 7
    face, other = outcome.frames[0].faces
    assert face.box == pytest.approx((0.125, 0.125, 0.375, 0.75))
    assert other.box == pytest.approx((0.5, 0.25, 0.25, 0.5))
    assert face.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert not face.probabilities.flags.writeable
    assert [slot.index for slot in outcome.slots] == [0, 1, 2, 3]
    assert [slot.coverage for slot in outcome.slots] == [1.0, 1.0, 0.5, 1.0]
    assert outcome.voice.sum() == pytest.approx(1, abs=1e-5)


def test_dark_frames_hold_no_face_and_silence_no_voice(scorer):
    made = window(0, 0, value=3)
    silent = Window(0, np.zeros_like(made.audio), made.audio_coverage, made.frames)
    (outcome,) = scorer.score(batch(Job("s0", silent, 0.0, 0.0)))
    assert all(reading.faces == () for reading in outcome.frames)
    assert [slot.speech for slot in outcome.slots] == [0.0] * 4
    assert outcome.voice is None
    assert outcome.failure is None


def test_speech_follows_the_sound(scorer):
    loud = np.zeros(LEAD_TICKS + WINDOW_TICKS, np.int16)
    loud[LEAD_TICKS + SLOT_TICKS : LEAD_TICKS + 2 * SLOT_TICKS] = 8000
    (outcome,) = scorer.score(batch(Job("s", Window(0, loud, (1.0,) * 4, None), 0.0, 0.0)))
    speech = [slot.speech for slot in outcome.slots]
    assert speech[0] == 0.0
    assert speech[1] > 0.8
    assert speech[3] == 0.0
    assert outcome.frames is None
    assert outcome.voice is not None


def test_sessions_with_one_track_have_one_kind_of_reading(scorer):
    heard, seen = scorer.score(batch(job(0, 0, video=False), job(1, 0, audio=False)))
    assert heard.frames is None
    assert len(heard.slots) == 4
    assert seen.slots is None
    assert seen.voice is None
    assert len(seen.frames) == 8


def test_a_video_track_without_frames_gives_an_empty_reading(scorer):
    empty = Window(0, None, (), ())
    (outcome,) = scorer.score(batch(Job("s", empty, 0.0, 0.0)))
    assert outcome.frames == ()
    assert outcome.failure is None


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_cache_and_company_never_change_an_answer(files, data):
    """Any sessions in any order of windows, in batches of any make-up, equal a fresh scorer's."""
    order = data.draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=8)
    )
    warm, cold = OrtScorer.open(replacements=files), OrtScorer.open(replacements=files)
    while order:
        size = data.draw(st.integers(1, len(order)))
        jobs, order = [job(*which) for which in order[:size]], order[size:]
        for one, outcome in zip(jobs, warm.score(batch(*jobs)), strict=True):
            cold.forget([one.session_id])
            alike(outcome, cold.score(batch(one))[0])
        if data.draw(st.booleans()):
            warm.forget([jobs[0].session_id])


def test_every_frame_and_slot_is_measured_once(scorer):
    for index in range(5):
        scorer.score(batch(job(0, index), job(1, index)))
    assert scorer.counters.frames == 2 * (8 + 4 * 2)
    assert scorer.counters.slots == 2 * (4 + 4)
    scorer.forget(["s0"])
    scorer.score(batch(job(0, 4)))
    assert scorer.counters.frames == 2 * (8 + 4 * 2) + 8


def test_the_cache_is_bounded_per_session_and_in_all(scorer):
    for index in range(12):
        scorer.score(batch(job(0, index)))
    kept = scorer.statistics()
    assert kept["frames"]["entries"] == FRAMES_KEPT
    assert kept["slots"]["entries"] == SLOTS_KEPT
    for number in range(SESSIONS_KEPT + 3):
        silent = Window(0, None, (), (VideoFrame(0, picture(0, 0)),))
        scorer.score(batch(Job(f"n{number}", silent, 0.0, 0.0)))
    kept = scorer.statistics()
    assert kept["frames"]["sessions"] == SESSIONS_KEPT
    assert kept["frames"]["sessions_dropped"] == 4


def test_a_frame_that_makes_the_model_answer_nan_fails_its_window_alone(scorer):
    good, bad, other = scorer.score(
        batch(job(0, 0, value=200), job(2, 0, value=241), job(4, 0, value=100))
    )
    assert good.failure is None
    assert other.failure is None
    assert bad.failure is None  # 241 + 7 on average: still an answer
    blown = Window(0, None, (), (VideoFrame(0, np.full((90, 160, 3), 255, np.uint8)),))
    results = scorer.score(batch(job(0, 1, value=200), Job("x", blown, 0, 0), job(4, 1)))
    assert [outcome.failure for outcome in results] == [None, "bad_output", None]
    assert (results[1].frames, results[1].slots, results[1].voice) == (None, None, None)
    assert scorer.counters.bad_output == 1


@pytest.mark.parametrize(
    "broken",
    [
        Window(0, np.zeros(100, np.int16), (1.0,) * 4, None),
        Window(0, np.zeros(LEAD_TICKS + WINDOW_TICKS, np.float32), (1.0,) * 4, None),
        Window(0, np.zeros(LEAD_TICKS + WINDOW_TICKS, np.int16), (1.0,), None),
        Window(0, None, (), (VideoFrame(0, np.zeros((90, 160), np.uint8)),)),
        Window(0, None, (), (VideoFrame(0, np.zeros((90, 160, 4), np.uint8)),)),
        Window(0, None, (), (VideoFrame(0, np.zeros((0, 160, 3), np.uint8)),)),
        Window(0, None, (), (VideoFrame(0, np.zeros((5000, 2, 3), np.uint8)),)),
        Window(0, None, (), (VideoFrame(0, np.zeros((90, 160, 3), np.float32)),)),
    ],
)
def test_a_window_of_the_wrong_shape_fails_alone(scorer, broken):
    bad, good = scorer.score(batch(Job("bad", broken, 0.0, 0.0), job(0, 0)))
    assert bad.failure == "bad_output"
    assert good.failure is None


def test_a_slot_that_makes_the_front_end_answer_infinity_fails_its_window_alone(tmp_path):
    # Divides by zero where a sample is -1.0 exactly: 16-bit sound reaches that at -32768 only.
    program = tiny_models.FEATURES.replace(
        "hops = Reshape (pcm, shape)", "room = Add (pcm, unit)\n hot = Log (room)\n"
        "nothing = Sub (hot, hot)\n  fine = Add (pcm, nothing)\n  hops = Reshape (fine, shape)"
    ).replace("int64[1] one", "float[1] unit = {1}, int64[1] one")  # fmt: skip
    scorer = OrtScorer.open(replacements=tiny_models.write(tmp_path, voice_features=Given(program)))
    loud = np.zeros(LEAD_TICKS + WINDOW_TICKS, np.int16)
    loud[-1] = -32768
    bad = Job("bad", Window(0, loud, (1.0,) * 4, None), 0.0, 0.0)
    outcomes = scorer.score(batch(job(0, 0), bad, job(1, 0)))
    assert [outcome.failure for outcome in outcomes] == [None, "bad_output", None]


def test_a_voice_the_net_cannot_judge_fails_its_window_alone(tmp_path):
    # Speech at full level makes the logits infinite; silence at the proof does not.
    program = tiny_models.EMOTION.replace(
        "logits = MatMul (mean, weights)",
        "logits0 = MatMul (mean, weights)\n top = ReduceMax (mean)\n room = Sub (half, top)\n"
        "root = Sqrt (room)\n none = Sub (root, root)\n logits = Add (logits0, none)",
    ).replace("float[1] least", "float[1] half = {0.5}, float[1] least")
    scorer = OrtScorer.open(replacements=tiny_models.write(tmp_path, voice_emotion=Given(program)))
    full = np.full(LEAD_TICKS + WINDOW_TICKS, 30000, np.int16)
    bad = Job("bad", Window(0, full, (1.0,) * 4, None), 0.0, 0.0)
    outcomes = scorer.score(batch(job(0, 0), bad, job(1, 0)))
    assert [outcome.failure for outcome in outcomes] == [None, "bad_output", None]


def test_labels_in_another_order_and_number_are_put_in_wire_order(tmp_path):
    # seven columns become the labels of a net that knows its own order
    labels = ("surprise", "angry", "neutral", "sad", "happy", "fear", "disgust")
    changed = Given(labels=labels)
    plain = OrtScorer.open(replacements=tiny_models.write(tmp_path))
    (before,) = plain.score(batch(job(0, 0, value=200)))
    mixed = OrtScorer.open(replacements=tiny_models.write(tmp_path, face_expression=changed))
    (after,) = mixed.score(batch(job(0, 0, value=200)))
    old, new = before.frames[0].faces[0], after.frames[0].faces[0]
    for column, label in enumerate(labels):
        assert new.probabilities[LABELS.index(label)] == old.probabilities[column]


def test_a_net_with_fewer_labels_gives_zero_to_the_rest(tmp_path):
    program = tiny_models.EMOTION.replace("float[batch,7]", "float[batch,2]")
    program = program.replace(
        "probabilities = Softmax <axis = 1> (logits)",
        """
      first = Constant <value_ints = [0]> ()
      three = Constant <value_ints = [2]> ()
      one = Constant <value_ints = [1]> ()
      few = Slice (logits, first, three, one)
      probabilities = Softmax <axis = 1> (few)""",
    )
    given = Given(program=program, labels=("sad", "angry"))
    scorer = OrtScorer.open(replacements=tiny_models.write(tmp_path, voice_emotion=given))
    (outcome,) = scorer.score(batch(job(0, 0)))
    shown = {label for label, p in zip(LABELS, outcome.voice, strict=True) if p > 0}
    assert shown == {"sad", "angry"}


NO_SOFTMAX = tiny_models.EMOTION.replace("Softmax <axis = 1>", "Abs")
TEMPLATE = tiny_models.LANDMARKS.split("template = {")[1].split("}")[0]
HALF_THE_POINTS = tiny_models.LANDMARKS.replace(TEMPLATE, ", ".join(["0.5"] * 68))
REFUSED = {
    "no contract": ("vad", Given(spec=False), SpecError, "demeanor.spec"),
    "another kind": ("vad", Given(kind="voice-features"), UsageError, "both voice-features"),
    "wrong ports": ("vad", Given(kind="face-detector"), UsageError, "both face-detector"),
    "wrong rate": ("voice-features", Given(rate=8000), SpecError, "8000 Hz"),
    "much context": ("voice-features", Given(context=9999), SpecError, "carries 2400"),
    "label twice": ("face-expression", Given(labels=("sad",) * 7), SpecError, "labels once"),
    "few labels": ("face-expression", Given(labels=("sad",)), ModelRefused, "answered shape"),
    "logits": ("voice-emotion", Given(NO_SOFTMAX), ModelRefused, "no probabilities"),
    "few points": (
        "face-landmarks", Given(HALF_THE_POINTS.replace("68", "34")), ModelRefused, "answered shape"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_cannot_be_used_is_refused_by_name(tmp_path, case):
    kind, given, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        OrtScorer.open(replacements=tiny_models.write(tmp_path, **{kind: given}))


@pytest.mark.parametrize(("kind", "other"), [("vad", "face-detector"), ("face-detector", "vad")])
def test_a_graph_with_the_ports_of_another_kind_is_refused(tmp_path, kind, other):
    path = tmp_path / "odd.onnx"
    path.write_bytes(tiny_models.model(kind, Given(kind=other)))
    with pytest.raises(SpecError, match=f"a {other} model needs the inputs"):
        OrtScorer.open(replacements=[path])


def test_a_graph_without_the_wanted_output_is_refused(tmp_path):
    path = tmp_path / "odd.onnx"
    path.write_bytes(
        tiny_models.model("voice-features", Given(tiny_models.FEATURES.replace("features", "rows")))
    )
    with pytest.raises(SpecError, match="a voice-features model needs the outputs"):
        OrtScorer.open(replacements=[path])


def test_a_damaged_file_and_a_missing_file_are_refused(files, tmp_path):
    damaged = tmp_path / "vad.onnx"
    damaged.write_bytes(Path(files[3]).read_bytes()[:200])
    with pytest.raises(ModelRefused, match=r"vad\.onnx"):
        OrtScorer.open(replacements=[damaged])
    with pytest.raises(ModelRefused, match="cannot read the model"):
        OrtScorer.open(replacements=[tmp_path / "none.onnx"])


def test_two_files_of_one_kind_are_wrong_use(files):
    with pytest.raises(UsageError, match="both face-detector"):
        OrtScorer.open(replacements=[files[0], files[0]])


def test_a_device_that_is_not_there_is_an_error_not_a_fallback(files):
    with pytest.raises(ProviderMissing):
        OrtScorer.open("cuda", replacements=files)


def test_the_digest_names_the_loaded_files(files, tmp_path):
    one = OrtScorer.open(replacements=files).loaded
    again = OrtScorer.open(replacements=files).loaded
    labels = ("surprise", *LABELS[:6])
    other = OrtScorer.open(
        replacements=tiny_models.write(tmp_path, voice_emotion=Given(labels=labels))
    ).loaded
    assert one == again
    assert one.id == "demeanor-tiny"
    assert one.providers == ["CPU"]
    assert one.digest.startswith("sha256:")
    assert len(one.digest) == 71
    assert other.digest != one.digest


@pytest.mark.skipif(
    not models.path("voice-emotion.onnx").is_file(), reason="the voice model is not exported"
)
def test_the_built_in_models_hear_no_voice_in_noise_and_see_no_face_in_the_dark():
    scorer = OrtScorer.open()
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(LEAD_TICKS + WINDOW_TICKS) * 30).astype(np.int16)
    black = tuple(
        VideoFrame(at, np.zeros((180, 320, 3), np.uint8)) for at in range(0, WINDOW_TICKS, 4000)
    )
    (outcome,) = scorer.score(batch(Job("s", Window(0, noise, (1.0,) * 4, black), 0.0, 0.0)))
    assert outcome.failure is None
    assert outcome.voice is None
    assert all(reading.faces == () for reading in outcome.frames)


def test_built_in_models_give_their_golden_answers(files, monkeypatch):
    scorer = OrtScorer.open(replacements=files[4:])  # the face nets and the VAD are built in
    assert scorer.golden()
    answers = {kind: models.golden(kind) for kind in ("face-detector", "face-expression")}
    true = answers["face-expression"]
    moved = {name: answer + 0.01 for name, answer in true.outputs.items()}
    answers["face-expression"] = models.Golden(true.inputs, moved)
    monkeypatch.setattr(models, "golden", answers.__getitem__)
    with pytest.raises(ModelRefused, match=r"face-expression\.onnx does not give its golden"):
        scorer.golden()
    answers["face-expression"] = models.Golden({}, true.outputs)
    with pytest.raises(ModelRefused, match="could not be run"):
        scorer.golden()


def test_models_of_ones_own_have_no_golden_answers(scorer, monkeypatch):
    monkeypatch.setattr(models, "golden", {}.__getitem__)
    assert scorer.golden()
