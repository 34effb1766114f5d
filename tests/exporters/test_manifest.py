"""The manifest, and the bytes it vouches for."""

import re
import shutil

import msgspec
import pytest

from exporters import manifest
from pipeline import models, onnxfile, spec
from pipeline.errors import ModelRefused

LIMIT_BYTES = 8 * 1024 * 1024


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the built-in folder that a test may damage."""
    folder = tmp_path / "models"
    shutil.copytree(manifest.MODELS_DIR, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(models, "path", lambda file: folder / file)
    models.manifest.cache_clear()
    yield folder
    models.manifest.cache_clear()


def test_every_file_is_listed_with_its_digest_licence_and_card():
    listed = models.manifest().models
    assert set(listed) == {path.stem for path in manifest.MODELS_DIR.glob("*.onnx")}
    for name, entry in listed.items():
        assert entry == manifest.entry(manifest.MODELS_DIR / entry.file)
        assert entry.name == name
        assert models.path(entry.card).is_file()
        contract = spec.decode(
            onnxfile.read(models.verified_bytes(name), file=name).metadata, file=name
        )
        assert (contract.kind, contract.licence) == (entry.kind, entry.licence)


def test_the_models_stay_small():
    assert sum(entry.bytes for entry in models.manifest().models.values()) <= LIMIT_BYTES


def test_licences_are_told_for_every_file():
    text = (manifest.MODELS_DIR / "LICENSES.md").read_text()
    for entry in models.manifest().models.values():
        assert entry.licence in text
        assert entry.file in text or "voice-*.onnx" in text


def test_a_changed_byte_is_refused_with_both_digests(copy):
    file = copy / "face-detector.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelRefused, match=r"face-detector\.onnx is damaged.*reinstall") as refused:
        models.verified_bytes("face-detector")
    assert len(re.findall(r"[0-9a-f]{64}", str(refused.value))) == 2


def test_a_missing_file_is_refused_by_name(copy):
    (copy / "vad.onnx").unlink()
    with pytest.raises(ModelRefused, match=r"vad\.onnx cannot be read"):
        models.verified_bytes("vad")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelRefused, match="face-detector"):
        models.verified_bytes("face-detektor")


@pytest.mark.parametrize("text", [b"", b"{}", b'{"models": {"x": 1}}'])
def test_a_damaged_manifest_is_refused(copy, text):
    (copy / "manifest.json").write_bytes(text)
    with pytest.raises(ModelRefused, match=r"manifest\.json is damaged"):
        models.verified_bytes("vad")


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"garbage", lambda data: data[:-40]])
def test_damaged_golden_answers_are_refused(copy, damage):
    file = copy / "golden.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelRefused, match=r"golden\.npz is damaged"):
        models.golden("vad")


def test_the_manifest_is_a_function_of_the_folder(copy):
    before = (copy / "manifest.json").read_bytes()
    manifest.write(copy)
    assert (copy / "manifest.json").read_bytes() == before
    (copy / "vad.onnx").unlink()
    manifest.write(copy)
    left = msgspec.json.decode((copy / "manifest.json").read_bytes(), type=models.Manifest)
    assert "vad" not in left.models
