"""The same model on a GPU: the same code, the provider asserted, the same answers as on the CPU."""

import numpy as np
import pytest

from pipeline.errors import ProviderMissing
from pipeline.session import Session, ort
from services.explain.model import open_explainer
from services.explain.options import Options
from tests.pipeline.explain.conftest import write_model
from tests.services.explain.test_model import moment

CUDA = "CUDAExecutionProvider"
PRESENT = CUDA in ort.get_available_providers()
needs_gpu = pytest.mark.skipif(
    not PRESENT, reason=f"ONNX Runtime here has no {CUDA}: no GPU build, or no GPU"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("cuda"))


@needs_gpu
def test_every_graph_runs_on_the_gpu(exported):
    engine = open_explainer(exported, Options(device="cuda")).engine
    sessions = (engine.vision, engine.audio, engine.gate, engine.decoder._session)
    assert [session.provider for session in sessions] == [CUDA] * 4


@needs_gpu
@pytest.mark.parametrize("sound", [True, False])
def test_it_says_what_the_cpu_says(exported, sound):
    asked = moment(sound=sound)
    one, other = (
        open_explainer(exported, Options(device=device, thinking=6)).ask(asked)
        for device in ("cpu", "cuda")
    )
    assert np.allclose(one.scores.probabilities, other.scores.probabilities, atol=1e-3)
    assert one.explained.tokens == other.explained.tokens


@needs_gpu
def test_bound_memory_stays_on_the_gpu_and_grows_in_place(exported):
    decoder = open_explainer(exported, Options(device="cuda")).engine.decoder
    addresses = {name: buffer.value.data_ptr() for name, buffer in decoder._bound.items()}
    assert {buffer.value.device_name() for buffer in decoder._bound.values()} == {"cuda"}
    rows = np.ones((5, 32), np.float32)
    _, cache = decoder.step(decoder.empty(), rows, np.array([4]))
    decoder.step(cache, rows[:1], np.array([0]))
    assert {name: each.value.data_ptr() for name, each in decoder._bound.items()} == addresses
    grown = decoder._bound["present.0.key"].array()
    assert np.abs(grown[:, :, :6]).min(axis=(0, 1, 3)).all()
    assert not grown[:, :, 6:].any()


@pytest.mark.skipif(PRESENT, reason="this machine has what is missed here")
def test_without_a_gpu_it_refuses_instead_of_running_elsewhere(exported):
    with pytest.raises(ProviderMissing, match="choose --device cpu"):
        open_explainer(exported, Options(device="cuda"))
    file = exported / "gate.onnx"
    with pytest.raises(ProviderMissing):
        Session(file.read_bytes(), file=file.name, device="cuda", weights=exported)
