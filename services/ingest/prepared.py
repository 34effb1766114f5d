"""A file made ready to be published: encoded once, in memory, as WebRTC wants it.

A media file comes in, the bytes of a NUT container with H264 (baseline, no B-frames, a key frame
each second) and Opus (48 kHz stereo, 20 ms) go out. A file that is like that already is only copied
over. Sending costs no encoding then, however many publishers share the result.
"""

import io
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av

from pipeline.errors import MediaError, UsageError
from pipeline.types import Kind
from services.ingest.address import Address
from services.ingest.encoding import (
    KEY_FRAME_S,
    MAX_SIDE_PX,
    OPUS_HZ,
    PictureEncoder,
    Shape,
    SoundEncoder,
    first_shape,
)
from services.ingest.source import chosen, opened

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

_PLAIN_PROFILES = ("Baseline", "Constrained Baseline")


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A call ready to be sent."""

    data: bytes
    """A NUT container."""
    tracks: tuple[Kind, ...]
    duration_s: float
    copied: bool
    """Whether the file was as it must be; otherwise it was encoded anew."""


def prepare(address: Address) -> Prepared:
    """Read and, where needed, encode a file; blocks for a fraction of its length.

    Raises :class:`MediaError` when it cannot be decoded, :class:`UsageError` for a live source.
    """
    if address.live or address.device:
        raise UsageError(f"{address.spec} is live: push takes a file")
    with closing(opened(address)) as container:
        look = _look(container, chosen(container, address))
    with closing(opened(address)) as container:
        streams = chosen(container, address)
        tracks: tuple[Kind, ...] = tuple(
            "audio" if stream.type == "audio" else "video" for stream in streams
        )
        out = io.BytesIO()
        try:
            with av.open(out, "w", format="nut") as target:
                if look.plain:
                    end_s = _copy(container, streams, target)
                else:
                    end_s = _encode(container, streams, target, look)
        except av.FFmpegError as error:
            raise MediaError(f"{address.spec} cannot be encoded: {error.strerror}") from error
    if end_s <= 0:
        raise MediaError(f"{address.spec} holds nothing that can be decoded")
    return Prepared(out.getvalue(), tracks, end_s, look.plain)


@dataclass(frozen=True, slots=True)
class _Look:
    """What a first pass over a file's packets found."""

    plain: bool
    """Every track is as publishers must send it."""
    shape: Shape | None


def _look(container: "InputContainer", streams: "list[Stream]") -> _Look:
    plain, shape = True, None
    for stream in streams:
        if isinstance(stream, av.AudioStream):
            plain = plain and _plain_opus(stream)
    for stream in streams:
        if isinstance(stream, av.VideoStream):
            longest, shape = _pictures(container, stream, thoroughly=_plain_h264(stream))
            plain = plain and longest <= 2 * KEY_FRAME_S and not (shape and shape.turns)
    return _Look(plain, shape)


def _plain_opus(stream: "AudioStream") -> bool:
    codec = stream.codec_context
    return codec.name.endswith("opus") and codec.sample_rate == OPUS_HZ and codec.channels == 2


def _plain_h264(stream: "VideoStream") -> bool:
    codec = stream.codec_context
    return (
        codec.name == "h264"
        and codec.profile in _PLAIN_PROFILES
        and not codec.has_b_frames
        and bool(codec.extradata)
        and max(codec.width, codec.height) <= MAX_SIDE_PX
    )


def _pictures(
    container: "InputContainer", stream: "VideoStream", *, thoroughly: bool
) -> tuple[float, Shape | None]:
    """Return the longest way between key frames, in s, and the shape of the first picture.

    Not ``thoroughly``: stops at the first picture and calls the way endless.
    """
    fps = float(stream.average_rate) if stream.average_rate else None
    shape: Shape | None = None
    last: float | None = None
    longest = 0.0
    for packet in container.demux(stream):
        if shape is None:
            shape = next((first_shape(frame, fps) for frame in _decoded(packet)), None)
        elif not thoroughly:
            return float("inf"), shape
        if packet.pts is not None and packet.time_base is not None:
            at = float(packet.pts * packet.time_base)
            longest = max(longest, at - (at if last is None else last))
            last = at if packet.is_keyframe or last is None else last
    return longest if thoroughly else float("inf"), shape


def _copy(container: "InputContainer", streams: "list[Stream]", target: "OutputContainer") -> float:
    copies = {stream.index: target.add_stream_from_template(stream) for stream in streams}
    end_s = 0.0
    for packet in container.demux(streams):
        if packet.dts is None or packet.pts is None or packet.time_base is None:
            continue
        end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        packet.stream = copies[packet.stream.index]
        target.mux(packet)
    return end_s


def _encode(
    container: "InputContainer", streams: "list[Stream]", target: "OutputContainer", look: _Look
) -> float:
    origin_s = Fraction(container.start_time or 0, 1_000_000)
    tracks: dict[int, PictureEncoder | SoundEncoder] = {}
    for stream in streams:
        if isinstance(stream, av.AudioStream):
            tracks[stream.index] = SoundEncoder(target, origin_s)
        elif look.shape is not None:
            tracks[stream.index] = PictureEncoder(target, look.shape, origin_s)
    for packet in container.demux(streams):
        track = tracks.get(packet.stream.index)
        for frame in _decoded(packet) if track else ():
            target.mux(track.packets(frame) if track else [])
    for track in tracks.values():
        target.mux(track.packets(None))
    return max((track.end_s for track in tracks.values()), default=0.0)


def _decoded(packet: "av.Packet[Any]") -> list[Any]:
    try:
        return list(packet.decode())
    except (av.FFmpegError, ValueError):
        return []  # a damaged packet; what follows is sent
