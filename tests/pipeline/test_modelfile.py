"""Model files that must not be used: each refused with one line and exit code 78."""

import json
import os
import pickle
import shutil
import zipfile
from functools import cache

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from typer.testing import CliRunner

from pipeline import modelfile, models
from pipeline.errors import ModelRefused, SpecError
from pipeline.scorer import OrtScorer
from pipeline.session import open_session
from services.cli.app import app
from services.cli.exits import Exit

VAD = "vad.onnx"


@cache
def vad():
    return models.verified_bytes("vad")


def changed(change):
    proto = onnx.load_from_string(vad())
    change(proto)
    return proto.SerializeToString()


def outside(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


def foreign(proto):
    proto.graph.node.append(helper.make_node("Run", [], [], domain="evil\x1b[2Jops"))


def reshaped(proto):
    proto.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 1


def renamed(proto):
    proto.graph.output[0].name = "other"


def whole(folder, data):
    path = folder / VAD
    path.write_bytes(data)
    return path


def flipped(folder):
    shutil.copy(models.path(models.MANIFEST_FILE), folder)
    data = bytearray(vad())
    data[len(data) // 2] ^= 1
    return whole(folder, data)


def cut(folder):
    return whole(folder, vad()[:-1000])


def linked(folder):
    (folder / "away").mkdir()
    (folder / "here").mkdir()
    (folder / "here" / VAD).symlink_to(whole(folder / "away", vad()))
    return folder / "here" / VAD


def piped(folder):
    os.mkfifo(folder / VAD)
    return folder / VAD


def archived(folder):
    with zipfile.ZipFile(folder / VAD, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"a": 1}))
    return folder / VAD


def looped(folder):
    (folder / VAD).symlink_to(folder / VAD)
    return folder / VAD


CASES = {
    "one bit flipped": (flipped, "is damaged: it holds"),
    "cut short": (cut, "damaged or no ONNX model"),
    "weights elsewhere": (lambda f: whole(f, changed(outside)), "outside the file"),
    "foreign operators": (lambda f: whole(f, changed(foreign)), "foreign code"),
    "wrong shape": (lambda f: whole(f, changed(reshaped)), "does not load|contract declares"),
    "wrong name": (lambda f: whole(f, changed(renamed)), "does not load|contract declares"),
    "a pickle": (lambda f: whole(f, pickle.dumps({"a": 1})), "a Python pickle"),
    "an archive": (archived, "zip archive"),
    "a link out of the folder": (linked, "link out of its folder"),
    "a pipe": (piped, "it is no file"),
    "a folder": (lambda f: f, "Is a directory"),
    "a loop of links": (looped, "loop|symbolic links"),
    "nothing there": (lambda f: f / "none.onnx", "No such file"),
    "empty": (lambda f: whole(f, b""), "damaged or no ONNX model"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused(tmp_path, case):
    make, words = CASES[case]
    with pytest.raises((ModelRefused, SpecError), match=words):
        OrtScorer.open(replacements=[make(tmp_path)])
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("case", ["one bit flipped", "foreign operators", "a pickle"])
@pytest.mark.parametrize("verb", ["up", "models"])
def test_the_command_ends_with_78_and_one_line_and_never_gets_ready(
    tmp_path, monkeypatch, verb, case
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    make, words = CASES[case]
    path = str(make(tmp_path))
    told = {
        "up": ["up", "--http-port=0", "--ws-port=0", "--json", "--no-open", "--model", path],
        "models": ["models", "verify", path],
    }[verb]
    result = CliRunner().invoke(app, told)
    assert result.exit_code == Exit.MODEL_REFUSED
    assert result.stdout == "", "nothing got ready"
    (line,) = result.stderr.splitlines()
    assert words in line
    assert line.isprintable()


def test_the_bytes_that_the_manifest_beside_records_are_taken(tmp_path):
    shutil.copy(models.path(models.MANIFEST_FILE), tmp_path)
    assert modelfile.read(whole(tmp_path, vad())) == vad()
    (tmp_path / "near.onnx").symlink_to(tmp_path / VAD)
    assert modelfile.read(tmp_path / "near.onnx") == vad(), "a link within the folder is no way out"


@pytest.mark.parametrize("text", ["{", "{}", "[]", None])
def test_a_manifest_that_is_none_is_refused(tmp_path, text):
    if text is None:
        entry = msgspec.to_builtins(models.entry("vad")) | {"file": "../vad.onnx"}
        text = json.dumps({"models": {"vad": entry}})
    (tmp_path / models.MANIFEST_FILE).write_text(text)
    with pytest.raises(ModelRefused, match=r"manifest\.json cannot be used"):
        modelfile.read(whole(tmp_path, vad()))


def test_bytes_that_are_onnx_and_the_runtimes_own_format_at_once_are_loaded_as_onnx(monkeypatch):
    """The mark of ONNX Runtime's format may stand in a field of an ONNX file."""
    marked = b"\x12\x06xxORTM" + vad()  # producer_name, given first
    assert onnx.load_from_string(marked).graph.node
    with pytest.raises(Fail, match="ORT model"):
        ort.InferenceSession(marked, providers=["CPUExecutionProvider"])
    session = open_session(marked, file="both.onnx")
    chunk = models.golden("vad")
    for name, answer in zip(
        chunk.outputs, session.run(list(chunk.outputs), chunk.inputs), strict=True
    ):
        np.testing.assert_allclose(answer, chunk.outputs[name], atol=1e-3)


def test_nothing_in_the_package_is_a_pickle():
    """What ships beside the code: no suffix and no content that unpickles."""
    from importlib.resources import files

    checked = 0
    for room in ("pipeline", "services", "exporters"):
        for path in files(room).rglob("*"):
            if path.is_dir() or "__pycache__" in path.parts:
                continue
            assert path.suffix not in {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}, path
            head = path.read_bytes()[:2]
            assert not (head[:1] == b"\x80" and head[1:] in {b"\2", b"\3", b"\4", b"\5"}), path
            checked += 1
    assert checked > 100
    with np.load(models.path(models.GOLDEN_FILE), allow_pickle=False) as stored:
        assert all(stored[name].dtype.kind != "O" for name in stored.files)
