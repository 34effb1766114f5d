"""The bill of materials says what the locks and the manifest say."""

import importlib.util
import re
from pathlib import Path

import pytest

from pipeline import models

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sbom():
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "deploy" / "sbom.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("lock", ["cpu", "gpu", "dev"])
def test_every_pinned_package_is_in_the_bill_with_its_hashes(sbom, lock):
    text = (ROOT / "deploy" / "locks" / f"{lock}.txt").read_text()
    pinned = re.findall(r"^(\S+)==([^\s;\\]+)", text, re.MULTILINE)
    components = sbom.bill(lock)["components"]
    libraries = [each for each in components if each["type"] == "library"]
    assert [(each["name"], each["version"]) for each in libraries] == pinned
    assert len(pinned) > 30
    hashes = [each["externalReferences"][0]["hashes"] for each in libraries]
    assert all(hashes), "pip takes nothing without a hash"
    assert sum(map(len, hashes)) == text.count("--hash=sha256:")


def test_every_model_is_in_the_bill(sbom):
    listed = {
        each["name"]: each["hashes"][0]["content"]
        for each in sbom.bill("cpu")["components"]
        if each["type"] == "machine-learning-model"
    }
    assert listed == {name: entry.sha256 for name, entry in models.manifest().models.items()}
