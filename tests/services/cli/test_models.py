"""The model files as people see them: listed, verified, refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.models import manifest
from services.cli.app import app
from services.cli.exits import Exit
from tests.e2e.harness import ROOT
from tests.pipeline import tiny_models
from tests.pipeline.tiny_models import Given

MODELS = ROOT / "pipeline" / "models"


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments], env={"COLUMNS": "160"})


def test_the_list_names_every_model_and_its_licence() -> None:
    text = invoke("list").output
    for name, entry in manifest().models.items():
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        assert entry.licence in line
        assert entry.sha256[:12] in line


def test_the_list_for_machines() -> None:
    listed = json.loads(invoke("list", "--json").output)
    assert listed.keys() == manifest().models.keys()
    assert all({"sha256", "licence", "source", "bytes"} <= each.keys() for each in listed.values())


def test_the_built_in_models_are_whole() -> None:
    result = invoke("verify")
    assert result.exit_code == 0, result.output
    assert result.output.count("✔") == len(manifest().models)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


BROKEN = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"hello world",
    "truncated": lambda whole: whole[: len(whole) // 2],
    "damaged": lambda whole: whole[:40] + bytes(byte ^ 255 for byte in whole[40:90]) + whole[90:],
    "pickle": lambda whole: pickle.dumps(Evil()),
    "no-spec": lambda whole: tiny_models.model("vad", Given(spec=False)),
    "other-kind": lambda whole: tiny_models.model("vad", Given(kind="face-detector")),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("command", [["models", "verify"], ["run", "--source", "x.wav", "--model"]])
def test_a_file_that_is_no_model_of_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    whole = (MODELS / "face-landmarks.onnx").read_bytes()
    (tmp_path / f"{name}.onnx").write_bytes(BROKEN[name](whole))
    result = CliRunner().invoke(app, [*command, f"{name}.onnx"])
    assert result.exit_code == Exit.MODEL_REFUSED
    (line,) = result.stderr.splitlines()
    assert line.startswith("demeanor: ")
    assert f"{name}.onnx" in line
    assert not (tmp_path / "unpickled").exists()


def test_a_missing_file_is_refused_and_the_others_are_judged(tmp_path: Path) -> None:
    good = str(MODELS / "vad.onnx")
    result = invoke("verify", str(tmp_path / "none.onnx"), good)
    assert result.exit_code == Exit.MODEL_REFUSED
    assert "none.onnx: No such file" in result.stderr
    assert f"✔ {good}" in result.stdout


def test_a_damaged_built_in_model_stops_everything(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline")
    model = tmp_path / "pipeline" / "models" / "face-landmarks.onnx"
    data = bytearray(model.read_bytes())
    data[-1000] ^= 1
    model.write_bytes(data)
    for arguments in (["models", "verify"], ["up", "--no-open", "--http-port=0", "--ws-port=0"]):
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments],
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == Exit.MODEL_REFUSED, done.stderr
        (line,) = done.stderr.splitlines()
        assert "face-landmarks.onnx" in line
