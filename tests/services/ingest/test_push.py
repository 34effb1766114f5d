import asyncio
import dataclasses
import io
import socket
import sys
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
from aiohttp import web

from pipeline.errors import UsageError
from services.cli import pushing
from services.cli.exits import Exit
from services.ingest import publisher
from services.ingest.address import addresses
from services.ingest.prepared import Prepared, prepare
from services.ingest.publishing import Closed, Connected, Failed, Job, Progress, Report, encode
from services.ingest.push import Order, ask, destinations, push
from tests.services.ingest.support import serving
from tests.tools.clips import make_clip


def prepared(path: Path) -> Prepared:
    (address,) = addresses(str(path))
    return prepare(address)


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("call")
    return prepared(make_clip(folder / "call.mkv", seconds=4, size=(320, 240), audio="flac"))


class Heard:
    """Collects reports and tells when some kind came from all publishers."""

    def __init__(self) -> None:
        self.reports: dict[int, list[Report]] = {}
        self.changed = asyncio.Condition()
        self.tasks: set[asyncio.Task[None]] = set()

    def take(self, number: int, said: Report) -> None:
        self.reports.setdefault(number, []).append(said)
        task = asyncio.create_task(self._tell())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, kind: type[Report], number: int = 0) -> None:
        def came() -> bool:
            return any(isinstance(said, kind) for said in self.reports.get(number, ()))

        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(came)

    def last(self, number: int = 0) -> Report:
        return self.reports[number][-1]


async def pushed(call: Prepared, *urls: str, **order: object) -> Heard:
    heard = Heard()
    settings = {"token": "dev", **order}
    await push(call, Order(urls=urls, **settings), heard.take, asyncio.Event())
    return heard


def packets(call: Prepared, kind: str) -> list[av.Packet]:
    with av.open(io.BytesIO(call.data)) as container:
        stream = getattr(container.streams, kind)[0]
        return [packet for packet in container.demux(stream) if packet.pts is not None]


def test_a_call_is_baseline_h264_and_stereo_opus_with_a_key_frame_each_second(
    call: Prepared,
) -> None:
    with av.open(io.BytesIO(call.data)) as container:
        video, audio = container.streams.video[0].codec_context, container.streams.audio[0]
        assert (video.name, video.profile) == ("h264", "Constrained Baseline")
        assert not video.has_b_frames
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("opus", 48_000, 2)
    pictures = packets(call, "video")
    assert len(pictures) == 100
    keys = [float(p.pts * p.time_base) for p in pictures if p.is_keyframe]
    assert np.allclose(np.diff(keys), 1.0, atol=0.01)
    steps = np.diff([float(p.pts * p.time_base) for p in packets(call, "audio")])
    assert np.allclose(steps, 0.02, atol=1e-6)
    assert call.tracks == ("audio", "video")
    assert call.duration_s == pytest.approx(4.0, abs=0.05)
    assert not call.copied


def test_a_file_that_is_like_that_already_is_copied(call: Prepared, tmp_path: Path) -> None:
    (tmp_path / "ready.nut").write_bytes(call.data)
    again = prepared(tmp_path / "ready.nut")
    assert again.copied
    first, second = packets(call, "video"), packets(again, "video")
    assert [bytes(p) for p in first] == [bytes(p) for p in second]


@pytest.mark.parametrize(
    "options",
    [
        {"video_options": {"preset": "veryfast", "bf": "2"}},
        {"key_frame_every": 100, "video_options": {"preset": "ultrafast", "bf": "0"}},
        {"size": (2000, 500)},
        {"audio": "libopus"},
    ],
    ids=["b-frames", "rare-key-frames", "wide", "mono-opus"],
)
def test_what_webrtc_cannot_take_is_encoded(tmp_path: Path, options: dict[str, object]) -> None:
    given = {"seconds": 4, "audio": None, "size": (64, 48)} | options
    anew = prepared(make_clip(tmp_path / "call.mkv", **given))
    assert not anew.copied
    if "video" in anew.tracks:
        assert max(packets(anew, "video")[0].stream.codec_context.width, 0) <= 1280


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_one_track_is_enough(tmp_path: Path, kind: str) -> None:
    options = {"audio": None} if kind == "video" else {"video": None, "audio": "flac"}
    assert prepared(make_clip(tmp_path / "one.mkv", seconds=1, **options)).tracks == (kind,)


