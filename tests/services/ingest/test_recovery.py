"""Pictures after a loss that no retransmission mends, and frames that leave on their marker.

A real publisher and the real peer; what is lost is lost between SRTP and the socket of the sender.
"""

import asyncio
import struct
import time
from contextlib import suppress
from itertools import pairwise

import pytest
from aiortc import RTCSessionDescription

from services.ingest.peer import Peer
from services.ingest.publication import FLOOD_PACKETS, FLOOD_S, Flood
from services.ingest.sdp import parse
from tests.chaos.holes import media, pairs
from tests.chaos.holes.attacks import published, stream
from tests.services.ingest.support import AUTH, SDP_TYPE, Card, ManualClock, Publisher, serving

PACE_S = 1 / 30


class Lossy:
    """Loses one packet of the publisher's video, and each time it is sent again."""

    def __init__(self, publisher, frame):
        self.lost = 0
        self.timestamp = None
        self._frame = frame
        self._seen = []
        self._gone = None
        self._link = publisher.getTransceivers()[0].sender.transport
        self._theirs = self._link._send_rtp
        self._link._send_rtp = self._send

    async def _send(self, data):
        if self._loses(data):
            self.lost += 1
        else:
            await self._theirs(data)

    def _loses(self, data):
        kind, number, timestamp = struct.unpack_from("!BHI", data, 1)
        if 192 <= kind <= 223:
            return False  # RTCP
        if self._gone is None:
            if timestamp not in self._seen:
                self._seen.append(timestamp)
            if len(self._seen) <= self._frame:
                return False
            self._gone, self.timestamp = (kind & 0x7F, number), timestamp
            return True
        if kind & 0x7F == self._gone[0]:
            return number == self._gone[1]
        return data[12:14] == struct.pack("!H", self._gone[1])  # RFC 4588 §4


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_pictures_are_back_within_300_ms_of_media(codec):
    publisher = Publisher("", Card(320, 180), codec=f"video/{codec}")
    sdp = await publisher.offer()
    heard = pairs.Heard()
    peer = Peer(
        parse(sdp.encode()),
        heard.callbacks(),
        ports=pairs.PORTS,
        addresses=("127.0.0.1",),
        ice_servers=(),
        now=time.monotonic,
    )
    lossy = Lossy(publisher.peer, frame=12)
    try:
        answer = RTCSessionDescription(await peer.answer(), "answer")
        await publisher.peer.setRemoteDescription(answer)
        async with asyncio.timeout(60):
            while len(heard.frames) < 40:
                await asyncio.sleep(0.02)
    finally:
        await publisher.close()
        await peer.close()
    assert lossy.lost >= 1
    frames = [((frame.timestamp - lossy.timestamp) % 2**32, frame) for *_, frame in heard.frames]
    after = [(at, frame) for at, frame in frames if at < 2**31]
    assert 0 < after[0][0] <= 0.3 * 90_000
    assert after[0][1].key
    assert all(2990 <= later - at <= 3010 for (at, _), (later, _) in pairwise(after))


async def test_a_frame_leaves_on_its_marker():
    """No later frame is needed: one frame is sent, alone, and comes."""
    (data, _), *_ = media.good("VP8", 1)
    async with pairs.connected(codec="VP8") as pair:
        half = len(data) // 2
        await pair.send(1, 0, b"\x10" + data[:half], marker=0)
        await pair.drained()
        assert pair.heard.frames == []
        await pair.send(2, 0, b"\x00" + data[half:], marker=1)
        async with asyncio.timeout(20):
            while not pair.heard.frames:
                await asyncio.sleep(0.01)
        ((kind, codec, clock_hz, frame),) = pair.heard.frames
        assert (kind, codec, clock_hz, frame.data) == ("video", "VP8", 90_000, data)


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_pictures_that_are_too_large_end_the_session(codec, http):
    bombs = [media.vp8_key(8000, 8000)] if codec == "VP8" else media.h264(4096, 2304, 1)
    async with serving() as server:
        async with published(server, "video", codec) as (pair, publication):
            head = b"\x10" if codec == "VP8" else b""
            body = bombs[0] if codec == "VP8" else _parameters(bombs[0])
            for number in range(30):
                if publication.finished.is_set():
                    break
                with suppress(ConnectionError):  # it was thrown out between the two lines
                    await pair.send(number, number * 9000, head + body)
                await asyncio.sleep(PACE_S)
            async with asyncio.timeout(30):
                await publication.finished.wait()
            assert publication.statistics().oversized >= 3
        assert server.sink().ended == "bad_media"
        async with http.post(server.endpoint(), headers=AUTH | SDP_TYPE) as response:
            assert response.status == 429
            assert (await response.json())["code"] == "bad_media"


async def test_large_pictures_faster_than_any_camera_are_not_decoded():
    clock = ManualClock()
    async with (
        serving(clock=clock) as server,
        published(server, "video", "VP8") as (pair, publication),
    ):
        (key, _), (later, _) = media.good("VP8", 2, (1920, 1080))
        await stream(pair, [key, *[later] * 300])
        lost = publication.statistics().lost
        assert lost["too_many_pixels"] > 0


async def test_a_publisher_that_floods_for_five_seconds_is_ended(monkeypatch):
    monkeypatch.setattr("services.ingest.whip.CHECK_S", 1000)  # seconds pass here as told below
    clock = ManualClock()
    async with serving(clock=clock, rtp_packets_per_s=100) as server:
        async with published(server, "video", "VP8") as (pair, publication):
            for second in range(FLOOD_S):
                assert publication.reason is None
                for number in range(FLOOD_PACKETS + 150):
                    await pair.send(second * 1000 + number, 0, b"\x10\x11flood")
                await pair.drained()
                clock.now_s += 1
                publication.check()
            async with asyncio.timeout(30):
                await publication.finished.wait()
        assert server.sink().ended == "bad_media"


def test_a_flood_that_ends_in_time_is_forgiven():
    flood, refused = Flood(), 0
    for grown in [FLOOD_PACKETS] * (FLOOD_S - 1) + [FLOOD_PACKETS - 1] + [FLOOD_PACKETS] * 4:
        refused += grown
        assert not flood.lasts(refused)
    assert flood.lasts(refused + FLOOD_PACKETS)


async def test_small_pictures_may_come_faster():
    async with serving() as server, published(server, "video", "VP8") as (pair, publication):
        (key, _), (later, _) = media.good("VP8", 2)
        await stream(pair, [key, *[later] * 300])
        assert "too_many_pixels" not in publication.statistics().lost


def _parameters(frame):
    """Return the parameter set of an H.264 frame as one RTP payload (RFC 6184 §5.6)."""
    return next(part for part in frame.split(b"\0\0\0\1") if part[:1] and part[0] & 31 == 7)
