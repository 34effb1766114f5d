"""One publisher's WebRTC connection: an offer in, encoded frames and sender reports out.

The door to aiortc. Its receivers keep RTP, RTCP, NACK and SRTP; what they would do afterwards is
replaced: our own intake takes the place of the jitter buffer, and the decoder thread finds an empty
queue that ends it at once, so no thread lives per track, nothing piles up in a track that nobody
reads, and closing joins nothing. The private names used are listed in
:mod:`services.ingest.hooks`.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.rtp import RtcpByePacket, RtcpSrPacket, RtpPacket

from pipeline.types import Kind
from services.ingest import hooks
from services.ingest.gate import Gate, Rate
from services.ingest.ice import Gathering, Ports
from services.ingest.layers import temporal_layer
from services.ingest.nacks import NackGenerator
from services.ingest.packets import Assembler, Frame, Payload
from services.ingest.retelling import finish, render
from services.ingest.sdp import Offer

CLOSE_S: Final = 5.0
"""A connection that has not closed after this long is abandoned and counted."""
MAX_SSRCS: Final = 4
"""Senders that a track may learn; an honest publisher has two, media and retransmissions. A report
holds at most 31 (RFC 3550 §6.4.1)."""
SSRC_IDLE_S: Final = 1.0
"""A new sender may take a track over when the one before was silent this long."""

_HANDSHAKE_HINT: Final = (
    "the publisher's certificate must be ECDSA on P-256: FFmpeg's WHIP muxer needs cert_file and "
    "key_file of that kind (openssl ecparam -name prime256v1)"
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a peer tells its owner; called on the event loop, must not block."""

    frame: Callable[[Kind, str, int, Frame], None]
    """Kind, codec name, RTP clock in Hz, encoded frame."""
    report: Callable[[Kind, int, int], None]
    """Kind, RTP timestamp and NTP timestamp (32.32) of a sender report."""
    connected: Callable[[], None]
    closed: Callable[[bool], None]
    """The connection is over; True when the publisher said goodbye."""
    passes: Callable[[], bool] = lambda: True
    """Asked for every packet: False drops it before anything of its content is kept."""


class Peer:
    """A receiving peer connection. Make it with :meth:`answer`; close it once."""

    def __init__(
        self,
        offer: Offer,
        callbacks: Callbacks,
        *,
        ports: Ports,
        addresses: Sequence[str],
        ice_servers: Sequence[str],
        now: Callable[[], float],
        rate: Rate | None = None,
    ) -> None:
        self.gathering = Gathering(ports, addresses, Gate(now, rate))
        self.dropped: Counter[str] = Counter()
        """Packets that were not taken, by reason."""
        self._offer = offer
        self._callbacks = callbacks
        self._now = now
        self._intakes: dict[Kind, _Intake] = {}
        self._left = False
        self._connection = RTCPeerConnection(
            RTCConfiguration(
                iceServers=[RTCIceServer(urls=list(ice_servers))] if ice_servers else [],
                bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
            )
        )
        self._connection.on("connectionstatechange", self._changed)

    async def answer(self) -> str:
        """Return the SDP answer with all candidates; connecting goes on by itself.

        Raises :class:`~services.ingest.ice.NoPort` when no UDP port is free.
        """
        # Transceivers made first share one transport, so one port is bound and none is thrown away.
        for media in self._offer.media:
            self._connection.addTransceiver(media.kind, direction="recvonly")
        for media, transceiver in zip(
            self._offer.media, self._connection.getTransceivers(), strict=True
        ):
            self._tap(media.kind, transceiver.receiver)
        first = self._connection.getTransceivers()[0].receiver.transport
        self.gathering.install(first.transport.iceGatherer._connection)  # noqa: SLF001
        self._bound_senders(first._rtp_router)  # noqa: SLF001
        await self._connection.setRemoteDescription(
            RTCSessionDescription(render(self._offer), "offer")
        )
        await self._connection.setLocalDescription()
        return finish(self._connection.localDescription.sdp, self._offer)

    def damaged(self) -> None:
        """Note that a video frame could not be decoded or was dropped; a key frame is asked for."""
        if "video" in self._intakes:
            self._intakes["video"].damaged()

    @property
    def waiting(self) -> int:
        """Packets that wait for a missing one."""
        return sum(intake.waiting for intake in self._intakes.values())

    def lost(self) -> Counter[str]:
        """Return packets and frames that were not taken, by reason."""
        total = Counter(self.dropped)
        for intake in self._intakes.values():
            total.update(intake.lost())
        return total

    async def close(self) -> bool:
        """Close within :data:`CLOSE_S`; False when the connection had to be abandoned."""
        self.gathering.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._connection.close()
        except TimeoutError:
            return False
        return True

    def _tap(self, kind: Kind, receiver: RTCRtpReceiver) -> None:
        intake = _Intake(kind, receiver, self._callbacks, self._offer, self._now)
        self._intakes[kind] = intake
        setattr(receiver, hooks.JITTER_BUFFER, intake)
        setattr(receiver, hooks.DECODER_QUEUE, _NoDecoder())
        theirs = receiver._handle_rtcp_packet  # noqa: SLF001

        async def handle(packet: Any) -> None:
            if isinstance(packet, RtcpSrPacket):
                intake.report(packet)
            elif isinstance(packet, RtcpByePacket):
                intake.bye(packet)
                self._said_goodbye()
                return
            await theirs(packet)

        setattr(receiver, "_handle_rtcp_packet", handle)  # noqa: B010 - one object, not all
        if kind == "video":
            setattr(receiver, hooks.NACK_GENERATOR, NackGenerator())
        self._keep_reporting(receiver)

    def _keep_reporting(self, receiver: RTCRtpReceiver) -> None:
        """Let reports go on after one that could not be written.

        A number that does not fit its field would end the task without the mark that closing waits
        for.
        """
        theirs = receiver._run_rtcp  # noqa: SLF001

        async def run() -> None:
            while True:
                try:
                    await theirs()
                except struct.error:
                    self.dropped["unwritten_report"] += 1
                else:
                    return

        setattr(receiver, "_run_rtcp", run)  # noqa: B010

    def _bound_senders(self, router: Any) -> None:
        """Learn at most :data:`MAX_SSRCS` senders a track: each costs memory and report space."""
        theirs = router.route_rtp

        def route(packet: RtpPacket) -> Any:
            known = router.ssrc_table
            if packet.ssrc not in known:
                for receiver in router.payload_type_table.get(packet.payload_type, ()):
                    if sum(one is receiver for one in known.values()) >= MAX_SSRCS:
                        self.dropped["unknown_ssrc"] += 1
                        return None
            return theirs(packet)

        router.route_rtp = route

    def _said_goodbye(self) -> None:
        if all(intake.ended for intake in self._intakes.values()):
            self._close_once(left=True)

    def _changed(self) -> None:
        match self._connection.connectionState:
            case "connected":
                self._callbacks.connected()
            case "failed":
                if not self._left and self._connection.iceConnectionState == "completed":
                    _log.warning("DTLS handshake failed", hint=_HANDSHAKE_HINT)
                self._close_once(left=False)
            case "closed":
                self._close_once(left=True)

    def _close_once(self, *, left: bool) -> None:
        if not self._left:
            self._left = True
            self._callbacks.closed(left)


