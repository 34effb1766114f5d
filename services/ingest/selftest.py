"""What ``doctor`` asks of the media room: codecs, ports, and a call to ourselves."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import VideoStreamTrack

from pipeline.errors import MediaError
from services.ingest.gate import Gate
from services.ingest.ice import Gathering, NoPort, Ports, offered_addresses
from services.ingest.peer import Callbacks, Peer
from services.ingest.sdp import parse
from services.settings import Settings

FORMATS = ("whip", "rtsp", "matroska,webm", "mp4")
DECODERS = ("h264", "vp8", "opus", "pcm_mulaw", "pcm_alaw", "g722", "aac")
FRAMES = 10
PAIR_S = 10.0


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """What the media library can do."""

    version: str
    formats: tuple[str, ...]
    decoders: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """How a call to ourselves went."""

    connected_ms: float
    media_ms: float
    frames: int


def media() -> MediaFacts:
    """Tell which of the formats and decoders that we use are there."""
    known = av.formats_available | {
        name for each in av.formats_available for name in each.split(",")
    }
    formats = tuple(name for name in FORMATS if name in known or name.split(",")[0] in known)
    decoders = tuple(name for name in DECODERS if name in av.codecs_available)
    missing = tuple(name for name in (*FORMATS, *DECODERS) if name not in (*formats, *decoders))
    short = tuple(name.split(",")[-1] for name in formats)
    return MediaFacts(av.__version__, short, decoders, missing)


def offered(settings: Settings) -> tuple[str, ...]:
    """Return the addresses that publishers are told."""
    return offered_addresses(settings.ice_addresses, settings.host)


def free_ports(settings: Settings) -> int:
    """Count the UDP ports of the range that can be bound on the first offered address."""
    first, last = settings.udp_ports
    free = 0
    for port in range(first, last + 1):
        with suppress(NoPort, OSError), closing(Ports(port, port).bind(offered(settings)[0])):
            free += 1
    return free


async def pair(settings: Settings) -> Pair:
    """Publish a few frames to ourselves over the configured addresses and ports.

    Raises :class:`~pipeline.errors.MediaError` when nothing arrives in time.
    """
    began = time.perf_counter()
    connected_s = 0.0
    frames = 0
    enough = asyncio.Event()

    def connected() -> None:
        nonlocal connected_s
        connected_s = time.perf_counter()

    def frame(*_: object) -> None:
        nonlocal frames
        frames += 1
        if frames >= FRAMES:
            enough.set()

    told = Callbacks(frame, lambda *_: None, connected, lambda _: None)
    try:
        async with asyncio.timeout(PAIR_S), _call(settings, told):
            await enough.wait()
    except (TimeoutError, NoPort) as error:
        raise MediaError(
            f"a call to ourselves did not connect ({error or 'nothing arrived'}): "
            "check firewall rules for UDP on the offered address, or set ice_addresses"
        ) from None
    over_s = time.perf_counter()
    return Pair((connected_s - began) * 1000, (over_s - connected_s) * 1000, frames)


@asynccontextmanager
async def _call(settings: Settings, told: Callbacks) -> AsyncIterator[None]:
    """Connect a publisher of our own to a :class:`Peer`; both are closed at the end."""
    ports, addresses = Ports(*settings.udp_ports), offered(settings)
    publisher = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer: Peer | None = None
    try:
        transceiver = publisher.addTransceiver(VideoStreamTrack(), direction="sendonly")
        gatherer = transceiver.sender.transport.transport.iceGatherer
        gathering = Gathering(ports, addresses, Gate(time.monotonic))
        gathering.install(gatherer._connection)  # noqa: SLF001 - see hooks
        await publisher.setLocalDescription(await publisher.createOffer())
        offer = parse(publisher.localDescription.sdp.encode())
        peer = Peer(
            offer,
            told,
            ports=ports,
            addresses=addresses,
            ice_servers=(),
            now=time.monotonic,
        )
        answer = RTCSessionDescription(await peer.answer(), "answer")
        await publisher.setRemoteDescription(answer)
        yield
    finally:
        await publisher.close()
        if peer is not None:
            await peer.close()
