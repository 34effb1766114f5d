"""Everything that people get wrong, at one real server, while a good stream runs through it all.

Each refusal has its status, code and one sentence; at the end the good stream is complete, nothing
was logged that anybody sent, and nothing was left behind.
"""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiortc import RTCPeerConnection
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from yarl import URL

from pipeline.events import AnyEvent, Gap, SessionEnded, SessionStarted, WindowScored, decode
from pipeline.events import WindowSkipped as Skipped
from tests.e2e.harness import (
    ROOT,
    SAMPLE,
    Server,
    children,
    demeanor,
    environment,
    launch,
    until,
)
from tests.services.ingest.support import AUTH, SDP_TYPE, Card, Publisher, Tone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CANARY = "canary7f3a"
"""Part of every name, token and string that is sent: none may be logged."""
GOOD = f"good-{CANARY}"
TRICKLE = {"Content-Type": "application/trickle-ice-sdpfrag"}


@dataclass
class Stage:
    """A server, a good publisher, and a watcher that writes down all events."""

    server: Server
    publisher: subprocess.Popen[str]
    watcher: subprocess.Popen[str]
    events_file: Path

    def events(self, stream: str) -> list[AnyEvent]:
        """Return what the watcher saw of the last session of a stream so far."""
        lines = self.events_file.read_bytes().splitlines(keepends=True)
        events = [decode(line) for line in lines if line.endswith(b"\n")]
        started = [e for e in events if isinstance(e, SessionStarted) and e.stream == stream]
        if not started:
            return []
        return [event for event in events if event.session_id == started[-1].session_id]

    def wait(self, stream: str, kind: type, count: int = 1, seconds: float = 30) -> list[Any]:
        """Wait until so many events of a kind were seen; return them."""

        def seen() -> list[AnyEvent]:
            return [event for event in self.events(stream) if isinstance(event, kind)]

        until(lambda: len(seen()) >= count, seconds)
        return seen()


def background(server: Server, *arguments: str, out: Path) -> subprocess.Popen[str]:
    with out.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", *arguments],
            cwd=ROOT,
            env=environment(server.runtime),
            stdout=file,
            stderr=subprocess.STDOUT if out.suffix == ".txt" else None,
            text=True,
        )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    server = launch(tmp_path_factory.mktemp("server"))
    seen = server.runtime / "events.jsonl"
    watcher = background(server, "watch", server.events, "--json", out=seen)
    publisher = background(
        server,
        *("push", str(SAMPLE), "--to", server.whip(GOOD), "--loop"),
        out=server.runtime / "push.txt",
    )
    set_up = Stage(server, publisher, watcher, seen)
    try:
        set_up.wait(GOOD, WindowScored, seconds=60)
        yield set_up
    finally:
        for process in (publisher, watcher):
            if process.poll() is None:
                process.kill()
            process.wait()
        if server.process.poll() is None:
            server.process.kill()
        server.over()


@pytest.fixture(scope="module")
def offer() -> str:
    async def made() -> str:
        publisher = Publisher("", Tone(), Card())
        try:
            return await publisher.offer()
        finally:
            await publisher.close()

    return asyncio.run(made())


@pytest.fixture(scope="module")
def offer_with_data() -> str:
    async def made() -> str:
        peer = RTCPeerConnection()
        peer.createDataChannel("chat")
        peer.addTransceiver(Tone(), direction="sendonly")
        try:
            await peer.setLocalDescription(await peer.createOffer())
            return peer.localDescription.sdp
        finally:
            await peer.close()

    return asyncio.run(made())


_numbers = itertools.count(1)


def stranger() -> tuple[str, int]:
    """Return an address of this machine that nobody has used: wrong tokens hold an address back."""
    number = next(_numbers)
    return f"127.1.{number // 250}.{number % 250 + 1}", 0


async def ask(
    method: str,
    url: str,
    headers: dict[str, str],
    body: Any = None,
    source: tuple[str, int] | None = None,
) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=source)) as http,
        http.request(method, URL(url, encoded=True), headers=headers, data=body) as response,
    ):
        text = await response.text()
        problem = response.content_type == "application/problem+json"
        return response.status, json.loads(text) if problem else text


