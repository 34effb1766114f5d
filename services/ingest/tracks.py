"""One decoded track of a source: packets in, items with media ticks out."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.sampling import FrameSampler
from pipeline.types import (
    MAX_WIDTH_PX,
    TICKS_PER_S,
    AudioChunk,
    Kind,
    VideoFrame,
)
from services.ingest.items import Item, Reached
from services.ingest.media import Resampler, Scaler

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.video.stream import VideoStream

JITTER_TICKS = 20 * TICKS_PER_S // 1000
"""Sound whose time stamp is this close to where the last ended continues it: containers round
(1 ms and more), device clocks waver, and a run of sound must not be cut for that."""
_FALLBACK_FPS = 25

FrameT = TypeVar("FrameT", av.AudioFrame, av.VideoFrame)


class Track(Generic[FrameT]):
    """What both kinds share: where tick 0 lies, decoding, and the count of damage."""

    kind: Kind

    def __init__(self, decode: "Callable[[av.Packet[Any] | None], list[FrameT]]") -> None:
        self.origin: int | None = None
        """The container's time, in ticks, that is tick 0; set before the first packet."""
        self.damaged = 0
        """Packets that could not be decoded."""
        self._decode: Callable[[av.Packet[Any] | None], list[FrameT]] = decode

    def decode(self, packet: "av.Packet[Any] | None") -> Iterator[Item]:
        """Yield what one packet gives, or with None what the decoder still holds.

        A damaged packet gives nothing and is counted.
        """
        try:
            frames = self._decode(packet)
        except av.EOFError:
            return
        except (av.FFmpegError, ValueError):
            self.damaged += 1
            return
        for frame in frames:
            yield from self._items(frame)

    def drain(self) -> Iterator[Item]:
        """Yield all that is left; the track is over."""
        yield from self.decode(None)
        yield from self._rest()

    def _items(self, frame: FrameT) -> Iterator[Item]:
        raise NotImplementedError

    def _rest(self) -> Iterator[Item]:
        raise NotImplementedError

    def _stamp(self, frame: FrameT) -> int | None:
        """Return the frame's tick as its container has it, or None without a time stamp."""
        if frame.pts is None or frame.time_base is None:
            return None
        return round(frame.pts * frame.time_base * TICKS_PER_S) - (self.origin or 0)


class Sound(Track[av.AudioFrame]):
    """The audio track: 16 kHz mono chunks."""

    kind: Kind = "audio"

    def __init__(self, stream: "AudioStream") -> None:
        super().__init__(stream.codec_context.decode)
        self._resampler = Resampler()
        self._run = 0
        """Tick at which the present run of gapless sound began."""
        self._samples = 0
        self._rate_hz = 0

    def _items(self, frame: av.AudioFrame) -> Iterator[Item]:
        yield from _trimmed(self._resampler.push(frame, self._placed(frame)))

    def _rest(self) -> Iterator[Item]:
        yield from _trimmed(self._resampler.flush())

    def _placed(self, frame: av.AudioFrame) -> int:
        """Return the frame's tick, on the run of sound that it continues."""
        stamped = self._stamp(frame)
        due = self._run + self._samples * TICKS_PER_S // max(self._rate_hz, 1)
        broken = stamped is not None and abs(stamped - due) > JITTER_TICKS
        if broken or self._rate_hz != frame.sample_rate:
            due = due if stamped is None else stamped
            self._run, self._samples, self._rate_hz = due, 0, frame.sample_rate
        self._samples += frame.samples
        return due


class Pictures(Track[av.VideoFrame]):
    """The video track: the pictures that windows need, and how far the track got."""

    kind: Kind = "video"

    def __init__(self, stream: "VideoStream") -> None:
        super().__init__(stream.codec_context.decode)
        self._sampler = FrameSampler()
        self._scaler = Scaler()
        self._upright = Upright(stream)
        self._step = round(TICKS_PER_S / float(stream.average_rate or _FALLBACK_FPS))
        self._next = 0
        """Tick of the next frame if it bears no time stamp."""

    def _items(self, frame: av.VideoFrame) -> Iterator[Item]:
        stamped = self._stamp(frame)
        at = self._next if stamped is None else max(0, stamped)
        self._next = at + self._step
        if self._sampler.keeps(at):
            picture = self._upright.turned(frame)
            yield VideoFrame(at, self._scaler.sampled(frame) if picture is None else picture)

    def _rest(self) -> Iterator[Item]:
        yield Reached("video", self._next)


class Upright:
    """Pictures of telephones held upright and of films with oblong pixels, as they are meant."""

    def __init__(self, stream: "VideoStream") -> None:
        self._aspect = stream.sample_aspect_ratio
        self._reformatter = VideoReformatter()

    def turned(self, frame: av.VideoFrame) -> NDArray[np.uint8] | None:
        """Return the picture as it is shown, or None when that needs nothing special."""
        turns = round(frame.rotation / 90) % 4
        if not turns and (not self._aspect or self._aspect == 1):
            return None
        width = frame.width * float(self._aspect or 1)
        across = frame.height if turns % 2 else width
        factor = min(1.0, MAX_WIDTH_PX / across)
        small = self._reformatter.reformat(
            frame,
            width=max(2, round(width * factor)),
            height=max(2, round(frame.height * factor)),
            format="rgb24",
            interpolation=Interpolation.AREA,
            threads=1,
        )
        picture: NDArray[np.uint8] = np.ascontiguousarray(np.rot90(small.to_ndarray(), turns))
        picture.flags.writeable = False
        return picture


def _trimmed(chunks: list[AudioChunk]) -> Iterator[AudioChunk]:
    """Leave out what lies before tick 0: encoder padding, and what an edit list cuts off."""
    for chunk in chunks:
        if chunk.start >= 0:
            yield chunk
        elif chunk.start + len(chunk.samples) > 0:
            yield AudioChunk(0, chunk.samples[-chunk.start :])
