"""Real publishers against the real endpoint: peers in this process, FFmpeg's muxer in another."""

import asyncio
import re
import sys
import threading

import numpy as np
import pytest

from pipeline.events import Gap, SessionStarted
from tests.services.ingest import muxer
from tests.services.ingest.support import (
    AUTH,
    SDP_TYPE,
    Card,
    DirectScoring,
    ManualClock,
    Publisher,
    Tone,
    publishing,
    serving,
)


def _windows(server, number=0):
    session_id = list(server.sinks)[number]
    return server.scoring.windows[session_id]


async def _some_windows(server, count=3, number=0):
    sink = server.sink(number)
    await sink.until(lambda sink: len(sink.windows) >= count)
    return _windows(server, number)


def _pitch_hz(window):
    sound = window.audio[-32000:].astype(float)
    return float(np.argmax(np.abs(np.fft.rfft(sound)))) / 2


@pytest.mark.parametrize("codec", ["video/VP8", "video/H264"])
async def test_sound_and_pictures_arrive_whole(server, codec):
    async with publishing(server, Tone(), Card(), codec=codec):
        first, *windows = await _some_windows(server, 4)
        # The tracks begin some packets apart, so the very first slot may lack the start of one.
        assert first.audio_coverage[1:] == (1.0, 1.0, 1.0)
        for window in windows[:3]:
            assert window.audio_coverage == (1.0, 1.0, 1.0, 1.0)
            assert len(window.frames) == 8
            assert window.frames[0].rgb.shape == (180, 320, 3)
            assert abs(_pitch_hz(window) - 440) < 2
            levels = [float(frame.rgb.mean()) for frame in window.frames]
            assert levels == sorted(levels)
        (publication,) = server.whip.publications()
        assert not publication.half_open
        assert publication.statistics().corrupt == {"audio": 0, "video": 0}
    await server.sink().until(lambda sink: sink.closed)
    assert server.sink().ended == "publisher_left"
    assert [event.seq for event in server.sink().events] == list(range(len(server.sink().events)))


@pytest.mark.parametrize("codec", ["audio/PCMU", "audio/PCMA", "audio/G722"])
async def test_telephone_codecs(server, codec):
    async with publishing(server, Tone(), codec=codec):
        (window, *_) = await _some_windows(server, 1)
        assert window.frames is None
        assert window.audio_coverage == (1.0, 1.0, 1.0, 1.0)
        assert abs(_pitch_hz(window) - 440) < 2


async def test_video_only(server):
    async with publishing(server, Card()):
        (window, *_) = await _some_windows(server, 1)
        assert window.audio is None
        assert len(window.frames) == 8
        (started,) = server.sink().of(SessionStarted)
        assert started.participants[0].tracks == ["video"]


@pytest.mark.parametrize("codec", ["video/VP8", "video/H264"])
async def test_the_picture_may_change_its_size(server, codec):
    card = Card(320, 180)
    async with publishing(server, card, codec=codec):
        await _some_windows(server, 1)
        sink = server.sink()
        for size, shape in [((640, 480), (240, 320)), ((360, 640), (568, 320))]:
            card.size = size
            await sink.until(lambda _, shape=shape: shape in _shapes(server), 60)
        (publication,) = server.whip.publications()
        lost = publication.statistics().lost
    assert (180, 320) in _shapes(server)
    assert "size_changes" not in lost


def _shapes(server):
    return {frame.rgb.shape[:2] for window in _windows(server) for frame in window.frames}


async def test_two_publishers_do_not_mix(server):
    async with publishing(server, Tone(), stream="a"), publishing(server, Card(), stream="b"):
        sound = await _some_windows(server, 2, 0)
        pictures = await _some_windows(server, 2, 1)
    assert all(window.frames is None for window in sound)
    assert all(window.audio is None for window in pictures)