def refused(answer: tuple[int, Any], status: int, code: str) -> None:
    got, problem = answer
    assert (got, problem["code"]) == (status, code), problem
    assert 15 < len(problem["detail"]) < 300
    assert "Traceback" not in problem["detail"]


def third_section(sdp: str) -> str:
    """Offer the last section once more under a name of its own."""
    last = sdp[sdp.rindex("m=") :]
    mid = re.findall(r"a=mid:(\S+)", sdp)[-1]
    return sdp + last.replace(f"a=mid:{mid}\r\n", "a=mid:9\r\n")


OFFERS = {
    "garbage": (lambda sdp: f"hello {CANARY}", 400, "bad_sdp"),
    "empty": (lambda sdp: "", 400, "bad_sdp"),
    "binary": (lambda sdp: bytes(range(256)), 400, "bad_sdp"),
    "not utf-8": (lambda sdp: sdp.encode() + b"a=\xff\xfe\r\n", 400, "bad_sdp"),
    "cut in a line": (lambda sdp: sdp[:-20] + "\r\nb", 400, "bad_sdp"),
    "huge": (lambda sdp: sdp + "a=x\r\n" * 20_000, 413, "body_too_large"),
    "one long line": (lambda sdp: sdp + "a=" + "x" * 9_000 + "\r\n", 400, "bad_sdp"),
    "no media": (lambda sdp: sdp[: sdp.index("m=")], 422, "unusable_sdp"),
    "two videos": (third_section, 422, "unusable_sdp"),
    "many sections": (lambda sdp: sdp + "m=audio 9 X 0\r\n" * 400, 422, "unusable_sdp"),
    "recvonly": (lambda sdp: sdp.replace("sendonly", "recvonly"), 422, "unusable_sdp"),
    "inactive": (lambda sdp: sdp.replace("sendonly", "inactive"), 422, "unusable_sdp"),
    "no bundle": (lambda sdp: re.sub("a=group:.*\r\n", "", sdp), 422, "unusable_sdp"),
    "no mux": (lambda sdp: sdp.replace("a=rtcp-mux\r\n", ""), 422, "unusable_sdp"),
    "no fingerprint": (lambda sdp: re.sub("a=fingerprint.*\r\n", "", sdp), 422, "unusable_sdp"),
    "no ice": (lambda sdp: re.sub("a=ice-ufrag.*\r\n", "", sdp), 422, "unusable_sdp"),
    "no codec": (lambda sdp: re.sub("a=rtpmap.*\r\n", "", sdp), 406, "no_common_codec"),
    "unknown codec": (lambda sdp: re.sub("VP8|H264", "AV1", sdp), 406, "no_common_codec"),
}


@pytest.mark.parametrize("name", OFFERS)
async def test_offers(stage: Stage, offer: str, name: str) -> None:
    change, status, code = OFFERS[name]
    url = stage.server.whip(f"bad-{CANARY}")
    refused(await ask("POST", url, AUTH | SDP_TYPE, change(offer)), status, code)


async def test_data_channels(stage: Stage, offer_with_data: str) -> None:
    url = stage.server.whip(f"bad-{CANARY}")
    refused(await ask("POST", url, AUTH | SDP_TYPE, offer_with_data), 422, "unusable_sdp")


TOKEN = {"Authorization": f"Bearer {CANARY}"}
NOT_TEXT = {"Authorization": "Bearer d\xe9v"}
STRANGERS = ({}, TOKEN, NOT_TEXT, AUTH | {"X-Forwarded-For": "10.0.0.1"}, AUTH | {"Forwarded": "x"})


