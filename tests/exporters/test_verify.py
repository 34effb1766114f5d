"""The parity tool, and the command in front of it."""

import hashlib
import shutil

import numpy as np
import pytest

from exporters import __main__ as command
from exporters import fetch, manifest, verify
from pipeline import models
from pipeline.errors import ModelRefused, ParityError, UsageError


def test_a_difference_is_the_largest_one():
    found = verify.compare("x", np.array([1.0, 2.0]), np.array([1.0, 2.5]), 0.1)
    assert found.difference == pytest.approx(0.5)
    assert not found.passed
    assert str(found).startswith("FAIL  x ")


@pytest.mark.parametrize("got", [np.zeros((2, 1)), np.array([np.nan, 0.0])])
def test_another_shape_or_nan_never_passes(got):
    assert not verify.compare("x", np.zeros(2), got, 1e9).passed


def test_every_line_is_printed_and_the_worst_is_raised(capsys):
    lines = [
        verify.Comparison("good", 0.0, 0.1),
        verify.Comparison("bad", 0.2, 0.1),
        verify.Comparison("worse", 0.2, 0.001),
    ]
    with pytest.raises(ParityError, match=r"worse: largest difference 0\.2"):
        verify.report(lines)
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["pass", "good"],
        ["FAIL", "bad"],
        ["FAIL", "worse"],
    ]


def test_what_ships_gives_its_golden_answers(capsys):
    assert command.main(["verify"]) == 0
    printed = capsys.readouterr().out
    for name in models.manifest().models:
        assert f"{name}/" in printed
    assert "FAIL" not in printed


def test_other_golden_answers_fail(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "models"
    shutil.copytree(manifest.MODELS_DIR, folder)
    with np.load(folder / "golden.npz") as stored:
        arrays = dict(stored)
    arrays["vad/out/speech"] = arrays["vad/out/speech"] + 0.01
    np.savez(folder / "golden.npz", **arrays)
    monkeypatch.setattr(models, "path", lambda file: folder / file)
    assert command.main(["verify"]) == 1
    assert "vad/speech golden: largest difference 0.01" in capsys.readouterr().err


def test_a_part_whose_tools_are_missing_says_what_to_install(monkeypatch, capsys):
    def missing(_module):
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    monkeypatch.setattr(command.importlib, "import_module", missing)
    assert command.main(["vad"]) == 2
    assert "needs onnx: pip install 'demeanor[cpu,export]'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["verify", "--what"]])
def test_wrong_use_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        command.main(arguments)
    assert left.value.code == 2
    assert "usage: python -m exporters" in capsys.readouterr().err


def test_a_package_file_must_have_the_pinned_digest(tmp_path):
    file = tmp_path / "package.tgz"
    file.write_bytes(b"other")
    digest = hashlib.sha256(b"other").hexdigest()
    assert fetch.read(file, digest) == b"other"
    with pytest.raises(ModelRefused, match=digest):
        fetch.read(file, "0" * 64)
    with pytest.raises(UsageError, match="cannot read"):
        fetch.read(tmp_path / "none.tgz", digest)


def test_without_npm_the_user_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="npm is needed"):
        fetch.npm_package("some-package", "1.0.0", "0" * 64)


def test_a_client_that_fails_is_quoted(monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'no such version' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UsageError, match="no such version"):
        fetch.npm_package("some-package", "1.0.0", "0" * 64)


def test_a_fetched_archive_is_proven(monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\nprintf archive > package.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    digest = hashlib.sha256(b"archive").hexdigest()
    assert fetch.npm_package("some-package", "1.0.0", digest) == b"archive"
    with pytest.raises(ModelRefused, match="expected 000"):
        fetch.npm_package("some-package", "1.0.0", "0" * 64)
