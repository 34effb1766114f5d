"""An exported folder as one object: opened, proven, asked."""

import shutil

import msgspec
import numpy as np
import pytest

from pipeline.errors import ModelRefused
from pipeline.explain import labels, manifest
from services.explain.model import Moment, open_explainer
from services.explain.options import Options
from tests.pipeline.explain.conftest import write_model

NOISE = np.random.default_rng(2)
OPTIONS = Options(thinking=6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def explainer(exported):
    opened = open_explainer(exported, OPTIONS)
    opened.warm()
    return opened


def moment(count=10, *, sound=True):
    frames = [
        (("call", number), NOISE.integers(0, 256, (45, 80, 3), dtype=np.uint8))
        for number in range(count)
    ]
    heard = NOISE.integers(-3000, 3000, 48_000).astype(np.int16) if sound else None
    return Moment(frames, heard)


def test_a_moment_gets_labels_and_words(explainer):
    opinion = explainer.ask(moment())
    assert opinion.scores.labels == labels.MAFW
    assert sum(opinion.scores.probabilities) == pytest.approx(1)
    assert opinion.scores.prior_removed
    assert opinion.explained.label in (*labels.MAFW, labels.OTHER)
    assert opinion.audio == "heard"


def test_the_same_moment_gets_the_same_opinion(explainer):
    asked = moment()
    one, other = explainer.ask(asked), explainer.ask(asked)
    assert np.allclose(one.scores.probabilities, other.scores.probabilities, atol=1e-6)
    assert one.explained == other.explained


def test_words_may_be_left_out_or_cut_off(explainer):
    asked = moment()
    assert explainer.ask(asked, words=False).explained is None
    assert explainer.ask(asked, wanted=lambda: False).explained is None


def test_without_sound_it_says_so_and_without_pictures_it_refuses(explainer):
    assert explainer.ask(moment(sound=False)).audio == "missing"
    with pytest.raises(ValueError, match="does not judge sound alone"):
        explainer.ask(moment(0))


def test_few_frames_are_filled_up(explainer):
    assert explainer.ask(moment(2), words=False).scores.labels == labels.MAFW


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "manifest.json").unlink(), "python -m exporters r1omni"),
        (lambda f: (f / "manifest.json").write_text("{"), "not a manifest"),
        (lambda f: (f / "audio.onnx").unlink(), "is missing or a link"),
        (lambda f: _flip(f / "embedding.bin"), "is not the file that was exported"),
        (lambda f: _cut(f / "decoder.onnx"), "is not the file that was exported"),
        (lambda f: _forget(f, "gate"), "has no graph 'gate'"),
        (lambda f: _named(f, "../gate.onnx"), "not a plain file"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(exported, tmp_path, spoil, words):
    folder = _copy(exported, tmp_path)
    spoil(folder)
    with pytest.raises(ModelRefused, match=words):
        open_explainer(folder, OPTIONS)


def test_tokenizers_are_asked_for_by_name(exported, tmp_path):
    folder = _copy(exported, tmp_path)
    _drop(folder, "tokenizer.json")
    with pytest.raises(ModelRefused, match=r"copy has no tokenizer\.json, and no vocab\.json"):
        open_explainer(folder, OPTIONS)
    folder = _copy(exported, tmp_path / "b")
    _drop(folder, "bert-vocab.txt")
    with pytest.raises(ModelRefused, match="--bert DIR"):
        open_explainer(folder, OPTIONS)


def _copy(exported, root):
    return shutil.copytree(exported, root / "copy")


def _flip(file):
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)


def _cut(file):
    file.write_bytes(file.read_bytes()[:-10])


def _rewrite(folder, change):
    made = msgspec.json.decode((folder / manifest.FILE).read_bytes())
    change(made)
    (folder / manifest.FILE).write_bytes(msgspec.json.encode(made))


def _forget(folder, name):
    _rewrite(folder, lambda made: made["graphs"].pop(name))


def _named(folder, name):
    _rewrite(folder, lambda made: made["digests"].update({name: "sha256:0"}))


def _drop(folder, name):
    (folder / name).unlink()
    _rewrite(folder, lambda made: made["digests"].pop(name))