@pytest.mark.parametrize("headers", STRANGERS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/whip/x"),
        ("DELETE", "/whip/x/y"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/sessions/ses_x"),
        ("GET", "/v1/sessions/ses_x/events"),
        ("GET", "/v1/events"),
    ],
)
async def test_tokens(stage: Stage, offer: str, method: str, path: str, headers: dict) -> None:
    headers = headers | SDP_TYPE
    answer = await ask(method, stage.server.http + path, headers, offer, stranger())
    refused(answer, 401, "unauthorised")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("POST", f"/whip/{GOOD}", SDP_TYPE, 409, "stream_live"),
        ("POST", "/whip/x", {}, 415, "wrong_content_type"),
        ("POST", "/whip/x", {"Content-Type": "application/json"}, 415, "wrong_content_type"),
        ("POST", f"/whip/{CANARY}.x", SDP_TYPE, 400, "bad_stream_name"),
        ("POST", f"/whip/{'x' * 65}", SDP_TYPE, 400, "bad_stream_name"),
        ("POST", "/whip/..%2f", SDP_TYPE, 400, "bad_stream_name"),
        ("POST", f"/whip/x?token={CANARY}", SDP_TYPE, 400, "token_in_url"),
        ("POST", f"/whip/x?meta.UP={CANARY}", SDP_TYPE, 400, "bad_meta"),
        ("POST", f"/whip/x?meta.a={'x' * 2000}", SDP_TYPE, 400, "bad_meta"),
        ("PUT", "/whip/x", SDP_TYPE, 405, "method_not_allowed"),
        ("DELETE", f"/whip/x/{CANARY}", {}, 404, "no_such_resource"),
        ("PATCH", f"/whip/x/{CANARY}", TRICKLE | {"If-Match": "*"}, 404, "no_such_resource"),
        ("POST", "/whip", SDP_TYPE, 404, "not_found"),
        ("GET", f"/{CANARY}", {}, 404, "not_found"),
        ("GET", "/../pyproject.toml", {}, 404, "not_found"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", {}, 404, "not_found"),
        ("GET", "/index.html%00", {}, 404, "not_found"),
        ("POST", "/v1/sessions", {}, 405, "method_not_allowed"),
        ("GET", f"/v1/sessions/{CANARY}", {}, 404, "no_such_session"),
        ("GET", f"/v1/sessions/{CANARY}/events", {}, 404, "no_such_session"),
        ("DELETE", f"/v1/sessions/{CANARY}", {}, 404, "no_such_session"),
        ("GET", f"/v1/sessions?sort={CANARY}", {}, 400, "bad_sort"),
        ("GET", "/v1/sessions?limit=-1", {}, 400, "bad_query"),
        ("GET", f"/v1/events?max_hz={CANARY}", {}, 400, "bad_query"),
        ("GET", "/v1/sessions", {"Host": "elsewhere.example"}, 403, "bad_host"),
    ],
)
async def test_requests(
    stage: Stage,
    offer: str,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    headers = AUTH | headers
    answer = await ask(method, stage.server.http + path, headers, offer)
    refused(answer, status, code)


@pytest.mark.parametrize(
    "lines",
    [
        b"\x16\x03\x01 this is TLS",
        b"%s\r\n\r\n" % CANARY.encode(),
        b"GET / HTTP/1.1\r\nAuthorization: %s\r\n\r\n" % (CANARY.encode() * 1000),
        b"POST /whip/%s%s HTTP/1.1\r\n\r\n" % (CANARY.encode(), b"x" * 9000),
        b"POST /whip/x HTTP/1.1\r\nContent-Length: %s\r\n\r\n" % CANARY.encode(),
    ],
)
@pytest.mark.parametrize("door", ["http", "events"])
async def test_what_is_no_request(stage: Stage, door: str, lines: bytes) -> None:
    url = URL(getattr(stage.server, door))
    reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
    writer.write(lines)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer == b"" or re.match(rb"HTTP/1\.[01] 4", answer)


def message(**fields: Any) -> str:
    return json.dumps(fields)


@pytest.mark.parametrize(
    ("headers", "sent", "code", "error"),
    [
        (TOKEN, [], 4401, "unauthorised"),
        (NOT_TEXT, [], 4401, "unauthorised"),
        (AUTH | {"X-Forwarded-For": "10.0.0.1"}, [], 4401, "unauthorised"),
        (AUTH | {"Origin": "http://elsewhere.example"}, [], 4403, "origin"),
        ({}, [message(type="auth", token=CANARY)], 4401, "unauthorised"),
        ({}, [message(type="auth", token="d\xe9v")], 4401, "unauthorised"),
        ({}, [message(type="subscribe")], 4401, "unauthorised"),
        ({}, [], 4401, "auth_timeout"),
        (AUTH, [f"hello {CANARY}"], 4400, "bad_message"),
        (AUTH, ["[1]"], 4400, "bad_message"),
        (AUTH, ["[" * 2000], 4400, "bad_message"),
        (AUTH, [b"\x00\xff"], 4400, "bad_message"),
        (AUTH, ["{}"], 4400, "bad_message"),
        (AUTH, [message(type=CANARY)], 4400, "bad_message"),
        (AUTH, [message(type="subscribe", sessions=5)], 4400, "bad_message"),
        (AUTH, [message(type="subscribe", max_hz=-1)], 4400, "bad_message"),
        (AUTH, [message(type="subscribe", sessions=[CANARY])], 4404, "no_such_session"),
        (AUTH, [message(type="ping")] * 60, 4529, "rate_limited"),
        (AUTH, ["x" * 5000], 1009, None),
    ],
)
async def test_socket_messages(
    stage: Stage, headers: dict[str, str], sent: list[str | bytes], code: int, error: str | None
) -> None:
    origin = headers.get("Origin")
    more = {name: value for name, value in headers.items() if name != "Origin"}
    said: list[dict[str, Any]] = []
    url, mine = stage.server.events, stranger()
    async with connect(url, additional_headers=more, origin=origin, local_addr=mine) as socket:
        try:
            for each in sent:
                await socket.send(each)
            async for text in socket:
                said.append(json.loads(text))  # noqa: PERF401 - what came before the close counts
        except ConnectionClosed:
            pass
    assert socket.close_code == code
    if error:
        last = [each for each in said if each["type"] == "error"][-1]
        assert (last["code"], last["fatal"]) == (error, True)
        assert last["message"] == socket.close_reason


@pytest.mark.parametrize(
    ("path", "protocols", "status"),
    [("/nothing", None, 404), ("/v1/events", ["other.v9"], 400)],
)
async def test_socket_handshakes(stage: Stage, path: str, protocols: Any, status: int) -> None:
    url = str(URL(stage.server.events).with_path(path))
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, subprotocols=protocols, additional_headers=AUTH)
    assert caught.value.response.status_code == status
    assert b"/v1/events" in caught.value.response.body or b"v1.json" in caught.value.response.body


