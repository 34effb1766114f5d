"""``demeanor evaluate --explain``: an exported model on labelled films, in every layout."""

import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from pipeline.errors import MediaError, UsageError
from pipeline.explain.labels import DFEW, MAFW, OTHER
from services.cli.evaluate import evaluate
from services.evaluate import explaining, moments
from services.evaluate.clips import find_clips
from services.evaluate.explaining import Answer, Lines, Run
from tests.e2e.harness import ROOT
from tests.pipeline.explain.conftest import write_model

app = typer.Typer()
app.command()(evaluate)
SAMPLE = ROOT / "services" / "web" / "sample.webm"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("explain"))


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})


def film(path, *, sound=True, frames=16, size=(48, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(frames)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=8)
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        for number in range(frames):
            pixels = noise.integers(0, 256, (*size, 3), np.uint8)
            pixels[:8, :8] = number * 6
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 8)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            tone = np.sin(np.arange(2000 * frames) * 0.1).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def found(place, layout, labels):
    return {clip.name: clip.label for clip in find_clips(place, layout, labels).clips}


# --- which films count ---------------------------------------------------------------------------


def test_ravdess_is_read_by_its_names_and_twins_count_once(tmp_path):
    touch(tmp_path, "Actor_01/01-01-02-01-01-01-01.mp4", "Actor_01/02-01-02-01-01-01-01.mp4",
          "Actor_02/02-01-08-01-01-01-02.mp4", "Actor_02/03-01-08-01-01-01-02.wav",
          "Actor_02/other.mp4")  # fmt: skip
    assert found(tmp_path, "ravdess", "ravdess") == {
        "Actor_01/01-01-02-01-01-01-01.mp4": "calm",
        "Actor_02/02-01-08-01-01-01-02.mp4": "surprise",
    }
    left = find_clips(tmp_path, "ravdess", "dfew")
    assert left.left_out == {"silent_twin": 1, "unknown_label": 2}
    assert left.unknown == {"calm": 1, "a name that is not ravdess's": 1}


def test_dfew_counts_from_one_and_pads_as_it_likes(tmp_path):
    touch(tmp_path, *(f"clip/part_1/{number}.mp4" for number in range(1, 8)))
    table = tmp_path / "label" / "single_testset_1.csv"
    table.parent.mkdir()
    rows = [f"{number:05},{number}" for number in range(1, 8)] + ["00009,1", "1,9"]
    table.write_text("\n".join(("video_name,label", *rows)))
    wanted = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
    for place in (tmp_path, table):
        assert tuple(found(place, "dfew", "dfew").values()) == wanted
        left = find_clips(place, "dfew", "dfew")
        assert left.left_out == {"missing_file": 1, "unknown_label": 1}
        assert left.unknown == {"label 9": 1}


def test_mafw_is_read_by_lines(tmp_path):
    touch(tmp_path, "clips/00001.mp4", "clips/00002.mp4")
    (tmp_path / "test.txt").write_text("00001.mp4 contempt\n\n00002.mp4\thelplessness\n")
    assert found(tmp_path, "mafw", "mafw") == {
        "clips/00001.mp4": "contemptuous",
        "clips/00002.mp4": "helpless",
    }


def test_folders_and_tables_of_ones_own(tmp_path):
    touch(tmp_path, "a/Anger/1.mp4", "a/03_disappointment/x/2.webm", "a/bored/3.mp4", "a/4.mp4")
    assert found(tmp_path, "folders", "mafw") == {
        "a/Anger/1.mp4": "angry",
        "a/03_disappointment/x/2.webm": "disappointed",
    }
    assert find_clips(tmp_path, "folders", "dfew").unknown == {
        "disappointment": 1, "bored": 1, "a": 1
    }  # fmt: skip
    (tmp_path / "labels.csv").write_text("path,label\na/4.mp4,joy\n")
    assert found(tmp_path, "csv", "dfew") == {"a/4.mp4": "happy"}


