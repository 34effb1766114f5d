"""The door to ONNX Runtime: what it refuses, and that what it loads answers."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipeline import onnxfile
from pipeline.errors import ModelRefused, ProviderMissing, ScoreError, SpecError
from pipeline.session import open_session
from pipeline.spec import ModelSpec, Tensor, encode

SPEC = ModelSpec(
    name="test/divide",
    version="1",
    kind="face-expression",
    inputs=(Tensor("x", "float32", ("n", 3)),),
    outputs=(Tensor("y", "float32", ("n", 3)),),
    licence="MIT",
    source="this test",
)


def model(spec=SPEC, domain="", external=False):
    weight = numpy_helper.from_array(np.array([1, 2, 0], np.float32), "w")
    if external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="/etc/passwd")
    graph = helper.make_graph(
        [helper.make_node("Div", ["x", "w"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if spec is not None:
        helper.set_model_props(proto, encode(spec))
    return proto.SerializeToString()


def test_a_sound_model_answers_and_shows_its_contract():
    session = open_session(model())
    assert session.spec == SPEC
    assert session.provider == "CPUExecutionProvider"
    (y,) = session.run(["y"], {"x": np.zeros((0, 3), np.float32)})
    assert y.shape == (0, 3)


def test_infinity_is_an_error_not_an_answer():
    with pytest.raises(ScoreError, match="NaN or infinity"):
        open_session(model()).run(None, {"x": np.ones((1, 3), np.float32)})


@pytest.mark.parametrize(
    "feeds",
    [{}, {"x": np.ones((1, 4), np.float32)}, {"x": np.ones((1, 3), np.uint8)}, {"z": np.ones(3)}],
)
def test_inputs_that_do_not_fit_are_a_score_error(feeds):
    with pytest.raises(ScoreError):
        open_session(model()).run(None, feeds)


def test_values_outside_the_file_are_refused():
    with pytest.raises(ModelRefused, match="outside the file"):
        open_session(model(external=True))


def test_foreign_operators_are_refused_before_the_runtime_sees_them():
    with pytest.raises(ModelRefused, match=r"my\.ops"):
        open_session(model(domain="my.ops"))


def test_a_model_without_a_contract_is_refused():
    with pytest.raises(SpecError, match=r"demeanor\.spec"):
        open_session(model(spec=None), file="plain.onnx")


def test_a_contract_that_names_other_tensors_is_refused():
    other = ModelSpec(
        name="n", version="1", kind="vad", licence="MIT", source="s",
        inputs=(Tensor("pcm", "float32", ("n", 3)),), outputs=SPEC.outputs,
    )  # fmt: skip
    with pytest.raises(SpecError, match="declares inputs"):
        open_session(model(spec=other))


def test_a_device_that_is_not_there_is_said_so(monkeypatch):
    monkeypatch.setattr(
        "pipeline.session.ort.get_available_providers", lambda: ["CPUExecutionProvider"]
    )
    with pytest.raises(ProviderMissing, match="CUDAExecutionProvider"):
        open_session(model(), device="cuda")


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(ModelRefused, match="cannot read"):
        open_session(tmp_path / "none.onnx")


@given(st.binary(max_size=400))
def test_garbage_is_refused_never_a_crash(garbage):
    with pytest.raises(ModelRefused):
        open_session(b"\xff" + garbage)


@given(st.integers(1, len(model()) - 1))
def test_a_cut_file_never_loads(size):
    with pytest.raises((ModelRefused, SpecError)):
        open_session(model()[:size], file="cut.onnx")


def test_metadata_and_domains_agree_with_the_onnx_package():
    data = model()
    contents = onnxfile.read(data, file="f")
    assert contents.metadata == {p.key: p.value for p in onnx.load_from_string(data).metadata_props}
    assert contents.domains == {""}
    assert not contents.external


def test_subgraphs_are_searched_too():
    inner = helper.make_graph([helper.make_node("Evil", [], ["o"], domain="evil.ops")], "i", [], [])
    node = helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner)
    proto = helper.make_model(helper.make_graph([node], "g", [], []))
    assert "evil.ops" in onnxfile.read(proto.SerializeToString(), file="f").domains
