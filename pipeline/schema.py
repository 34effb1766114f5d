"""The wire schema as documents: JSON Schema 2020-12 and AsyncAPI 3.0, emitted from the Structs.

What the server sends is the truth; these are its descriptions, so nothing here is written by hand
that a Struct already says. A gateway hands in the Structs of its own control messages.
"""

from collections.abc import Sequence
from inspect import cleandoc
from typing import Any

import msgspec

from pipeline import events

Document = dict[str, Any]

EVENTS: tuple[type[events.Event], ...] = (
    events.SessionStarted,
    events.WindowScored,
    events.WindowSkipped,
    events.AlertRaised,
    events.AlertCleared,
    events.Explanation,
    events.Gap,
    events.SessionEnded,
    events.Error,
)
"""Every event type, in the order of :data:`pipeline.events.AnyEvent`."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_CHANNEL = "/v1/events"


def json_schema() -> Document:
    """Return the JSON Schema of one event: a choice of all types by their ``type``."""
    (root,), definitions = msgspec.json.schema_components(
        [events.AnyEvent], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": _DIALECT,
        "title": f"Demeanor event, schema {events.SCHEMA}",
        **root,
        "$defs": definitions,
    }


def asyncapi(
    *,
    version: str,
    sent: Sequence[type[msgspec.Struct]] = (),
    received: Sequence[type[msgspec.Struct]] = (),
) -> Document:
    """Return the AsyncAPI 3.0 document of the event socket.

    ``version`` is the product's; ``sent`` and ``received`` are control messages of the socket, as
    the server sees them. Every Struct needs a tag.
    """
    out, in_ = (*EVENTS, *sent), tuple(received)
    template = "#/components/schemas/{name}"
    _, schemas = msgspec.json.schema_components((*out, *in_), ref_template=template)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Demeanor events",
            "version": version,
            "description": cleandoc(events.__doc__ or ""),
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": {
                "address": _CHANNEL,
                "description": f"WebSocket, subprotocol {events.PROTOCOL}.",
                "messages": {_tag(kind): _ref("messages", _tag(kind)) for kind in (*out, *in_)},
            }
        },
        "operations": {
            "events": _operation("send", out),
            **({"control": _operation("receive", in_)} if in_ else {}),
        },
        "components": {
            "messages": {_tag(kind): _message(kind) for kind in (*out, *in_)},
            "schemas": schemas,
        },
    }


def _operation(action: str, kinds: Sequence[type[msgspec.Struct]]) -> Document:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/events"},
        "messages": [{"$ref": f"#/channels/events/messages/{_tag(kind)}"} for kind in kinds],
    }


def _message(kind: type[msgspec.Struct]) -> Document:
    return {
        "name": _tag(kind),
        "summary": cleandoc(kind.__doc__ or "").partition("\n")[0],
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }


def _ref(section: str, name: str) -> Document:
    return {"$ref": f"#/components/{section}/{name}"}


def _tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)