@pytest.mark.parametrize(
    ("layout", "files", "words"),
    [
        ("nemo", {}, "with --explain choose ravdess, dfew"),
        ("dfew", {}, "holds no .csv table: name the table itself"),
        ("dfew", {"a.csv": "", "b.csv": ""}, r"holds 2 .csv tables \(a.csv, b.csv\)"),
        ("mafw", {"a.txt": "1.mp4\n"}, "line 1: needs a film and a label"),
        ("mafw", {"a.txt": b"\xff\xfe"}, "cannot be read as lines"),
    ],
)
def test_wrong_tables_are_said_in_one_sentence(tmp_path, layout, files, words):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words):
        find_clips(tmp_path, layout, "mafw")


# --- what the model is shown ---------------------------------------------------------------------


def test_eight_pictures_of_the_whole_film_and_its_sound(tmp_path):
    moment = moments.read(film(tmp_path / "a.mp4", frames=16), 8)
    shown = [place for (_, place), _ in moment.frames]
    assert shown == [1, 3, 5, 7, 8, 10, 12, 14]
    corners = [int(rgb[:8, :8].mean()) for _, rgb in moment.frames]
    assert corners == sorted(corners)
    assert moment.frames[0][1].shape == (48, 64, 3)
    assert moment.sound.dtype == np.int16
    assert 30_000 < moment.sound.size < 34_000
    assert np.abs(moment.sound).max() > 1000


def test_short_and_silent_films_are_taken_as_they_are(tmp_path):
    moment = moments.read(film(tmp_path / "a.mp4", sound=False, frames=3), 8)
    assert len(moment.frames) == 3
    assert moment.sound is None


