"""The event socket against raw frames, after Autobahn's sections 1 to 7 and 9 (RFC 6455)."""

import base64
import json
import socket
import struct
from contextlib import closing, suppress
from dataclasses import dataclass, field

import pytest

from services.gateway.protocol import MAX_MESSAGE_BYTES, MESSAGES_PER_S
from tests.e2e.harness import launch

PATIENCE_S = 15.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
MASK = b"\x37\xfa\x21\x3d"
KEY = base64.b64encode(bytes(16)).decode()
HELLO_PING = b'{"type":"ping","id":"a"}'
PONG_ID = {"type": "pong", "id": "a"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = launch(tmp_path_factory.mktemp("sockets"), "--redis-url", "memory://")
    yield running
    assert running.stop() == 0


def frame(opcode, payload=b"", *, first=FIN, masked=True, length=None):
    """Return one frame; ``length`` writes the length in a wider form, or as another one."""
    size = len(payload) if length is None else length[1]
    form = (0 if size < 126 else 1 if size < 65536 else 2) if length is None else length[0]
    head = bytes([first | opcode])
    bit = 0x80 if masked else 0
    if form == 0:
        head += bytes([bit | size])
    else:
        head += bytes([bit | (126 if form == 1 else 127)])
        head += struct.pack(">H" if form == 1 else ">Q", size)
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[place % 4] for place, byte in enumerate(payload))


def message(text):
    return frame(TEXT, text if isinstance(text, bytes) else text.encode())


def code(number, reason=b""):
    return frame(CLOSE, struct.pack(">H", number) + reason)


@dataclass
class Heard:
    """What the server sent until it ended the connection."""

    messages: list = field(default_factory=list)
    pongs: list = field(default_factory=list)
    code: int | None = None
    reason: str = ""

    @property
    def answers(self):
        return [each for each in self.messages if each["type"] not in {"hello", "ping"}]


class Caller:
    """A connection that says exactly what it is told to."""

    def __init__(self, server):
        host, port = server.events.removeprefix("ws://").partition("/")[0].split(":")
        assert host == "localhost"
        self.socket = socket.create_connection(("127.0.0.1", int(port)), timeout=PATIENCE_S)
        self._left = b""

    def close(self):
        self.socket.close()

    def ask(self, *lines, path="/v1/events", method="GET", version="HTTP/1.1"):
        """Send a handshake; return the head of the answer."""
        head = [f"{method} {path} {version}", *lines, "", ""]
        self.socket.sendall("\r\n".join(head).encode())
        while b"\r\n\r\n" not in self._left:
            piece = self.socket.recv(65536)
            if not piece:
                return b""
            self._left += piece
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        return head

    def open(self):
        answer = self.ask(*GOOD)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return self

    def send(self, *pieces):
        with suppress(ConnectionError):  # the server may have heard enough
            for piece in pieces:
                self.socket.sendall(piece)
        return self

    def _exactly(self, count):
        while len(self._left) < count:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError
            self._left += piece
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def heard(self, *, answers=None):
        """Read to the end of the connection, or until so many answers came."""
        found = Heard()
        try:
            while True:
                first, second = self._exactly(2)
                assert first & 0x70 == 0
                assert second < 128, "a server masks nothing"
                size = second
                if size > 125:
                    wide = 2 if size == 126 else 8
                    size = int.from_bytes(self._exactly(wide), "big")
                self._take(found, first & 15, self._exactly(size))
                if answers is not None and len(found.answers) + len(found.pongs) >= answers:
                    return found
        except (EOFError, ConnectionError):
            return found

    def _take(self, found, opcode, payload):
        if opcode == TEXT:
            found.messages.append(json.loads(payload))
        elif opcode == PONG:
            found.pongs.append(payload)
        elif opcode == CLOSE:
            assert found.code is None, "one close frame is enough"
            found.code = int.from_bytes(payload[:2], "big") if payload else 1005
            found.reason = payload[2:].decode()
            self.send(frame(CLOSE, payload))


GOOD = (
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
    "Authorization: Bearer dev",
)


def said(server, *pieces):
    """Open a connection, send all, and return what was heard until the server ended it."""
    with closing(Caller(server)) as caller:
        return caller.open().send(*pieces).heard()


