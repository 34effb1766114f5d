"""``/openapi.json``: what the HTTP door of the gateway takes and answers (OpenAPI 3.1)."""

from typing import Any

import msgspec

from services.gateway.erasure import Erased
from services.gateway.explaining import Asked
from services.gateway.policing import Consented, ConsentRequest, Switch, SwitchRequest
from services.gateway.tokens import Revocation, Ticket, TicketRequest
from services.gateway.views import LARGEST_LIMIT, SORTS, Page, SessionView, StateView, Timeline
from services.problems import CONTENT_TYPE as PROBLEM_TYPE
from services.problems import Body as ProblemBody

_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}]
_TICKET: list[dict[str, list[str]]] = [{"bearer": []}, {"ticket": []}]
_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": (
            "Scopes: read:SESSION or read:* to read, ingest:STREAM to publish and to erase one's "
            "own session, explain to have what one reads explained, admin for the rest; all of the "
            "token's own tenant. 401: no valid token; 403: not within its scopes; 404: unknown and "
            "foreign alike; 429: Retry-After."
        ),
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "From POST /v1/tickets: for EventSource, once, within ten seconds.",
    },
}


def document(version: str) -> dict[str, Any]:
    """Return the description of every address below."""
    _, schemas = msgspec.json.schema_components(
        [
            Page,
            SessionView,
            StateView,
            Timeline,
            Ticket,
            TicketRequest,
            Revocation,
            Asked,
            Consented,
            ConsentRequest,
            Erased,
            Switch,
            SwitchRequest,
            ProblemBody,
        ],
        ref_template="#/components/schemas/{name}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Demeanor", "version": version},
        "paths": _sessions() | _streams() | _tokens() | _policing() | _about(),
        "components": {
            "securitySchemes": _SCHEMES,
            "schemas": schemas,
        },
    }


def _sessions() -> dict[str, Any]:
    sort = _query("sort", "string", enum=[*SORTS, *(f"-{name}" for name in SORTS)])
    state = _query("state", "string", enum=["calm", "watch", "high", "no_evidence"])
    limit = _query("limit", "integer", minimum=1, maximum=LARGEST_LIMIT)
    paging = [limit, _query("after", "string")]
    span = [_query("from_ms", "integer"), _query("to_ms", "integer")]
    form = _query("format", "string", enum=["json"])
    one = "/v1/sessions/{session_id}"
    erase = _json("End the session and erase its data", "Erased", [_query("participant", "string")])
    explain = _json("Have the explain model look at this moment", "Asked")
    explain["responses"] = {"202": explain["responses"].pop("200"), **explain["responses"]}
    erase["responses"]["204"] = {"description": "Erased; nobody asked what"}
    return {
        "/v1/sessions": {"get": _json("Sessions as they stand", "Page", [sort, state, *paging])},
        one: {
            "parameters": [_session_id()],
            "get": _json("One session as it stands", "SessionView"),
            "delete": erase,
        },
        f"{one}/state": {
            "parameters": [_session_id()],
            "get": _json("One plain sentence and its numbers", "StateView"),
        },
        f"{one}/explain": {"parameters": [_session_id()], "post": explain},
        f"{one}/timeline": {
            "parameters": [_session_id()],
            "get": _json("Windows that are still held", "Timeline", [*span, form]),
        },
    }


def _streams() -> dict[str, Any]:
    resume = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}
    filters = [_query("events", "string"), _query("roles", "string"), _query("max_hz", "number")]
    stream = {
        "summary": "Events as they come (SSE)",
        "security": _TICKET,
        "parameters": [resume, *filters],
        "responses": {
            "200": {"description": "Events", "content": {"text/event-stream": {}}},
            "204": {"description": "The session is over and was read to its end"},
            "default": _problem(),
        },
    }
    return {
        "/v1/events": {"get": stream},
        "/v1/sessions/{session_id}/events": {"parameters": [_session_id()], "get": stream},
    }


def _tokens() -> dict[str, Any]:
    ticket = _json("A ticket for the address of an event stream", "Ticket")
    ticket["responses"] = {"201": ticket["responses"].pop("200"), **ticket["responses"]}
    revoke = {
        "summary": "End a token of one's own tenant, everywhere within five seconds (admin)",
        "security": _SECURITY,
        "requestBody": _body("Revocation"),
        "responses": {"204": {"description": "Revoked"}, "default": _problem()},
    }
    return {
        "/v1/tickets": {"post": {**ticket, "requestBody": _body("TicketRequest")}},
        "/v1/revocations": {"post": revoke},
    }


def _policing() -> dict[str, Any]:
    consent = _json("Agree to the notice, or withdraw: then all is erased", "Consented")
    switch = _json("Switch scoring off or on (admin), obeyed within a second", "Switch")
    return {
        "/v1/sessions/{session_id}/consent": {
            "parameters": [_session_id()],
            "put": {**consent, "requestBody": _body("ConsentRequest")},
        },
        "/v1/scoring": {
            "get": _json("How the kill switch stands", "Switch"),
            "put": {**switch, "requestBody": _body("SwitchRequest")},
        },
    }


def _about() -> dict[str, Any]:
    guarded = {"/v1/policy": "Who may be scored", "/v1/models": "The loaded model"}
    plain = {
        "/v1/config": "What the page needs",
        "/version": "Version of the server",
        "/readyz": "The process may take traffic (503 with reasons otherwise)",
        "/asyncapi.json": "The event socket",
        "/openapi.json": "This document",
    }
    paths: dict[str, Any] = {
        path: {"get": {**_any(words), "security": _SECURITY}} for path, words in guarded.items()
    }
    paths |= {path: {"get": _any(words)} for path, words in plain.items()}
    body = {"type": "object", "properties": {"soft_s": {"type": "integer", "minimum": 0}}}
    paths["/v1/drain"] = {
        "post": {
            "summary": "Take no new streams, let running ones end, then end the process",
            "security": _SECURITY,
            "requestBody": {"content": {"application/json": {"schema": body}}},
            "responses": {"202": _any("Draining")["responses"]["200"], "default": _problem()},
        }
    }
    page = {"200": {"description": "Page", "content": {"text/html": {}}}}
    paths["/docs/errors"] = {"get": {"summary": "What error codes mean", "responses": page}}
    alive = {
        status: {"description": words, "content": {"text/plain": {}}}
        for status, words in (("200", "It does"), ("503", "The event loop is stuck"))
    }
    paths["/livez"] = {"get": {"summary": "The process runs", "responses": alive}}
    text = {"200": {"description": "Metrics", "content": {"text/plain": {}}}}
    paths["/metrics"] = {
        "get": {
            "summary": "Prometheus metrics: free on a machine that is alone, else for admins",
            "security": [*_SECURITY, {}],
            "responses": {**text, "default": _problem()},
        }
    }
    return paths


def _json(
    summary: str, schema: str, parameters: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {
        "summary": summary,
        "security": _SECURITY,
        "parameters": parameters or [],
        "responses": {"200": {"description": summary, "content": content}, "default": _problem()},
    }


def _any(summary: str) -> dict[str, Any]:
    answer = {"description": summary, "content": {"application/json": {}}}
    return {"summary": summary, "responses": {"200": answer, "default": _problem()}}


def _body(schema: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"required": True, "content": content}


def _problem() -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Body"}}}
    return {"description": "A problem (RFC 9457)", "content": content}


def _query(name: str, kind: str, **limits: object) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": kind, **limits}}


def _session_id() -> dict[str, Any]:
    return {"name": "session_id", "in": "path", "required": True, "schema": {"type": "string"}}
