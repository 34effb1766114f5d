"""``demeanor evaluate``: which files count, how they are judged, what is printed."""

import json
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from pipeline.errors import MediaError, UsageError
from pipeline.scorer import OrtScorer
from pipeline.spec import LABELS
from pipeline.types import LEAD_TICKS, WINDOW_TICKS, Batch, Job, Window
from services.cli.evaluate import evaluate
from services.evaluate import film, pictures, voice
from services.evaluate.samples import find
from tests.pipeline import tiny_models

app = typer.Typer()
app.command()(evaluate)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def scorer(files):
    return OrtScorer.open(replacements=files)


def run(files, *arguments):
    models = [part for path in files for part in ("--model", str(path))]
    return CliRunner().invoke(app, [*map(str, arguments), *models])


def put(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_wav(path, pcm, rate_hz=16_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(pcm.astype("<i2").tobytes())


def tone(ticks, level=9000):
    return (np.sin(np.arange(ticks) * 0.1) * level).astype(np.int16)


def picture(path, value, size=(64, 48), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path, **options)


def make_film(path, *, sound, seconds=3, value=200):
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=8)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=16_000, layout="mono") if sound else None
        for number in range(8 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(tone(16_000 * seconds)[None], "s16", "mono")
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


# --- which files count ---------------------------------------------------------------------------


def test_folder_names_are_labels_in_many_spellings(tmp_path):
    names = ("Anger", "03_happy", "fearful", "Surprised", "calm", "sadness-2", "disgusted")
    for name in names:
        put(tmp_path / name / "a.wav")
    found = find(tmp_path, "folders")
    assert {sample.path.parent.name: sample.label for sample in found.samples} == {
        "Anger": "angry", "03_happy": "happy", "fearful": "fear", "Surprised": "surprise",
        "calm": "neutral", "sadness-2": "sad", "disgusted": "disgust",
    }  # fmt: skip
    assert found.kind == "voice"


def test_the_nearest_folder_with_a_label_counts_and_unknown_ones_are_reported(tmp_path):
    put(tmp_path / "test" / "angry" / "session_1" / "a.wav")
    put(tmp_path / "contempt" / "b.wav")
    put(tmp_path / "contempt" / "c.wav")
    put(tmp_path / "d.wav")
    put(tmp_path / "angry" / "notes.txt")
    found = find(tmp_path, "folders")
    assert [sample.label for sample in found.samples] == ["angry"]
    assert found.unknown == {"contempt": 2, "no sub-folder": 1}
    assert found.left_out == {"unknown_label": 3}


def test_linked_folders_are_followed_once(tmp_path):
    put(tmp_path / "far" / "a.wav")
    (tmp_path / "here" / "sad").mkdir(parents=True)
    (tmp_path / "here" / "sad" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "here")
    found = find(tmp_path / "here", "folders")
    assert [(sample.path.name, sample.label) for sample in found.samples] == [("a.wav", "sad")]


@pytest.mark.parametrize(
    ("layout", "name", "label"),
    [
        ("ravdess", "actor_21/03-01-02-01-01-01-21.ogg", "neutral"),
        ("ravdess", "actor_21/03-01-06-02-01-01-21.ogg", "fear"),
        ("nemo", "SM0/SM0_anger_12.ogg", "angry"),
        ("savee", "DC/su03.wav", "surprise"),
        ("crema-d", "1001_DFA_HAP_XX.wav", "happy"),
    ],
)
def test_corpora_are_read_by_their_file_names(tmp_path, layout, name, label):
    put(tmp_path / name)
    put(tmp_path / "other" / "holiday.ogg")
    found = find(tmp_path, layout)
    assert [sample.label for sample in found.samples] == [label]
    assert found.left_out == {"unknown_label": 1}


@pytest.mark.parametrize("header", ["path,label\n", "", "id,emotion,file\n"])
def test_a_table_may_have_a_header_and_name_files_in_a_folder_beside_it(tmp_path, header):
    put(tmp_path / "expressions" / "a.jpg")
    put(tmp_path / "b.jpg")
    order = "7,{1},{0}\n" if "id" in header else "{0},{1}\n"
    rows = [("a.jpg", "anger"), ("b.jpg", "joy"), ("none.jpg", "sad"), ("a.jpg", "contempt")]
    text = header + "".join(order.format(*row) for row in rows)
    put(tmp_path / "labels.csv", b"\xef\xbb\xbf" + text.encode())
    for place in (tmp_path, tmp_path / "labels.csv"):
        found = find(place, "csv")
        labels = [(sample.path.name, sample.label) for sample in found.samples]
        assert labels == [("a.jpg", "angry"), ("b.jpg", "happy")]
        assert found.left_out == {"missing_file": 1, "unknown_label": 1}
        assert found.kind == "face"


@pytest.mark.parametrize(
    ("make", "layout", "words"),
    [
        (lambda at: at / "none", "folders", "does not exist"),
        (lambda at: at, "ravdes", "unknown layout 'ravdes'"),
        (lambda at: put(at / "a.wav"), "folders", "is a file"),
        (lambda at: at, "csv", r"holds 0 \.csv"),
        (lambda at: put(at / "t.csv", b"one\n"), "csv", "row 1: needs two columns"),
        (lambda at: put(at / "t.csv", b"\xff\xfe\x00"), "csv", "cannot be read as a table"),
        (
            lambda at: put(put(at / "sad" / "a.wav").parent / "b.png").parent.parent,
            "folders",
            "mixes voice and face",
        ),
    ],
)
def test_wrong_use_is_said_in_one_sentence(tmp_path, files, make, layout, words):
    place = make(tmp_path)
    with pytest.raises(UsageError, match=words):
        find(place, layout)
    result = run(files, place, "--layout", layout)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_a_chosen_modality_leaves_other_files_out(tmp_path):
    for name in ("a.wav", "b.png", "c.mp4"):
        put(tmp_path / "sad" / name)
    assert find(tmp_path, "folders", "voice").left_out == {"other_kind_of_file": 1}
    assert find(tmp_path, "folders", "face").left_out == {"other_kind_of_file": 1}
    assert find(tmp_path, "folders", cropped=True).left_out == {"other_kind_of_file": 2}
    with pytest.raises(UsageError, match="--cropped is for pictures"):
        find(tmp_path, "folders", "voice", cropped=True)


def test_films_are_judged_by_both_voice_and_face_unless_told_otherwise(tmp_path):
    put(tmp_path / "sad" / "a.mp4")
    assert find(tmp_path, "folders").kind == "fused"


# --- how one file is judged ----------------------------------------------------------------------


def test_a_clip_as_long_as_a_window_is_judged_as_the_window_is(scorer):
    pcm = tone(WINDOW_TICKS)
    audio = np.concatenate([np.zeros(LEAD_TICKS, np.int16), pcm])
    job = Job("s", Window(0, audio, (1.0,) * 4, None), 0.0, 0.0)
    (outcome,) = scorer.score(Batch((job,)))
    np.testing.assert_allclose(voice.judge(scorer.hearing, pcm), outcome.voice, atol=1e-5)


@pytest.mark.parametrize("ticks", [0, 1, 7_999, 8_000, 8_001])
def test_clips_of_any_length_are_cut_into_whole_slots(ticks):
    pcm = tone(ticks)
    cut = list(voice.slots(pcm))
    assert len(cut) == max(1, -(-ticks // 8_000))
    joined = np.concatenate([slot[LEAD_TICKS:] for slot in cut])
    np.testing.assert_array_equal(joined[:ticks], pcm)
    assert not joined[ticks:].any()
    assert all(slot.shape == (LEAD_TICKS + 8_000,) for slot in cut)


def test_silence_holds_no_voice(scorer):
    assert voice.judge(scorer.hearing, np.zeros(20_000, np.int16)) is None


def test_pictures_are_turned_upright_and_scaled_to_live_width(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(tmp_path / "a.jpg", 90, (40, 20), exif=turned)
    assert pictures.read(tmp_path / "a.jpg").shape == (40, 20, 3)
    picture(tmp_path / "b.png", 90, (1280, 720), mode="L")
    assert pictures.read(tmp_path / "b.png").shape == (180, 320, 3)


def test_a_picture_that_cannot_be_read_is_media_error(tmp_path):
    picture(tmp_path / "a.png", 90)
    whole = (tmp_path / "a.png").read_bytes()
    for content in (whole[: len(whole) // 2], b"not a picture", b"", whole[:30]):
        with pytest.raises(MediaError, match=r"b\.png"):
            pictures.read(put(tmp_path / "b.png", content))


def test_a_cropped_picture_is_looked_at_whole_and_others_where_a_face_is(scorer):
    bright, dark = np.full((48, 64, 3), 200, np.uint8), np.full((48, 64, 3), 20, np.uint8)
    found, nothing = pictures.judge(scorer.vision, [bright, dark], cropped=False)
    whole, small = pictures.judge(scorer.vision, [bright, dark], cropped=True)
    assert nothing == "no_face"
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert small.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(found - whole).max() > 1e-3


def test_films_are_judged_as_a_session_would(tmp_path, scorer):
    both, mute, dark = (tmp_path / name for name in ("both.mkv", "mute.mkv", "dark.mkv"))
    make_film(both, sound=True)
    make_film(mute, sound=False)
    make_film(dark, sound=False, value=16)
    fused, face = film.judge(scorer, both, sound=True), film.judge(scorer, mute, sound=True)
    assert fused.sum() == pytest.approx(1, abs=1e-4)
    assert np.abs(fused - face).max() > 1e-3
    np.testing.assert_allclose(film.judge(scorer, both, sound=False), face, atol=1e-5)
    assert film.judge(scorer, dark, sound=True) == "no_evidence"
    assert film.judge(scorer, dark, sound=False) == "no_face"
    with pytest.raises(MediaError):
        film.judge(scorer, put(tmp_path / "x.mkv", b"no film"), sound=True)
    assert scorer.statistics()["frames"]["sessions"] == 0


# --- the command ---------------------------------------------------------------------------------


def test_one_json_object_with_every_figure(tmp_path, files, scorer):
    for number in range(20):  # more than are read at once
        picture(tmp_path / "happy" / f"{number}.png", 110 + 7 * number)
        picture(tmp_path / "sad" / f"{number}.png", 105 + 7 * number)
    picture(tmp_path / "sad" / "dark.png", 5)
    picture(tmp_path / "boredom" / "a.png", 200)
    put(tmp_path / "happy" / "broken.png", b"no picture")
    result = run(files, tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["n"] == 40
    assert figures["labels"] == ["happy", "sad"]
    assert {label: one["n"] for label, one in figures["per_class"].items()} == {
        "happy": 20, "sad": 20,
    }  # fmt: skip
    recalls = [one["recall"] for one in figures["per_class"].values()]
    assert figures["uar"] == pytest.approx(np.mean(recalls), abs=1e-3)
    assert figures["war"] == pytest.approx(np.trace(figures["confusion"]) / 40, abs=1e-3)
    assert 0 <= figures["ece"] <= 1
    assert figures["left_out"] == {"unknown_label": 1, "no_face": 1, "damaged": 1}
    assert figures["no_face_share"] == pytest.approx(1 / 41, abs=1e-4)
    assert figures["unknown_labels"] == {"boredom": 1}
    assert figures["damaged"] == ["broken.png"]
    assert figures["modality"] == "face"
    assert figures["model"]["digest"] == scorer.loaded.digest


def test_what_the_command_says_is_what_the_models_say(tmp_path, files, scorer):
    values = (30, 90, 150, 210)
    for value in values:
        picture(tmp_path / "neutral" / f"{value}.png", value)
        picture(tmp_path / "surprise" / f"{value}.png", value)
    figures = json.loads(run(files, tmp_path, "--cropped", "--json").stdout)
    frames = [np.full((48, 64, 3), value, np.uint8) for value in values]
    rows = np.stack(pictures.judge(scorer.vision, frames, cropped=True))
    neutral = int((rows[:, LABELS.index("neutral")] > rows[:, LABELS.index("surprise")]).sum())
    assert figures["confusion"] == [[neutral, 4 - neutral]] * 2


def test_clips_are_judged_by_their_voice(tmp_path, files):
    write_wav(tmp_path / "angry" / "a.wav", tone(30_000))
    write_wav(tmp_path / "sad" / "b.wav", tone(9_000, 3_000))
    write_wav(tmp_path / "sad" / "silent.wav", np.zeros(16_000, np.int16))
    put(tmp_path / "sad" / "broken.wav", b"RIFF")
    figures = json.loads(run(files, tmp_path, "--json").stdout)
    assert (figures["modality"], figures["n"]) == ("voice", 2)
    assert figures["left_out"] == {"silent": 1, "damaged": 1}


def test_films_and_pictures_may_stand_together_when_faces_are_asked_for(tmp_path, files):
    picture(tmp_path / "happy" / "a.png", 200)
    make_film(tmp_path / "happy" / "b.mkv", sound=True)
    put(tmp_path / "happy" / "c.mkv", b"no film")
    figures = json.loads(run(files, tmp_path, "--modality", "face", "--json").stdout)
    assert figures["n"] == 2
    assert figures["left_out"] == {"damaged": 1}


def test_a_table_for_people(tmp_path, files):
    picture(tmp_path / "happy" / "a.png", 200)
    picture(tmp_path / "contempt" / "a.png", 200)
    put(tmp_path / "happy" / "broken.png")
    result = run(files, tmp_path)
    assert result.exit_code == 0
    for words in ("1 files, face", "WAR", "UAR", "ECE", "recall", "contempt 1", "broken.png"):
        assert words in result.stdout


@pytest.mark.parametrize("name", ["sad/dark.png", "boredom/a.png", None])
def test_nothing_to_judge_is_exit_3_with_a_sentence(tmp_path, files, name):
    if name:
        picture(tmp_path / name, 5)
    result = run(files, tmp_path, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["n"] == 0
    assert result.stderr.count("\n") == 1
    assert str(tmp_path) in result.stderr


def test_a_refused_model_is_exit_78(tmp_path):
    picture(tmp_path / "sad" / "a.png", 200)
    bad = put(tmp_path / "bad.onnx", b"no model")
    assert run([bad], tmp_path).exit_code == 78
