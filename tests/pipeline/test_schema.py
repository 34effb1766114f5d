"""The published documents: equal to the golden files, complete, and closed under reference."""

import json
from pathlib import Path

import msgspec
import pytest

from pipeline import events, schema
from tests.pipeline.vectors import VECTORS

GOLDEN = Path(__file__).parent / "golden"
VERSION = "0.1.0"


class Ping(msgspec.Struct, tag="ping", tag_field="type"):
    """Is anyone there?

    More.
    """

    id: str


class Pong(msgspec.Struct, tag="pong", tag_field="type"):
    id: str


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            elif key == "mapping":
                yield from value.values()
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(document, reference):
    node = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


DOCUMENTS = {
    "schema": schema.json_schema(),
    "asyncapi": schema.asyncapi(version=VERSION),
    "asyncapi with control": schema.asyncapi(version=VERSION, sent=[Pong], received=[Ping]),
}


@pytest.mark.parametrize("name", ["schema", "asyncapi"])
def test_the_document_is_the_golden_file(name):
    assert DOCUMENTS[name] == json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_reference_leads_somewhere(name):
    found = list(references(DOCUMENTS[name]))
    assert len(found) > 20
    for reference in found:
        assert isinstance(resolve(DOCUMENTS[name], reference), dict)


def test_every_event_type_is_described():
    assert set(schema.EVENTS) == set(events.AnyEvent.__args__)
    assert set(DOCUMENTS["schema"]["discriminator"]["mapping"]) == {
        vector["type"] for vector in VECTORS.values()
    }


@pytest.mark.parametrize("name", VECTORS)
def test_the_examples_hold_exactly_fields_that_the_schema_knows(name):
    vector, document = VECTORS[name], DOCUMENTS["schema"]
    described = resolve(document, document["discriminator"]["mapping"][vector["type"]])
    assert set(described["required"]) <= set(vector) <= set(described["properties"])


def test_asyncapi_lists_messages_by_type_and_direction():
    document = DOCUMENTS["asyncapi with control"]
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["version"] == VERSION
    messages = document["channels"]["events"]["messages"]
    assert set(messages) == {v["type"] for v in VECTORS.values()} | {"ping", "pong"}
    assert document["components"]["messages"]["ping"]["summary"] == "Is anyone there?"
    sent = {ref["$ref"] for ref in document["operations"]["events"]["messages"]}
    assert "#/channels/events/messages/pong" in sent
    assert document["operations"]["control"]["action"] == "receive"
    assert document["operations"]["control"]["messages"] == [
        {"$ref": "#/channels/events/messages/ping"}
    ]


def test_without_control_messages_there_is_nothing_to_receive():
    assert set(DOCUMENTS["asyncapi"]["operations"]) == {"events"}