def talked(server, *pieces, answers=1):
    """Open a connection, send all, wait for the answers, say goodbye: return both halves."""
    with closing(Caller(server)) as caller:
        heard = caller.open().send(*pieces).heard(answers=answers)
        return heard, caller.send(BYE).heard()


BYE = code(1000)
TAKEN = {
    "1.1 text": [message(HELLO_PING)],
    "1.1 a length in two bytes": [frame(TEXT, HELLO_PING + b" " * 200)],
    "1.1 as long as may be": [frame(TEXT, HELLO_PING.ljust(MAX_MESSAGE_BYTES))],
    "2.1 a ping with nothing": [frame(PING), message(HELLO_PING)],
    "2.7 a pong that nobody asked for": [frame(PONG, b"x"), message(HELLO_PING)],
    "5.3 in two pieces": [
        frame(TEXT, HELLO_PING[:9], first=0), frame(CONTINUATION, HELLO_PING[9:])
    ],
    "5.6 a ping between the pieces": [
        frame(TEXT, HELLO_PING[:9], first=0), frame(PING, b"mid"),
        frame(CONTINUATION, HELLO_PING[9:]),
    ],
    "5.9 a piece of nothing": [
        frame(TEXT, b"", first=0), frame(CONTINUATION, HELLO_PING, first=0), frame(CONTINUATION)
    ],
    "6.2 a letter cut in two": [
        frame(TEXT, b'{"type":"ping","x":"\xc3', first=0),
        frame(CONTINUATION, b'\xa4","id":"a"}'),
    ],
    "1.1 letter by letter": [bytes([byte]) for byte in message(HELLO_PING)],
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_allowed_is_understood(server, case):
    heard, end = talked(server, *TAKEN[case], answers=1 + ("ping" in case))
    assert heard.answers == [PONG_ID]
    assert (end.answers, end.code) == ([], 1000)


@pytest.mark.parametrize("payload", [b"", b"Hello", b"\0\xff\xfe\0", b"x" * 125])
def test_a_ping_is_answered_with_its_payload(server, payload):
    heard, end = talked(server, frame(PING, payload))
    assert (heard.pongs, end.code) == ([payload], 1000)


TEXT_5 = (TEXT, b"hello")
REFUSED = {
    "1.2 binary": ([frame(BINARY, HELLO_PING)], 4400),
    "2.5 a ping too long": ([frame(PING, b"x" * 126)], 1002),
    "3.1 a reserved bit": ([frame(*TEXT_5, first=FIN | RSV1)], 1002),
    "3.2 another reserved bit": ([frame(*TEXT_5, first=FIN | RSV2)], 1002),
    "3.3 all reserved bits": ([frame(*TEXT_5, first=FIN | RSV1 | RSV2 | RSV3)], 1002),
    "3.5 a reserved bit on a ping": ([frame(PING, first=FIN | RSV3)], 1002),
    **{f"4.1 opcode {code}": ([frame(code, b"x")], 1002) for code in (3, 4, 5, 6, 7)},
    **{f"4.2 opcode {code}": ([frame(code, b"x")], 1002) for code in (11, 12, 13, 14, 15)},
    "5.1 a ping in pieces": ([frame(PING, b"x", first=0)], 1002),
    "5.2 a pong in pieces": ([frame(PONG, b"x", first=0)], 1002),
    "5.10 a rest without a beginning": ([frame(CONTINUATION, b"x")], 1002),
    "5.15 a beginning within another": ([frame(TEXT, b"{", first=0), frame(TEXT, b"}")], 1002),
    "6.3 no UTF-8": ([frame(TEXT, b'{"type":"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"}')], 1007),
    "6.4 no UTF-8 in a later piece": (
        [frame(TEXT, b'{"x":"', first=0), frame(CONTINUATION, b'\xf4\x90\x80\x80"}')], 1007
    ),
    "6.6 a letter that is cut off": ([frame(TEXT, b'"\xc3')], 1007),
    "6.8 overlong": ([frame(TEXT, b'"\xc0\xaf"')], 1007),
    "7.3.2 half a close code": ([frame(CLOSE, b"\x03")], 1002),
    "7.3.6 a close too long": ([frame(CLOSE, struct.pack(">H", 1000) + b"x" * 124)], 1002),
    "7.5 a reason that is no UTF-8": ([code(1000, b"\xce\xba\xed\xa0\x80")], 1007),
    **{
        f"7.9 close code {number}": ([code(number)], 1002)
        for number in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    "9 a message too big": ([frame(TEXT, b"x" * (MAX_MESSAGE_BYTES + 1))], 1009),
    "9 a message too big in pieces": (
        [frame(TEXT, b"x" * 3000, first=0), frame(CONTINUATION, b"x" * 3000)], 1009
    ),
    "9 a length that never comes": ([frame(TEXT, b"", length=(2, 2**40))], 1009),
    "9 a length with its top bit set": ([frame(TEXT, b"", length=(2, 2**63))], 1009),
    "no mask": ([frame(*TEXT_5, masked=False)], 1002),
    "no JSON": ([message("hello")], 4400),
    "no object": ([message("[1,2]")], 4400),
    "of no known type": ([message('{"type":"shout"}')], 4400),
    "without a type": ([message("{}")], 4400),
    "a field out of its range": ([message('{"type":"resume","since":{"ses_1":-2}}')], 4400),
    "deeply nested": ([message("[" * 4000)], 4400),
    "too many at once": ([message(HELLO_PING)] * (4 * MESSAGES_PER_S), 4529),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_allowed_ends_with_its_code(server, case):
    sent, wanted = REFUSED[case]
    heard = said(server, *sent)
    assert heard.code == wanted, heard
    assert len(heard.reason.encode()) <= 123
    assert talked(server, message(HELLO_PING))[0].answers == [PONG_ID], "the next is served"


@pytest.mark.parametrize("number", [1000, 1001, 1002, 1003, 1007, 1009, 1011, 3000, 3999, 4999])
def test_a_proper_goodbye_is_said_back(server, number):
    assert said(server, code(number, b"bye")).code == number


def test_a_goodbye_without_a_code_is_said_back(server):
    assert said(server, frame(CLOSE)).code in {1000, 1005}


def test_what_follows_a_goodbye_is_not_heard(server):
    heard = said(server, BYE + message(HELLO_PING) + frame(PING, b"late"))
    assert (heard.answers, heard.pongs, heard.code) == ([], [], 1000)


HANDSHAKES = {
    "another method": ({"method": "POST"}, (), (400, 405)),
    "HTTP/1.0": ({"version": "HTTP/1.0"}, (), (400, 505)),
    "another address": ({"path": "/v1/other"}, (), (404,)),
    "a token in the address": ({"path": "/v1/events?token=dev"}, (), (400,)),
    "no upgrade": ({}, ("Upgrade",), (400, 426)),
    "no connection": ({}, ("Connection",), (400, 426)),
    "no key": ({}, ("Sec-WebSocket-Key",), (400,)),
    "no version": ({}, ("Sec-WebSocket-Version",), (400, 426)),
    "no host": ({}, ("Host",), (400, 403)),
}


@pytest.mark.parametrize("case", HANDSHAKES)
def test_a_handshake_that_is_none(server, case):
    options, without, wanted = HANDSHAKES[case]
    with closing(Caller(server)) as caller:
        lines = [line for line in GOOD if line.partition(":")[0] not in without]
        head = caller.ask(*lines, **options)
        # Nothing at all is an answer as well: the connection is over.
        assert not head or int(head.split(b" ")[1]) in wanted, head


@pytest.mark.parametrize(
    "line",
    [
        "Sec-WebSocket-Key: short",
        "Sec-WebSocket-Version: 12",
        "Sec-WebSocket-Protocol: soap",
        "X-Long: " + "a" * 20_000,
        "X: a\0b",
        "Host: evil.example",
    ],
)
def test_a_handshake_with_a_bad_line(server, line):
    name = line.partition(":")[0]
    with closing(Caller(server)) as caller:
        head = caller.ask(line, *[each for each in GOOD if each.partition(":")[0] != name])
        assert not head or 400 <= int(head.split(b" ")[1]) < 500, head


def test_a_handshake_that_never_ends_is_given_up(server):
    with closing(Caller(server)) as caller:
        caller.socket.sendall(b"GET /v1/events HTTP/1.1\r\nHost: loc")
        assert caller.heard() == Heard()
