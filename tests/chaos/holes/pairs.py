"""A publisher and our receiving peer in one process, and hands to send anything through them."""

import asyncio
import os
import socket
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiortc import (
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import RtpPacket

from services.ingest.ice import Ports
from services.ingest.peer import Callbacks, Peer
from services.ingest.sdp import parse

PORTS = Ports(41700, 41899)
CONNECT_S = 30.0
ADDRESS = "127.0.0.1"


class Still(MediaStreamTrack):
    """A track that never gives anything: what is sent, the test sends by hand."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    async def recv(self):
        await asyncio.Event().wait()


@dataclass
class Heard:
    """What the peer told its owner."""

    frames: list = field(default_factory=list)
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def callbacks(self):
        return Callbacks(
            frame=lambda *frame: self.frames.append(frame),
            report=lambda *_: None,
            connected=self.connected.set,
            closed=lambda _left: self.closed.set(),
        )


@dataclass
class Pair:
    """Both ends of one call."""

    publisher: RTCPeerConnection
    peer: Peer
    heard: Heard
    payload_type: int
    port: int = 0
    """Our UDP port."""

    @property
    def link(self):
        """The publisher's DTLS transport."""
        return self.publisher.getTransceivers()[0].sender.transport

    @property
    def receiver(self):
        return self.peer._connection.getTransceivers()[0].receiver

    @property
    def transport(self):
        """Our DTLS transport."""
        return self.receiver.transport

    async def send(self, sequence, timestamp, payload, *, ssrc=1111, marker=1):
        """Send one RTP packet, encrypted as the publisher's own."""
        packet = RtpPacket(
            self.payload_type, marker, sequence % 65536, timestamp % 2**32, ssrc, payload
        )
        await self.link._send_rtp(packet.serialize())

    def send_raw(self, data):
        """Send bytes, or none, as they are from the publisher's own socket."""
        (ours,) = self.link.transport._connection._nominated.values()
        number = ours.protocol.transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(number)) as sender:
            sender.sendto(data, (ADDRESS, self.port))

    async def drained(self, limit_s=20.0):
        """Wait until our side has taken what was sent, or lost it."""
        ended = time.monotonic() + limit_s
        last = -1
        while time.monotonic() < ended:
            await asyncio.sleep(0.1)
            seen = sum(self.counts())
            if seen == last and not self.peer.gathering.waiting:
                return
            last = seen

    def counts(self):
        """Packets that DTLS took, and that were kept out before it."""
        taken = self.transport._RTCDtlsTransport__rx_packets
        return taken, self.peer.gathering.refused.total()


async def offered(kind="video", codec=None):
    """Return a publisher with one silent track, which has offered."""
    publisher = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    transceiver = publisher.addTransceiver(Still(kind), direction="sendonly")
    if codec is not None:
        known = RTCRtpSender.getCapabilities(kind).codecs
        transceiver.setCodecPreferences([c for c in known if c.mimeType == f"{kind}/{codec}"])
    await publisher.setLocalDescription(await publisher.createOffer())
    return publisher


@asynccontextmanager
async def calling(kind="video", codec=None, *, edit=lambda sdp: sdp, late_s=0.0, **given):
    """A publisher that was answered and connects by itself; both ends are closed at the end.

    It takes the answer up ``late_s`` seconds after it was given.
    """
    publisher = await offered(kind, codec)
    heard = Heard()
    offer = parse(edit(publisher.localDescription.sdp).encode())
    peer = Peer(
        offer,
        heard.callbacks(),
        ports=PORTS,
        addresses=(ADDRESS,),
        ice_servers=(),
        now=time.monotonic,
        **given,
    )
    try:
        answer = await peer.answer()
        pair = Pair(publisher, peer, heard, offer.media[0].codecs[0].payload_type)
        pair.port = int(answer.split(" typ host")[0].rpartition(" ")[2])
        await asyncio.sleep(late_s)
        await publisher.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        yield pair
    finally:
        await asyncio.wait_for(publisher.close(), 10)
        await peer.close()


@asynccontextmanager
async def connected(kind="video", codec=None, **given):
    """As :func:`calling`, once media can flow."""
    async with calling(kind, codec, **given) as pair:
        await asyncio.wait_for(pair.heard.connected.wait(), CONNECT_S)
        while pair.publisher.connectionState != "connected":
            await asyncio.sleep(0.01)
        yield pair


class Stalls:
    """The longest time that the event loop was held up while this ran."""

    def __init__(self):
        self.longest_s = 0.0

    async def __aenter__(self):
        self._task = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_):
        await asyncio.sleep(0.02)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _watch(self):
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - last - 0.005)
            last = now


async def decoder_threads(wanted, limit_s=20.0):
    """Return how many of aiortc's decoder threads live, once that is ``wanted`` or time is up."""
    ended = time.monotonic() + limit_s
    while True:
        living = sum(thread.name.endswith("-decoder") for thread in threading.enumerate())
        if living == wanted or time.monotonic() > ended:
            return living
        await asyncio.sleep(0.01)
