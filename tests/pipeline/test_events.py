"""The wire: every example event decodes, and what is encoded is the golden file byte for byte.

``python -m tests.pipeline.golden`` writes the files anew; a change in one is a change of schema.
"""

import json
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import events
from tests.pipeline.vectors import VECTORS

GOLDEN = Path(__file__).parent / "golden"
by_name = pytest.mark.parametrize("name", VECTORS)


@by_name
def test_an_example_event_keeps_every_field_through_decode_and_encode(name):
    event = events.decode(json.dumps(VECTORS[name]))
    assert json.loads(events.encode(event)) == VECTORS[name]


@by_name
def test_the_encoding_is_the_golden_file(name):
    event = events.decode(json.dumps(VECTORS[name]))
    assert events.encode(event) + b"\n" == (GOLDEN / f"{name}.json").read_bytes()


def test_there_is_a_golden_file_for_each_vector_and_no_other():
    documents = {"schema", "asyncapi"}
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(VECTORS) | documents


def test_the_examples_hold_every_type():
    tags = {kind.__struct_config__.tag for kind in events.AnyEvent.__args__}
    assert {vector["type"] for vector in VECTORS.values()} == tags


@by_name
def test_unknown_fields_are_ignored(name):
    newer = {**VECTORS[name], "from_the_future": {"x": 1}}
    assert events.decode(json.dumps(newer)) == events.decode(json.dumps(VECTORS[name]))


@by_name
def test_a_missing_field_or_a_wrong_type_is_refused(name):
    without = {key: value for key, value in VECTORS[name].items() if key != "id"}
    with pytest.raises(msgspec.ValidationError, match="id"):
        events.decode(json.dumps(without))
    with pytest.raises(msgspec.ValidationError):
        events.decode(json.dumps({**VECTORS[name], "ts": 5}))


def test_an_unknown_type_is_refused():
    with pytest.raises(msgspec.ValidationError, match=r"window\.revised"):
        events.decode(json.dumps({**VECTORS["error"], "type": "window.revised"}))


def test_gap_fields_of_the_other_kind_are_absent_not_null():
    media = events.encode(events.decode(json.dumps(VECTORS["gap-media"])))
    delivery = events.encode(events.decode(json.dumps(VECTORS["gap-delivery"])))
    assert b"from_seq" not in media
    assert b"start_ms" not in delivery


def test_an_event_is_one_line():
    for vector in VECTORS.values():
        assert b"\n" not in events.encode(events.decode(json.dumps(vector)))


@given(st.integers(0, 4_102_444_800_000))
def test_timestamps_have_milliseconds_and_read_back(wall_ms):
    text = events.timestamp(wall_ms)
    read = msgspec.convert(text, type=datetime)
    assert round(read.timestamp() * 1000) == wall_ms
    assert len(text) == len("2026-11-23T08:00:10.004Z")