async def test_names_instead_of_addresses_in_the_offer(server, http):
    """A page without camera permission hides its addresses behind ``.local`` names."""
    publisher = Publisher(server.endpoint(), Tone())

    def hide(sdp):
        return re.sub(
            r"(a=candidate:\S+ \d udp \d+) \S+ (\d+)",
            r"\1 0b54c9a1-0c3b-4a0e-9ac1-2f6a1ed6ed12.local \2",
            sdp,
        )

    try:
        await publisher.publish(http, hide)
        await _some_windows(server, 1)
    finally:
        await publisher.close()


async def test_no_address_that_the_offer_names_is_ever_probed(server, http):
    heard = []

    class Sniffer(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            heard.append((data, addr))

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Sniffer, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    named = "".join(
        f"a=candidate:{number} 1 udp {9999 - number} 127.0.0.1 {port} typ host\r\n"
        for number in range(100)
    )
    publisher = Publisher(server.endpoint(), Tone())
    try:
        await publisher.publish(http, lambda sdp: re.sub(r"(a=candidate:.*\r\n)+", named, sdp))
        await _some_windows(server, 1)
    finally:
        await publisher.close()
        transport.close()
    assert heard == []


async def test_simulcast_is_left_out_of_the_answer(server, http):
    publisher = Publisher(server.endpoint(), Card())
    lines = "a=rid:h send\r\na=rid:l send\r\na=simulcast:send h;l\r\n"
    try:
        answer = await publisher.publish(http, lambda sdp: sdp + lines)
        assert "simulcast" not in answer
        assert "rid" not in answer
        await _some_windows(server, 1)
    finally:
        await publisher.close()


async def test_no_thread_stays_behind_and_none_is_needed_per_track(server):
    before = {thread.name for thread in threading.enumerate()}
    async with publishing(server, Tone(), Card()):
        await _some_windows(server, 1)
        names = [thread.name for thread in threading.enumerate()]
        receiving = [name for name in names if name.endswith("-decoder")]
        assert receiving == []
    await server.sink().until(lambda sink: sink.closed)
    left = {thread.name for thread in threading.enumerate()} - before
    assert all(name.startswith(("decoder", "asyncio", "ThreadPool")) for name in left)


OF_A_PUBLISHER = (
    *("udp_socket", "ice_rx", "jitter", "decoder_in", "decoded_video", "decoded_audio"),
    "sequencer",
)


async def test_queues_are_registered_while_the_publisher_lives(server):
    async with publishing(server, Tone()):
        await _some_windows(server, 1)
        live = {q.kind.name: q.instances for q in server.whip.queues.statistics()}
        (publication,) = server.whip.publications()
    await publication.finished.wait()
    assert live == dict.fromkeys(OF_A_PUBLISHER, 1) | {"decoder_batches": 1}
    gone = {q.kind.name: q.instances for q in server.whip.queues.statistics()}
    assert gone == dict.fromkeys(OF_A_PUBLISHER, 0) | {"decoder_batches": 1}


async def test_a_session_ends_by_id_and_by_its_sink(server):
    async with publishing(server, Tone(), stream="a"), publishing(server, Tone(), stream="b"):
        first, second = server.sinks
        assert server.whip.end(first)
        assert not server.whip.end("ses_unknown")
        server.openings[1][1]("fenced")
        for sink in server.sinks.values():
            await sink.until(lambda sink: sink.closed)
    assert [server.sinks[name].ended for name in (first, second)] == ["deleted", "owner_lost"]


async def test_leaving_the_endpoint_ends_everybody(http):
    async with serving() as server:
        publisher = Publisher(server.endpoint(), Tone())
        await publisher.publish(http)
        await _some_windows(server, 1)
    assert server.sink().ended == "drained"
    assert server.sink().closed
    await publisher.close()


class Watched:
    """An endpoint whose clock is moved by hand and whose deadlines are looked at on demand."""

    def __init__(self, server, clock):
        self.server, self.clock = server, clock

    def at(self, now_s):
        self.clock.now_s = now_s
        for publication in self.server.whip.publications():
            publication.check()


async def test_a_publisher_that_never_connects_is_let_go(http):
    clock = ManualClock()
    async with serving(clock=clock) as server:
        publisher = Publisher(server.endpoint(), Tone())
        sdp = await publisher.offer()
        await publisher.close()
        async with http.post(publisher.url, data=sdp, headers=AUTH | SDP_TYPE) as response:
            assert response.status == 201
        watched = Watched(server, clock)
        watched.at(9.9)
        assert server.whip.statistics().half_open == 1
        watched.at(10.0)
        await server.sink().until(lambda sink: sink.closed)
        assert server.sink().ended == "timeout"


async def test_a_publisher_that_falls_silent(http):
    clock = ManualClock()
    async with serving(clock=clock, scoring=DirectScoring(clock=clock)) as server:
        tone = Tone()
        publisher = Publisher(server.endpoint(), tone)
        await publisher.publish(http)
        sink = server.sink()
        await sink.until(lambda sink: len(sink.windows) >= 1)
        tone.gate.clear()
        (publication,) = server.whip.publications()
        watched = Watched(server, clock)
        watched.at(10.0)
        assert [gap.cause for gap in sink.of(Gap)] == ["no_media"]
        assert publication.stale
        watched.at(30.0)
        await sink.until(lambda sink: sink.closed)
        assert sink.ended == "timeout"
        await publisher.close()


async def _status(http, url, sdp):
    async with http.post(url, data=sdp, headers=AUTH | SDP_TYPE) as response:
        return response.status


async def test_a_silent_publisher_gives_its_name_to_the_next(http):
    clock = ManualClock()
    async with serving(clock=clock) as server:
        tone = Tone()
        first = Publisher(server.endpoint(), tone)
        await first.publish(http)
        await server.sink().until(lambda sink: len(sink.windows) >= 1)
        tone.gate.clear()
        clock.now_s = 5.0
        second = Publisher(server.endpoint(), Tone())
        sdp = await second.offer()
        while (status := await _status(http, second.url, sdp)) == 409:
            clock.now_s += 5.0  # a packet was still on its way when the clock moved
        assert status == 201
        assert clock.now_s < 25.0
        assert server.sink(0).ended == "timeout"
        assert server.whip.statistics().live == 1
        await first.close()
        await second.close()


async def _mux(server, kinds, *options, stream="ffmpeg"):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        muxer.__file__,
        server.endpoint(stream),
        kinds,
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.fixture
def certificate(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from tests.services.ingest.support import self_signed

    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "cert.pem").write_bytes(self_signed(key).public_bytes(serialization.Encoding.PEM))
    return f"cert_file={tmp_path / 'cert.pem'}", f"key_file={tmp_path / 'key.pem'}"


@pytest.mark.parametrize(("kinds", "tracks"), [("av", 2), ("a", 1), ("v", 1)])
async def test_ffmpegs_muxer(server, certificate, kinds, tracks):
    code, output = await _mux(server, kinds, *certificate)
    assert code == 0, output
    await server.sink().until(lambda sink: sink.closed)
    assert server.sink().ended == "publisher_left"
    windows = _windows(server)
    assert len(windows) >= 2
    if "v" in kinds:
        assert [len(window.frames) for window in windows[:2]] == [8, 8]
    if "a" in kinds:
        assert windows[0].audio_coverage == (1.0, 1.0, 1.0, 1.0)
        assert abs(_pitch_hz(windows[0]) - 440) < 2
    (started,) = server.sink().of(SessionStarted)
    assert len(started.participants[0].tracks) == tracks


async def test_ffmpeg_with_its_own_certificate_leaves_a_hint(server, capsys):
    code, _ = await _mux(server, "a")
    if code == 0:
        pytest.skip("this FFmpeg makes a P-256 certificate by itself")
    await server.sink().until(lambda sink: sink.closed)
    assert server.sink().ended == "timeout"
    printed = capsys.readouterr()
    assert "P-256" in printed.out + printed.err
