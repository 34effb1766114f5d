"""Encoded batches to sampled pictures and 16 kHz sound: the seam behind which decoding happens.

:meth:`Decoder.decode` takes and returns plain data and keeps one set of codec contexts a session;
it runs in a confined child process (:mod:`services.ingest.confined`). Codecs come from an
allow-list and no string of a user reaches FFmpeg. A picture is scaled and converted only when a
window will see it; a damaged packet is counted, and decoding goes on.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import av
from av.codec.context import Flags

from pipeline.sampling import FrameSampler
from pipeline.types import TICKS_PER_S, AudioChunk, Kind, VideoFrame
from services.ingest.collector import Encoded
from services.ingest.items import Item, Reached
from services.ingest.media import Resampler, Scaler, joined
from services.ingest.shapes import declared

MAX_PIXELS: Final = 2_088_960
"""1920×1088, either way up."""
MAX_SIDE_PX: Final = 1920
MIN_SIDE_PX: Final = 16
_TIME_BASE: Final = Fraction(1, TICKS_PER_S)
_VIDEO: Final = {"VP8": "vp8", "H264": "h264"}
"""FFmpeg's own VP8 decoder costs a third of libvpx and checks the size before it allocates."""
_AUDIO: Final = {
    "opus": ("libopus", 48_000),
    "PCMU": ("pcm_mulaw", 8_000),
    "PCMA": ("pcm_alaw", 8_000),
    "G722": ("g722", 16_000),
}


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What one batch gave."""

    items: tuple[Item, ...]
    corrupt_audio: int = 0
    """Packets that could not be decoded."""
    corrupt_video: int = 0
    oversized: int = 0
    """Frames refused before decoding because of their size."""
    crowded: int = 0
    """Pictures left out because one batch gave more than there is room for."""
    lost: Mapping[Kind, tuple[int, int]] = field(default_factory=dict)
    """Media time, by track, that was not decoded because the decoder's process ended."""
    hostile: bool = False
    """The session's batches ended the process too often: nothing more of it should be decoded."""


class Decoder:
    """All sessions' codecs; used by one thread."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}

    def decode(self, session_key: str, batch: Sequence[Encoded]) -> Decoded:
        """Return what ``batch`` holds, each track in order; never raises for bad media."""
        session = self._sessions.get(session_key)
        if session is None:
            session = self._sessions[session_key] = _Session()
        return session.decode(batch)

    def forget(self, session_key: str) -> None:
        """Free the codecs of a session that ended."""
        self._sessions.pop(session_key, None)

    def __len__(self) -> int:
        """Return how many sessions hold codecs."""
        return len(self._sessions)


class _Session:
    def __init__(self) -> None:
        self._audio = _Audio()
        self._video = _Video()

    def decode(self, batch: Sequence[Encoded]) -> Decoded:
        audio = self._audio.decode([frame for frame in batch if frame.kind == "audio"])
        video = self._video.decode([frame for frame in batch if frame.kind == "video"])
        return Decoded(
            audio.items + video.items, audio.corrupt_audio, video.corrupt_video, video.oversized
        )


class _Audio:
    """One sound track. A packet that comes after its place was decoded is dropped as corrupt."""

    def __init__(self) -> None:
        self._codec = ""
        self._context: Any = None
        self._resampler = Resampler()
        self._after = -1

    def decode(self, frames: Iterable[Encoded]) -> Decoded:
        chunks: list[AudioChunk] = []
        corrupt = 0
        for frame in frames:
            if frame.tick <= self._after or not frame.data:
                corrupt += 1
                continue
            self._after = frame.tick
            self._open(frame.codec)
            try:
                chunks += self._packet(frame)
            except (av.FFmpegError, MemoryError):
                corrupt += 1
        return Decoded(tuple(joined(chunks)), corrupt_audio=corrupt)

    def _packet(self, frame: Encoded) -> list[AudioChunk]:
        chunks: list[AudioChunk] = []
        tick = frame.tick
        for sound in self._context.decode(av.Packet(frame.data)):
            chunks += self._resampler.push(sound, tick)
            tick += sound.samples * TICKS_PER_S // sound.sample_rate
        return chunks

    def _open(self, codec: str) -> None:
        if codec == self._codec:
            return
        name, rate_hz = _AUDIO[codec]
        context: Any = av.CodecContext.create(name, "r")
        context.format, context.layout, context.sample_rate = "s16", "mono", rate_hz
        context.thread_count = 1
        self._codec, self._context = codec, context


class _Video:
    """One picture track; size and codec may change with any key frame."""

    def __init__(self) -> None:
        self._codec = ""
        self._context: Any = None
        self._scaler = Scaler()
        self._sampler = FrameSampler()

    def decode(self, frames: Iterable[Encoded]) -> Decoded:
        items: list[Item] = []
        corrupt = oversized = 0
        newest = -1
        for frame in frames:
            newest = max(newest, frame.tick)
            if not frame.needed:
                continue
            if not acceptable(frame):
                oversized += 1
                continue
            if not frame.data:  # an empty packet would tell the codec that the stream is over
                corrupt += 1
                continue
            self._open(frame.codec)
            try:
                items += self._packet(frame)
            except (av.FFmpegError, MemoryError, ValueError):
                corrupt += 1
        if newest >= 0:
            items.append(Reached("video", newest + 1))
        return Decoded(tuple(items), corrupt_video=corrupt, oversized=oversized)

    def _packet(self, frame: Encoded) -> list[Item]:
        packet = av.Packet(frame.data)
        packet.pts = frame.tick
        packet.time_base = _TIME_BASE
        pictures = []
        for picture in self._context.decode(packet):
            if max(picture.width, picture.height) > MAX_SIDE_PX:
                raise ValueError("a side is too long")
            at = frame.tick if picture.pts is None else picture.pts
            if self._sampler.keeps(at):
                pictures.append(VideoFrame(at, self._scaler.sampled(picture)))
        return list(pictures)

    def _open(self, codec: str) -> None:
        if codec == self._codec:
            return
        context: Any = av.CodecContext.create(_VIDEO[codec], "r")
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_count = 1
        context.flags |= Flags.low_delay
        self._codec, self._context = codec, context


def acceptable(frame: Encoded) -> bool:
    """Tell whether a frame's declared size may be decoded at all.

    FFmpeg checks ``max_pixels`` once more, before it allocates.
    """
    return not frame.key or all(
        min(size) >= MIN_SIDE_PX and max(size) <= MAX_SIDE_PX and size[0] * size[1] <= MAX_PIXELS
        for size in declared(frame.codec, frame.data)
    )