@asynccontextmanager
async def published(stage: Stage, stream: str, *tracks: Any) -> AsyncIterator[None]:
    """Publish while inside, then delete the session and see its end."""
    publisher = Publisher(stage.server.whip(stream), *tracks)
    async with aiohttp.ClientSession() as http:
        try:
            await publisher.publish(http)
            yield
            for status in (200, 404):
                async with http.delete(publisher.location, headers=AUTH) as response:
                    assert response.status == status
            await seen(stage, stream, SessionEnded)
        finally:
            await publisher.close()


async def seen(stage: Stage, stream: str, kind: type, count: int = 1) -> list[Any]:
    return await asyncio.to_thread(stage.wait, stream, kind, count)


async def test_sound_alone(stage: Stage) -> None:
    async with published(stage, "sound", Tone()):
        (started,) = await seen(stage, "sound", SessionStarted)
        assert started.participants[0].tracks == ["audio"]
        window = (await seen(stage, "sound", WindowScored | Skipped))[0]
        assert (window.evidence.video.used, window.evidence.video.quality) == (False, None)


async def test_pictures_alone_without_a_face(stage: Stage) -> None:
    async with published(stage, "pictures", Card()):
        (started,) = await seen(stage, "pictures", SessionStarted)
        assert started.participants[0].tracks == ["video"]
        window = (await seen(stage, "pictures", Skipped))[0]
        assert (window.reason, window.state) == ("no_evidence", "no_evidence")
        assert window.evidence.audio.used is False