def test_a_film_that_breaks_off_gives_what_there_is(tmp_path):
    whole = film(tmp_path / "a.mkv", frames=40).read_bytes()
    (tmp_path / "b.mkv").write_bytes(whole[: len(whole) // 2])
    assert moments.read(tmp_path / "b.mkv", 8).frames


def test_sound_alone_and_noise_are_refused(tmp_path):
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(MediaError):
        moments.read(tmp_path / "noise.mp4", 8)
    with av.open(str(tmp_path / "tone.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    with pytest.raises(MediaError, match="no moving picture"):
        moments.read(tmp_path / "tone.mp4", 8)


# --- the whole command ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("dfew")
    (root / "clip").mkdir()
    shutil.copyfile(SAMPLE, root / "clip" / "1.webm")
    film(root / "clip" / "2.mp4", sound=False, frames=5)
    film(root / "clip" / "3.mp4")
    (root / "clip" / "4.mp4").write_bytes(b"not a film")
    (root / "test.csv").write_text("video_name,label\n1,1\n2,4\n3,4\n4,2\n")
    return root


def test_a_folder_is_judged_in_one_command(model, corpus, tmp_path):
    out = tmp_path / "answers.jsonl"
    given = (corpus, "--layout", "dfew", "--explain", model, "--words", "--out", out)
    result = run(*given, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["n"] == 3
    assert figures["damaged_files"] == ["clip/4.mp4"]
    assert figures["without_sound"] == 1
    assert figures["run"]["weights"].startswith("R1-Omni-0.5B@")
    assert figures["run"]["precision"] == "fp32"
    for kind in ("scored", "written"):
        table = figures[kind]
        assert table["truths"] == ["happy", "angry"]
        assert table["answers"] == [*DFEW, OTHER]
        assert np.sum(table["confusion"], axis=1).tolist() == [1, 2]
        assert 0 <= table["uar"] <= 1
    lines = out.read_bytes().splitlines()
    assert len(lines) == 5
    # What was answered is not asked again: without the films all is as it was.
    kept = json.loads(run(*given, "--json").stdout)
    assert kept == figures
    text = " ".join(run(*given).output.split())
    assert f"scored: WAR {figures['scored']['war']:.4f}" in text
    assert "damaged: 1 (clip/4.mp4)" in text
    assert "prefix none" in text
    assert "random or untrained weights they mean nothing" in text


def test_a_run_goes_on_where_it_stopped(model, corpus, tmp_path, monkeypatch):
    out = tmp_path / "answers.jsonl"
    given = (corpus, "--layout", "dfew", "--explain", model, "--out", out)
    assert run(*given, "--limit", "2").exit_code == 0
    with out.open("ab") as opened:
        opened.write(b'{"file":"cut o')  # the power went
    asked = []
    read = moments.read
    monkeypatch.setattr(
        moments, "read", lambda path, n: (asked.append(path.name), read(path, n))[1]
    )
    assert run(*given).exit_code == 0
    assert asked == ["3.mp4", "4.mp4"]
    lines = out.read_bytes().splitlines()
    assert [json.loads(line)["file"] for line in lines[1:]] == [
        "clip/1.webm", "clip/2.mp4", "clip/3.mp4", "clip/4.mp4"
    ]  # fmt: skip
    other = run(*given, "--words")
    assert other.exit_code == 2
    assert "was made by other weights or options (words: False, now True)" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--layout", "dfew"), 2, "--layout means nothing without --explain"),
        (("--limit", "3", "--words"), 2, "--words, --limit means nothing without --explain"),
        (("--explain", "MODEL", "--modality", "face"), 2, "--modality means nothing with"),
        (("--explain", "MODEL"), 3, "holds no labelled films in layout 'folders'"),
        (("--explain", "MODEL", "--layout", "nemo"), 2, "with --explain choose"),
        (("--explain", "none", "--layout", "dfew"), 78, "python -m exporters r1omni"),
        (("--explain", "MODEL", "--layout", "dfew", "--out", "CORPUS"), 2, "cannot be written"),
    ],
)
def test_wrong_use_is_one_sentence(model, corpus, arguments, code, words):
    places = {"MODEL": model, "CORPUS": corpus}
    result = run(corpus, *(places.get(each, each) for each in arguments))
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert words in line


def test_nothing_that_can_be_read_is_no_evidence(model, tmp_path):
    touch(tmp_path, "happy/a.mp4")
    result = run(tmp_path, "--explain", model)
    assert result.exit_code == 3
    assert "could be read: happy/a.mp4" in result.stderr


# --- the figures ---------------------------------------------------------------------------------


def test_recalls_are_those_of_the_answers():
    run = Run(
        weights="w", precision="fp32", prefix="", labels="mafw", aspect="squash", layout="mafw",
        words=True, thinking=8,
    )  # fmt: skip
    said = [("happy", "happy", "happy"), ("happy", "sad", "other"), ("sad", "sad", "sad"),
            ("sad", "sad", "happy"), ("anxious", "fear", "anxious"),
            ("fear", "fear", "other")]  # fmt: skip
    summary = explaining.Summary(run, find_clips(ROOT / "deploy", "folders", "mafw"))
    summary.answers = [
        Answer(file=str(n), truth=truth, scored=scored, written=written, took_ms=1000 * n)
        for n, (truth, scored, written) in enumerate(said)
    ] + [Answer(file="x", truth="sad", damaged="why")]
    figures = summary.as_dict()
    assert figures["n"] == 6
    assert figures["scored"]["war"] == pytest.approx(4 / 6, abs=1e-4)
    assert figures["scored"]["uar"] == pytest.approx((0.5 + 1 + 0 + 1) / 4, abs=1e-4)
    assert figures["written"]["war"] == pytest.approx(3 / 6, abs=1e-4)
    assert figures["written"]["uar"] == pytest.approx((0.5 + 0.5 + 1 + 0) / 4, abs=1e-4)
    assert figures["written"]["other"] == pytest.approx(2 / 6, abs=1e-4)
    assert figures["written"]["agreement"] == pytest.approx(2 / 6, abs=1e-4)
    assert figures["scored"]["answers"] == [*MAFW, OTHER]
    assert figures["seconds_per_clip"] == {"median": 2.5, "longest": 5.0}


@pytest.mark.parametrize("text", ['{"my": "notes"}\n', "my notes", '{"my": "notes"}\nmore'])
def test_a_file_that_is_something_else_is_left_alone(tmp_path, text):
    out = tmp_path / "out.jsonl"
    out.write_text(text)
    run = Run(
        weights="w", precision="fp32", prefix="", labels="mafw", aspect="squash", layout="mafw",
        words=True, thinking=8,
    )  # fmt: skip
    with pytest.raises(UsageError, match="choose another --out"), Lines(out, run):
        pass
    assert out.read_text() == text