def test_only_files_are_pushed() -> None:
    with pytest.raises(UsageError, match="push takes a file"):
        prepare(addresses("rtsp://camera.example/hall")[0])


@pytest.mark.parametrize(
    ("to", "clients", "urls"),
    [
        ("http://host:8080/whip/me", 1, ("http://host:8080/whip/me",)),
        ("http://host:8080/", 1, ("http://host:8080/whip/talk",)),
        ("localhost:8080", 1, ("http://localhost:8080/whip/talk",)),
        (
            "https://host/whip/me?meta.queue=a",
            2,
            ("https://host/whip/me-1?meta.queue=a", "https://host/whip/me-2?meta.queue=a"),
        ),
    ],
)
def test_destinations(to: str, clients: int, urls: tuple[str, ...]) -> None:
    assert destinations(to, "talk", clients) == urls


@pytest.mark.parametrize("to", ["ftp://host/x", "http://", "http://host:x/whip/me", "http://[/"])
def test_an_address_that_cannot_be_one_is_wrong_use(to: str) -> None:
    with pytest.raises(UsageError, match="WHIP address"):
        destinations(to, "talk", 1)


async def test_a_call_arrives_at_a_real_server(call: Prepared) -> None:
    async with serving() as server:
        heard = await pushed(call, server.endpoint("cam"))
        kinds = [type(said) for said in heard.reports[0]]
        assert kinds[0] is Connected
        assert kinds[-1] is Closed
        assert Progress in kinds
        closed = heard.last()
        assert (closed.video, closed.deleted) == (100, True)
        assert closed.audio >= 200
        sink = server.sink()
        await sink.until(lambda s: s.ended)
        assert sink.ended in ("deleted", "publisher_left")
        assert len(sink.windows) >= 4


async def test_several_publishers_have_a_stream_each(call: Prepared) -> None:
    async with serving() as server:
        urls = destinations(server.endpoint("cam"), "talk", 2)
        heard = await pushed(call, *urls, duration_s=1.5)
        assert all(isinstance(heard.last(number), Closed) for number in (0, 1))
        assert {opening.stream for opening, _ in server.openings} == {"cam-1", "cam-2"}


async def test_loop_begins_again_and_duration_ends_it(call: Prepared) -> None:
    async with serving() as server:
        heard = await pushed(call, server.endpoint(), loop=True, duration_s=9.0, speed=3.0)
        closed = heard.last()
        assert isinstance(closed, Closed)
        assert closed.media_s == pytest.approx(9.0, abs=0.1)
        assert closed.video == pytest.approx(225, abs=5)


async def test_stop_ends_the_session_in_good_order(call: Prepared) -> None:
    async with serving() as server:
        heard, stop = Heard(), asyncio.Event()
        order = Order(urls=(server.endpoint(),), token="dev", loop=True)
        running = asyncio.create_task(push(call, order, heard.take, stop))
        await heard.until(Progress)
        stop.set()
        await running
        assert isinstance(heard.last(), Closed)
        assert heard.last().deleted
        await server.sink().until(lambda sink: sink.ended)


async def test_a_killed_parent_leaves_no_publisher(call: Prepared) -> None:
    async with serving() as server:
        work = Job(server.endpoint(), "dev", len(call.data), 1.0, True, None, 10_000)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.ingest.publisher",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        child.stdin.write(encode(work) + call.data)
        await child.stdin.drain()
        assert b"connected" in await asyncio.wait_for(child.stdout.readline(), 20)
        child.stdin.close()
        assert await asyncio.wait_for(child.wait(), 20) == 0
        await server.sink().until(lambda sink: sink.ended)


def test_the_certificate_is_there_while_it_is_needed_and_then_gone() -> None:
    for kept in (publisher._in_memory, publisher._in_folder):
        with kept({"key_file": b"secret"}) as paths:
            path = Path(paths["key_file"])
            assert path.read_bytes() == b"secret"
        assert not path.exists()