class _NoDecoder:
    """Stands where the decoder thread looks for work: there is none, so the thread ends."""

    def get(self) -> None:
        return None

    def put(self, _: object) -> None:
        return None


class _Intake:
    """Stands where the jitter buffer was: takes packets of one track, gives frames on."""

    def __init__(
        self,
        kind: Kind,
        receiver: RTCRtpReceiver,
        callbacks: Callbacks,
        offer: Offer,
        now: Callable[[], float],
    ) -> None:
        self.kind = kind
        self.ended = False
        self._callbacks = callbacks
        self._now = now
        self._codecs = {
            codec.payload_type: (_known_name(codec.name), codec.clock_hz)
            for media in offer.media
            if media.kind == kind
            for codec in media.codecs
        }
        self._ask_for_key = getattr(receiver, hooks.DECODER_ERROR).set
        self._assembler: Assembler | None = None
        self._dropped: Counter[str] = Counter()
        self._ssrc: int | None = None
        self._codec: tuple[str, int] | None = None
        self._heard_s = 0.0

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Take one depacketised packet; return that a key frame is wanted, and never a frame."""
        if not self._is_ours(packet) or self._codec is None:
            return False, None
        if not self._callbacks.passes():
            self._dropped["policy"] += 1
            return False, None
        name, clock_hz = self._codec
        data: bytes = packet._data  # type: ignore[attr-defined]  # noqa: SLF001
        if self._assembler is None:
            if data:
                frame = Frame(packet.timestamp, data, key=True)
                self._callbacks.frame(self.kind, name, clock_hz, frame)
            return False, None
        payload = Payload(
            packet.sequence_number,
            packet.timestamp,
            bool(packet.marker),
            data,
            temporal_layer(name, packet.payload),
        )
        for frame in self._assembler.add(payload):
            self._callbacks.frame(self.kind, name, clock_hz, frame)
        return self._assembler.asks_for_key(), None

    @property
    def waiting(self) -> int:
        return self._assembler.waiting if self._assembler else 0

    def damaged(self) -> None:
        if self._assembler is not None:
            self._assembler.damaged()

    def lost(self) -> Counter[str]:
        return self._dropped + (self._assembler.lost if self._assembler else Counter())

    def report(self, packet: RtcpSrPacket) -> None:
        if packet.ssrc == self._ssrc:
            info = packet.sender_info
            self._callbacks.report(self.kind, info.rtp_timestamp, info.ntp_timestamp)

    def bye(self, packet: RtcpByePacket) -> None:
        if self._ssrc in packet.sources:
            self.ended = True

    def _is_ours(self, packet: RtpPacket) -> bool:
        """Follow one sender and one codec; another may take over when the first fell silent."""
        now_s = self._now()
        if packet.ssrc != self._ssrc or self._codecs.get(packet.payload_type) != self._codec:
            if self._ssrc is not None and now_s - self._heard_s < SSRC_IDLE_S:
                self._dropped["second_sender"] += 1
                return False
            self._follow(packet)
        self._heard_s = now_s
        return True

    def _follow(self, packet: RtpPacket) -> None:
        self._ssrc = packet.ssrc
        self._codec = self._codecs.get(packet.payload_type)
        self.ended = False
        if self.kind == "video" and self._codec is not None:
            self._assembler = Assembler(self._codec[0])


def _known_name(name: str) -> str:
    """Return a codec's name as the decoder's allow-list writes it."""
    return {"opus": "opus"}.get(name.lower(), name.upper())
