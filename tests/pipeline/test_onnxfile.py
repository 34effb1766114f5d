"""The reader of ONNX files against files made to deceive it, with the onnx package as a witness."""

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from pipeline import onnxfile
from pipeline.errors import ModelRefused

WEIGHT = numpy_helper.from_array(np.ones(3, np.float32), "w")


def varint(value, least=1):
    out = bytearray()
    while value or len(out) < least:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out[-1] &= 0x7F
    return bytes(out)


def field(number, payload):
    """One field, by its wire type: bytes are length-delimited, ints are varints."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def outside(location="/etc/passwd"):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph(nodes=(), initializers=(), sparse=()):
    return helper.make_graph(
        list(nodes), "g", [], [], list(initializers), sparse_initializer=list(sparse)
    )


def node(**attributes):
    made = helper.make_node("If", ["c"], ["o"])
    for name, value in attributes.items():
        made.attribute.append(helper.make_attribute(name, value))
    return made


def nested(inner, levels):
    for _ in range(levels):
        inner = graph([node(then_branch=inner)])
    return inner


def sparse():
    made = onnx.SparseTensorProto(dims=[3])
    made.values.CopyFrom(outside())
    made.indices.CopyFrom(outside())
    return made


def training():
    model = helper.make_model(graph())
    model.training_info.add().algorithm.CopyFrom(graph(initializers=[outside()]))
    return model


def function(default=None, domain=""):
    model = helper.make_model(graph())
    made = model.functions.add(name="f", domain="")
    made.opset_import.append(helper.make_opsetid(domain, 1))
    if default is not None:
        made.attribute_proto.append(default)
    return model


WHERE = {
    "initializer": helper.make_model(graph(initializers=[outside()])),
    "sparse initializer": helper.make_model(graph(sparse=[sparse()])),
    "attribute": helper.make_model(graph([node(value=outside())])),
    "list of tensors": helper.make_model(graph([node(values=[outside(), outside()])])),
    "sub-graph": helper.make_model(nested(graph(initializers=[outside()]), 3)),
    "list of graphs": helper.make_model(graph([node(branches=[graph(initializers=[outside()])])])),
    "training": training(),
    "function": function(helper.make_attribute("value", outside())),
}


@pytest.mark.parametrize("place", WHERE)
def test_weights_elsewhere_are_found_wherever_they_hide(place):
    found = onnxfile.read(WHERE[place].SerializeToString(), file="f")
    assert found.external == {"w"}
    assert found.locations == {"/etc/passwd"}


def model_of(raw_graph):
    return field(1, 8) + field(7, raw_graph)


@pytest.mark.parametrize(
    ("location", "kept"),
    [
        (field(14, 1), True),
        (field(14, 1 << 32 | 1), True),
        (varint(14 << 3) + b"\x81\x80\x00", True),
        (field(14, 0), False),
    ],
)
def test_a_location_is_read_as_the_runtime_reads_it(location, kept):
    raw = model_of(field(5, field(8, b"w") + location))
    witness = onnx.load_from_string(raw).graph.initializer[0].data_location
    assert (witness == TensorProto.EXTERNAL) is kept
    assert bool(onnxfile.read(raw, file="f").external) is kept


def test_of_a_field_given_twice_the_last_counts_as_for_the_runtime():
    entry = (
        field(1, b"harmless") + field(1, b"location") + field(2, b"a") + field(2, b"/etc/passwd")
    )
    raw = model_of(field(5, field(13, entry)) + field(1, field(7, b"") + field(7, b"evil.ops")))
    witness = onnx.load_from_string(raw).graph
    assert witness.initializer[0].external_data[0].key == "location"
    assert witness.node[0].domain == "evil.ops"
    found = onnxfile.read(raw, file="f")
    assert found.locations == {"/etc/passwd"}
    assert "evil.ops" in found.domains


def test_operators_of_a_function_count():
    assert (
        "evil.ops"
        in onnxfile.read(function(domain="evil.ops").SerializeToString(), file="f").domains
    )


def test_a_key_that_the_runtime_would_cut_is_refused():
    hidden = varint((1 << 32) | (5 << 3 | 2)) + varint(2) + b"\x08\x01"
    with pytest.raises(ModelRefused, match="damaged or no ONNX"):
        onnxfile.read(model_of(hidden), file="f")


def test_nesting_has_a_bottom():
    attribute = AttributeProto(name="body", type=AttributeProto.GRAPH)
    raw = graph([helper.make_node("Loop", [], ["o"])]).SerializeToString()
    del attribute
    for _ in range(2000):
        raw = field(1, field(5, field(6, raw)))
    with pytest.raises(ModelRefused):
        onnxfile.read(model_of(raw), file="f")


@pytest.mark.timeout(60)
def test_a_tensor_with_very_many_locations_costs_no_more_than_its_length():
    tensor = field(8, b"w") + field(13, b"") * 200_000
    assert onnxfile.read(model_of(field(5, tensor)), file="f").external == {"w"}


def test_so_many_fields_that_reading_would_take_long_are_refused(monkeypatch):
    monkeypatch.setattr(onnxfile, "_MOST_FIELDS", 1000)
    with pytest.raises(ModelRefused, match="damaged or no ONNX"):
        onnxfile.read(model_of(field(2, b"g") * 1000), file="f")


@pytest.mark.parametrize(
    ("beginning", "words"),
    [
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\x80\x02}q", "a Python pickle"),
        (b"PK\x03\x04", "zip"),
    ],
)
def test_a_pickle_or_archive_is_told_by_its_content(beginning, words):
    with pytest.raises(ModelRefused, match=words):
        onnxfile.read(beginning + helper.make_model(graph()).SerializeToString(), file="f.onnx")
