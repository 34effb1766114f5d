"""The HTTP door of the composed server against its own document, and against raw bytes."""

import json
import re
import socket
import urllib.request
from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from services.gateway import openapi
from tests.e2e.harness import launch

DOCUMENT = openapi.document("0")
PATIENCE_S = 15.0
"""No request may hang for longer; those that are refused are answered at once."""
ENDLESS = "text/event-stream"
ENDS_THE_SERVER = {("POST", "/v1/drain")}
EXAMPLES = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = launch(tmp_path_factory.mktemp("conformance"), "--redis-url", "memory://")
    yield running
    assert running.stop() == 0


def operations():
    """Return method and path of what answers and ends, as the document has it."""
    found = []
    for path, item in DOCUMENT["paths"].items():
        for method, told in item.items():
            if method == "parameters":
                continue
            answers = [each.get("content", {}) for each in told["responses"].values()]
            if not any(ENDLESS in content for content in answers):
                found.append((method.upper(), path))
    return [each for each in found if each not in ENDS_THE_SERVER]


def operation(server, method, path):
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    return next(
        found
        for found in (each.ok() for each in schema.get_all_operations())
        if (found.method.upper(), found.path) == (method, path)
    )


def test_the_document_is_what_the_server_serves(server):
    with urllib.request.urlopen(f"{server.http}/openapi.json", timeout=20) as answer:
        served = json.load(answer)
    assert served["paths"].keys() == DOCUMENT["paths"].keys()
    assert len(operations()) > 12


def conforms(server, method, path, *, examples, without=(), **headers):
    # What a schema cannot say is refused too: a time that is over, scoring without orders.
    excluded = [positive_data_acceptance, *without]

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation(server, method, path).as_strategy())
    def check(case):
        case.call_and_validate(
            base_url=server.http, headers=headers, timeout=PATIENCE_S, excluded_checks=excluded
        )

    check()


@pytest.mark.parametrize(("method", "path"), operations())
def test_what_is_documented_is_what_is_answered(server, method, path):
    """Statuses, media types and bodies are those of the document, whatever is sent."""
    without = [ignored_auth]  # it sends wrong tokens, and then the server holds us back
    conforms(server, method, path, examples=EXAMPLES, without=without, Authorization="Bearer dev")
    conforms(server, method, path, examples=2, without=without)


def spoken(server, sent):
    """Send bytes on a new connection; return all that comes until the server closes it."""
    with socket.create_connection(("127.0.0.1", _port(server)), timeout=PATIENCE_S) as caller:
        with suppress(ConnectionError):  # refused before all was read
            caller.sendall(sent)
        got = bytearray()
        with suppress(ConnectionError):
            while piece := caller.recv(65536):
                got += piece
    return bytes(got)


def _port(server):
    return int(server.http.rpartition(":")[2])


def statuses(answer):
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