async def test_a_refusal_is_told_in_the_servers_words(call: Prepared) -> None:
    async with serving() as server:
        url = server.endpoint()
        heard = await pushed(call, url, token="wrong")
        failed = heard.last()
        assert isinstance(failed, Failed)
        assert (failed.failure, failed.status) == ("http", 401)
        sentence = await asyncio.to_thread(pushing.reason, failed, url, "wrong")
        assert "not known here" in sentence
        assert "--token" in sentence


async def test_a_live_stream_is_told(call: Prepared) -> None:
    async with serving() as server:
        url = server.endpoint()
        heard, stop = Heard(), asyncio.Event()
        first = asyncio.create_task(
            push(call, Order(urls=(url,), token="dev", loop=True), heard.take, stop)
        )
        await heard.until(Connected)
        second = await pushed(call, url)
        failed = second.last()
        assert isinstance(failed, Failed)
        sentence = await asyncio.to_thread(pushing.reason, failed, url, "dev")
        assert "(409)" in sentence
        assert "is live" in sentence
        stop.set()
        await first


async def test_a_full_server_is_told() -> None:
    async def full(_: web.Request) -> web.Response:
        problem = {"title": "Busy", "detail": "all 1 streams are in use:\n try again later"}
        headers = {"Retry-After": "7"}
        return web.json_response(
            problem, status=503, headers=headers, content_type="application/problem+json"
        )

    app = web.Application()
    app.router.add_post("/whip/me", full)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/whip/me"
    failed = Failed("http", 500, 0.0, "Server returned 5XX")
    sentence = await asyncio.to_thread(pushing.reason, failed, url, None)
    assert sentence.endswith("in use: try again later – try again in 7 s")
    await runner.cleanup()
    assert await asyncio.to_thread(ask, url, None) is None


async def test_a_server_that_is_not_there(call: Prepared) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/whip/me"
    heard = await pushed(call, url)
    failed = heard.last()
    assert isinstance(failed, Failed)
    assert failed.failure == "refused"
    assert "demeanor up" in pushing.reason(failed, url, None)


async def test_a_server_that_goes_away_is_told(call: Prepared) -> None:
    heard = Heard()
    async with serving() as server:
        order = Order(urls=(server.endpoint(),), token="dev", loop=True)
        running = asyncio.create_task(push(call, order, heard.take, asyncio.Event()))
        await heard.until(Progress)
    await running
    failed = heard.last()
    assert isinstance(failed, Failed)
    assert failed.failure == "lost"
    assert "ended the session" in pushing.reason(failed, "http://host/whip/me", None)


@pytest.mark.slow
async def test_a_session_outlives_the_time_of_ice_consent(call: Prepared) -> None:
    """FFmpeg's muxer answers no consent checks: 30 s later a strict peer hangs up (RFC 7675)."""
    async with serving() as server:
        heard = await pushed(call, server.endpoint(), loop=True, duration_s=42.0)
        assert isinstance(heard.last(), Closed), heard.last()
        assert len(server.sink().windows) >= 78


async def test_the_command_says_what_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = make_clip(tmp_path / "my talk.mkv", seconds=2, audio="flac")
    async with serving() as server:
        wish = pushing.Wish(
            file=file,
            to=server.url,
            loop=False,
            speed=1.0,
            clients=1,
            duration_s=None,
            token_file=None,
            ca=None,
        )
        assert await pushing.publish(wish) is Exit.DONE
        assert [opening.stream for opening, _ in server.openings] == ["my-talk"]
        (tmp_path / "wrong.jwt").write_text("no")
        again = dataclasses.replace(wish, token_file=str(tmp_path / "wrong.jwt"))
        assert await pushing.publish(again) is Exit.FAILED
    said = capsys.readouterr()
    assert "✔ 1 session connected" in said.out
    assert "sent 50 video" in said.out
    assert "✔ 1 session ended (DELETE)" in said.out
    assert "refused the call (401)" in said.err


def test_the_total_counts_each_failure_once() -> None:
    told = pushing.Told(3)
    told.take(0, Failed("http", 401, 0.0, ""))
    told.take(1, Failed("http", 401, 0.0, ""))
    told.take(2, Failed("lost", None, 3.0, ""))
    assert [number for number, _ in told.distinct_failures()] == [0, 2]
    assert "3 sessions failed" in told.ending()