async def test_muted_and_black(stage: Stage) -> None:
    from aiortc import VideoStreamTrack
    from aiortc.mediastreams import AudioStreamTrack

    async with published(stage, "dark", AudioStreamTrack(), VideoStreamTrack()):
        window = (await seen(stage, "dark", Skipped, 2))[-1]
        assert window.reason == "no_evidence"
        assert window.evidence.audio.reason in {"muted", "silent"}
        assert window.evidence.video.used is False


async def test_a_track_that_never_sends(stage: Stage) -> None:
    class Never(Card):
        async def recv(self) -> Any:
            await asyncio.Event().wait()

    async with published(stage, "half", Tone(), Never()):
        windows = await seen(stage, "half", WindowScored | Skipped, 2)
        assert all(not window.evidence.video.used for window in windows)
    (ended,) = await seen(stage, "half", SessionEnded)
    assert ended.coverage.video == 0


async def test_pictures_that_change_their_size(stage: Stage) -> None:
    card = Card(320, 180)
    async with published(stage, "sizes", Tone(), card):
        for size in ((1280, 720), (180, 320)):
            frames = card.frames
            before = len(await seen(stage, "sizes", WindowScored | Skipped))
            card.size = size
            await seen(stage, "sizes", WindowScored | Skipped, before + 3)
            assert card.frames > frames
    windows = [e for e in stage.events("sizes") if isinstance(e, WindowScored | Skipped)]
    assert [window.window.index for window in windows] == list(range(len(windows)))
    assert {e.reason for e in windows if isinstance(e, Skipped)} <= {"no_evidence"}


async def test_a_second_publisher_of_a_live_stream(stage: Stage) -> None:
    done = await asyncio.to_thread(
        demeanor,
        *("push", str(SAMPLE), "--to", stage.server.whip(GOOD), "--duration", "1"),
        runtime=stage.server.runtime,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "(409)" in line
    assert "choose another name" in line


def test_a_publisher_that_vanishes(stage: Stage) -> None:
    vanishing = background(
        stage.server,
        *("push", str(SAMPLE), "--to", stage.server.whip("gone")),
        out=stage.server.runtime / "gone.txt",
    )
    stage.wait("gone", WindowScored | Skipped, seconds=60)
    (sender,) = children(vanishing.pid)
    os.kill(sender, signal.SIGKILL)
    vanishing.kill()
    vanishing.wait()
    (gap,) = stage.wait("gone", Gap)
    assert (gap.kind, gap.cause) == ("media", "no_media")
    (ended,) = stage.wait("gone", SessionEnded, seconds=60)
    assert ended.reason == "timeout"


def test_the_good_stream_never_noticed(stage: Stage) -> None:
    stage.publisher.send_signal(signal.SIGINT)
    assert stage.publisher.wait(timeout=30) == 0
    (ended,) = stage.wait(GOOD, SessionEnded)
    assert ended.reason in {"publisher_left", "deleted"}
    events = stage.events(GOOD)
    assert [event.seq for event in events] == list(range(len(events)))
    windows = [event for event in events if isinstance(event, WindowScored | Skipped)]
    assert [window.window.index for window in windows] == list(range(len(windows)))
    assert ended.counts.scored + sum(ended.counts.skipped.values()) == len(windows)
    assert not [event for event in events if isinstance(event, Gap)]
    stage.watcher.send_signal(signal.SIGINT)
    assert stage.watcher.wait(timeout=30) == 0


def test_nothing_stays_and_nothing_was_told(stage: Stage) -> None:
    left = children(stage.server.process.pid)
    assert stage.server.stop() == 0
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]
    assert not list(stage.server.runtime.glob("demeanor/bus-*"))
    log = (stage.server.runtime / "server.log").read_text()
    for word in (CANARY, GOOD, "sizes", "Traceback", "happy", "angry"):
        assert word not in log
    assert {json.loads(line)["level"] for line in log.splitlines()} <= {"info", "warning", "error"}