HEAD = b"Host: localhost\r\nConnection: close\r\n"
AUTH = b"Authorization: Bearer dev\r\n"
POST = b"POST /whip/raw HTTP/1.1\r\nContent-Type: application/sdp\r\n" + HEAD + AUTH
GET = b"GET /livez HTTP/1.1\r\n" + HEAD
REFUSED = {
    "a line too long": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a header too long": GET + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "a name too long": GET + b"X" * 20_000 + b": a\r\n\r\n",
    "too many headers": GET + b"X: a\r\n" * 2000 + b"\r\n",
    "a NUL in a header": GET + b"X: a\0b\r\n\r\n",
    "a NUL in a name": GET + b"X\0: a\r\n\r\n",
    "a NUL in the address": b"GET /\0 HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a bare CR in a header": GET + b"X: a\rb\r\n\r\n",
    "a blank before the colon": GET + b"X : a\r\n\r\n",
    "a folded header": GET + b"X: a\r\n b\r\n\r\n",
    "no colon": GET + b"nonsense\r\n\r\n",
    "a bad method": b"G@T /livez HTTP/1.1\r\n" + HEAD + b"\r\n",
    "no such method": b"BREW /livez HTTP/1.1\r\n" + HEAD + b"\r\n",
    "a bad version": b"GET /livez HTTP/9.9.9\r\n" + HEAD + b"\r\n",
    "a version of the future": b"GET /livez HTTP/3.0\r\n" + HEAD + b"\r\n",
    "binary": bytes(range(256)) * 4 + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "length and chunks": POST
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nv=0\n",
    "lengths in a list": POST + b"Content-Length: 4, 4\r\n\r\nv=0\n",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a length with a sign": POST + b"Content-Length: +4\r\n\r\nv=0\n",
    "a length of words": POST + b"Content-Length: four\r\n\r\nv=0\n",
    "a huge length": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "a chunk that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nv=0\r\n0\r\n\r\n",
    "a negative chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n-4\r\nv=0\n\r\n0\r\n\r\n",
    "a chunk too short": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nv=0\n\r\n0\r\n\r\n",
    "chunks said twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a body too large": POST + b"Content-Length: 100000\r\n\r\n" + b"v" * 100_000,
    "no body at all": POST + b"\r\n",
    "a token in the address": b"GET /v1/sessions?token=dev HTTP/1.1\r\n" + HEAD + AUTH + b"\r\n",
    "a stream of dots": b"POST /whip/../../etc HTTP/1.1\r\n" + HEAD + AUTH + b"\r\n",
    "an encoded path": b"GET /..%2f..%2fetc%2fpasswd HTTP/1.1\r\n" + HEAD + b"\r\n",
    "two hosts": b"GET /v1/sessions HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"
    + AUTH
    + b"Connection: close\r\n\r\n",
    "another host": b"GET /v1/sessions HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n"
    + AUTH
    + b"\r\n",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_request_is_refused_and_the_next_is_served(server, case):
    """One refusal and no second answer: what follows is never taken for a request."""
    (status,) = statuses(spoken(server, REFUSED[case]))
    assert status in {400, 403, 404, 405, 411, 413, 414, 431, 501, 505}
    assert statuses(spoken(server, GET + b"\r\n")) == [200]


OF_ONE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
TAKEN = {
    "HTTP/1.0": (b"GET /livez HTTP/1.0\r\n\r\n", [200]),
    "two at once": (OF_ONE + b"\r\n" + GET + b"\r\n", [200, 200]),
    "one and nonsense in one piece": (OF_ONE + b"\r\n\0\0\0\r\n\r\n", [400]),
    "an absolute address": (b"GET http://localhost/livez HTTP/1.1\r\n" + HEAD + b"\r\n", [200]),
    "HEAD": (b"HEAD /livez HTTP/1.1\r\n" + HEAD + b"\r\n", [200]),
    "an empty line first": (b"\r\n" + GET + b"\r\n", [200]),
    "a chunk with an extension": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nv=0\n\r\n0\r\n\r\n",
        [422],
    ),
    "a body to a GET": (GET + b"Content-Length: 4\r\n\r\nv=0\n", [200]),
}


@pytest.mark.parametrize("case", TAKEN)
def test_odd_but_sound_requests_are_answered_in_turn(server, case):
    sent, wanted = TAKEN[case]
    assert statuses(spoken(server, sent)) == wanted


@pytest.mark.parametrize("path", ["/v1/events", "/v1/sessions/ses_none/events"])
def test_streams_of_events_are_what_the_document_says(server, path):
    with socket.create_connection(("127.0.0.1", _port(server)), timeout=PATIENCE_S) as caller:
        caller.sendall(f"GET {path} HTTP/1.1\r\n".encode() + HEAD + AUTH + b"\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += caller.recv(65536)
    (status,) = statuses(head)
    kind = b"text/event-stream" if status == 200 else b"application/problem+json"
    assert status == (404 if "none" in path else 200)
    assert b"content-type: " + kind in head.lower()


NOT_NUMBERS = ["-1", "-0.5", "", "nan", "1,5", "%20", "0" * 20 + "x" * 5000, "0x7", "%D9%A1x"]


@pytest.mark.parametrize("name", ["limit", "max_hz", "from_ms"])
@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_a_number_that_is_none_is_never_our_fault(server, name, text):
    path = {"limit": "/v1/sessions", "from_ms": "/v1/sessions/a/timeline"}.get(name, "/v1/events")
    sent = f"GET {path}?{name}={text} HTTP/1.1\r\n".encode() + HEAD + AUTH + b"\r\n"
    (status,) = statuses(spoken(server, sent))
    assert status in {400, 404}


@pytest.mark.parametrize("name", ["limit", "from_ms"])
def test_a_number_with_very_many_digits_is_refused(server, name):
    path = {"limit": "/v1/sessions", "from_ms": "/v1/sessions/a/timeline"}[name]
    digits = "0" * 19 + "1" + "9" * 5000
    sent = f"GET {path}?{name}={digits} HTTP/1.1\r\n".encode() + HEAD + AUTH + b"\r\n"
    (status,) = statuses(spoken(server, sent))
    assert status in {400, 404}


@pytest.mark.parametrize(("method", "path"), operations())
def test_wrong_tokens_get_what_is_documented_also_when_there_are_too_many(server, method, path):
    """The last of this file: after these the server holds back who sent them."""
    conforms(server, method, path, examples=2, Authorization="Bearer dev")
    conforms(server, method, path, examples=2, Authorization="Bearer wrong")
