"""Every private name of aiortc 1.16 and aioice 0.13 that ingest leans on, in one place.

The dependencies are pinned to these versions; an upgrade is a reviewed change, and :func:`missing`
says what a new version took away. Nothing else in the product uses a private name of theirs.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final

import aioice.ice
import aiortc.rtcdtlstransport
import aiortc.rtcrtpreceiver
from aioice import Connection
from aioice.ice import StunProtocol
from aiortc import RTCDtlsTransport, RTCIceGatherer, RTCIceTransport, RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtcdtlstransport import RtpRouter
from aiortc.rtcrtpreceiver import NackGenerator
from aiortc.rtp import RtcpSenderInfo, RtcpSrPacket

DECODER_QUEUE: Final = "_RTCRtpReceiver__decoder_queue"
DECODER_ERROR: Final = "_RTCRtpReceiver__decoder_error"
JITTER_BUFFER: Final = "_RTCRtpReceiver__jitter_buffer"
NACK_GENERATOR: Final = "_RTCRtpReceiver__nack_generator"

_SIGNATURES: Final[dict[str, tuple[Callable[..., Any], tuple[str, ...]]]] = {
    "aioice.Connection.get_component_candidates": (
        Connection.get_component_candidates,
        ("self", "component", "addresses", "timeout"),
    ),
    "aioice.Connection.query_consent": (Connection.query_consent, ("self",)),
    "aioice.Connection.data_received": (Connection.data_received, ("self", "data", "component")),
    "aioice.ice.StunProtocol": (aioice.ice.StunProtocol.__init__, ("self", "receiver")),
    "aioice.ice.StunProtocol.datagram_received": (
        aioice.ice.StunProtocol.datagram_received,
        ("self", "data", "addr"),
    ),
    "aioice.ice.StunProtocol.send_stun": (
        aioice.ice.StunProtocol.send_stun,
        ("self", "message", "addr"),
    ),
    "aioice.ice.server_reflexive_candidate": (
        aioice.ice.server_reflexive_candidate,
        ("protocol", "stun_server"),
    ),
    "aioice.ice.get_host_addresses": (
        aioice.ice.get_host_addresses,
        ("use_ipv4", "use_ipv6"),
    ),
    "aiortc.jitterbuffer.JitterBuffer.add": (JitterBuffer.add, ("self", "packet")),
    "aiortc.RTCRtpReceiver._handle_rtcp_packet": (
        RTCRtpReceiver._handle_rtcp_packet,  # noqa: SLF001
        ("self", "packet"),
    ),
    "aiortc.RTCRtpReceiver._handle_rtp_packet": (
        RTCRtpReceiver._handle_rtp_packet,  # noqa: SLF001
        ("self", "packet", "arrival_time_ms"),
    ),
    "aiortc.RTCRtpReceiver._run_rtcp": (RTCRtpReceiver._run_rtcp, ("self",)),  # noqa: SLF001
    "aiortc.rtcrtpreceiver.NackGenerator.add": (NackGenerator.add, ("self", "packet")),
    "aiortc.rtcrtpreceiver.decoder_worker": (
        aiortc.rtcrtpreceiver.decoder_worker,
        ("loop", "input_q", "output_q", "decode_error"),
    ),
    "aiortc.rtcdtlstransport.RtpRouter.route_rtp": (RtpRouter.route_rtp, ("self", "packet")),
    "aiortc.rtp.RtcpSrPacket": (RtcpSrPacket, ("ssrc", "sender_info", "reports")),
    "aiortc.rtp.RtcpSenderInfo": (
        RtcpSenderInfo,
        ("ntp_timestamp", "rtp_timestamp", "packet_count", "octet_count"),
    ),
}


_CONNECTION: Final = ("_queue", "_protocols", "local_username", "stun_server", "turn_server")


def missing() -> list[str]:
    """Return one sentence for each hooked name that is gone or has another signature.

    Call with a running event loop: it builds an unconnected receiver to look at its fields.
    """
    return [*_changed_signatures(), *_absent_fields()]


def _changed_signatures() -> Iterator[str]:
    for name, (function, expected) in _SIGNATURES.items():
        found = tuple(inspect.signature(function).parameters)
        if found != expected:
            yield f"{name} takes {found}, not {expected}"


def _absent_fields() -> Iterator[str]:
    gatherer = RTCIceGatherer(iceServers=[])
    certificate = aiortc.rtcdtlstransport.RTCCertificate.generateCertificate()
    dtls = RTCDtlsTransport(RTCIceTransport(gatherer), [certificate])
    receiver = RTCRtpReceiver("video", dtls)
    for owner, fields in (
        (receiver, (DECODER_QUEUE, DECODER_ERROR, JITTER_BUFFER, NACK_GENERATOR)),
        (getattr(receiver, NACK_GENERATOR, None), ("missing",)),
        (gatherer, ("_connection",)),
        (dtls, ("_rtp_router",)),
        (gatherer._connection, _CONNECTION),  # noqa: SLF001
        (StunProtocol(gatherer._connection), ("transactions",)),  # noqa: SLF001
        (dtls._rtp_router, ("ssrc_table", "payload_type_table")),  # noqa: SLF001
    ):
        for field in fields:
            if not hasattr(owner, field):
                yield f"{type(owner).__name__} has no field {field}"
    if "_data" not in RTCRtpReceiver._handle_rtp_packet.__code__.co_names:  # noqa: SLF001
        yield "RTCRtpReceiver._handle_rtp_packet sets no _data on a packet"
