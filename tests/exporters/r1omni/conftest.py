"""One tiny checkpoint and one export of it for all tests of this folder."""

from pathlib import Path

import pytest

from exporters.r1omni import checkpoint
from tests.exporters.r1omni import tiny

GOLDENS = Path(__file__).parents[4] / "shared" / "goldens" / "r1omni-tiny"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny.make().write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def model(folder):
    return checkpoint.load(folder)


@pytest.fixture(scope="session")
def goldens():
    if not GOLDENS.is_dir():
        pytest.skip("the golden arrays of the reference code are not on this machine")
    return GOLDENS
