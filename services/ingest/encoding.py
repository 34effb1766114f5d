"""Encoders of a file that is to be published: pictures and sound as WebRTC wants them."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np

from pipeline.errors import MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import OutputContainer
    from av.video.stream import VideoStream

MAX_SIDE_PX = 1280
MAX_FPS = 30
KEY_FRAME_S = 1
CLOCK_HZ = 90_000
OPUS_HZ = 48_000
OPUS_FRAME = 960
"""20 ms."""
OPUS_BITS_PER_S = 64_000
JITTER = 2 * OPUS_FRAME
"""Samples that a time stamp may be late before silence is sent for what is missing."""
_H264 = ("libx264", "libopenh264")
_X264 = {
    "preset": "veryfast",
    "tune": "zerolatency",
    "profile": "baseline",
    "crf": "20",
    "maxrate": "2500k",
    "bufsize": "2500k",
    "x264-params": "scenecut=0:bframes=0",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How the first picture of a track looks."""

    width: int
    height: int
    turns: int
    """Quarter turns, counter-clockwise, that put it upright."""
    fps: float

    @property
    def sent(self) -> tuple[int, int]:
        """Width and height to send: upright, even, within :data:`MAX_SIDE_PX`."""
        factor = min(1.0, MAX_SIDE_PX / max(self.width, self.height))
        sides = (_even(self.width * factor), _even(self.height * factor))
        return (sides[1], sides[0]) if self.turns % 2 else sides


def first_shape(frame: av.VideoFrame, fps: float | None) -> Shape:
    """Return the shape of a track from its first picture."""
    turns = round(frame.rotation / 90) % 4
    return Shape(frame.width, frame.height, turns, min(fps or MAX_FPS, MAX_FPS))


class PictureEncoder:
    """Encodes pictures: upright, a key frame each second, no faster than :data:`MAX_FPS`."""

    def __init__(self, target: "OutputContainer", shape: Shape, origin_s: Fraction) -> None:
        self.end_s = 0.0
        """Where the last picture ends."""
        self._shape = shape
        self._origin_s = origin_s
        self._step = round(CLOCK_HZ / shape.fps)
        self._last = -self._step
        self._out = cast("VideoStream", target.add_stream(_encoder(), rate=round(shape.fps)))
        codec = self._out.codec_context
        codec.width, codec.height = shape.sent
        codec.pix_fmt = "yuv420p"
        codec.time_base = Fraction(1, CLOCK_HZ)
        codec.gop_size = max(1, round(KEY_FRAME_S * shape.fps))
        codec.max_b_frames = 0
        codec.options = dict(_X264) if codec.name == "libx264" else {}

    def packets(self, frame: Any | None) -> "list[av.Packet[Any]]":
        """Return what the encoder gives for one picture, or with None at the end."""
        if frame is None:
            return list(self._out.encode(None))
        at = self._place(frame)
        if at is None:
            return []
        picture = self._upright(frame)
        picture.pts, picture.time_base = at, Fraction(1, CLOCK_HZ)
        self.end_s = (at + self._step) / CLOCK_HZ
        return list(self._out.encode(picture))

    def _place(self, frame: av.VideoFrame) -> int | None:
        """Return the picture's time, or None for one that comes too soon after the last."""
        at = self._last + self._step
        if frame.pts is not None and frame.time_base is not None:
            at = round((frame.pts * frame.time_base - self._origin_s) * CLOCK_HZ)
        if at < 0 or at - self._last < 0.9 * self._step:
            return None
        self._last = at
        return at

    def _upright(self, frame: av.VideoFrame) -> av.VideoFrame:
        if turns := round(frame.rotation / 90) % 4:
            rgb = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(np.rot90(rgb, turns)), format="rgb24"
            )
        return frame.reformat(*self._shape.sent, "yuv420p", threads=1)


class SoundEncoder:
    """Encodes sound as stereo Opus in packets of 20 ms."""

    def __init__(self, target: "OutputContainer", origin_s: Fraction) -> None:
        self.end_s = 0.0
        """Where the sound ends."""
        self._due = Fraction(0)
        """Where the next sound of the file should begin, in samples sent."""
        self._next = 0
        self._origin_s = origin_s
        self._out = target.add_stream("libopus", rate=OPUS_HZ)
        self._out.layout = "stereo"
        self._out.bit_rate = OPUS_BITS_PER_S
        self._resampler = av.AudioResampler("s16", "stereo", OPUS_HZ, OPUS_FRAME)

    def packets(self, frame: Any | None) -> "list[av.Packet[Any]]":
        """Return what the encoder gives for some sound, or with None at the end."""
        return list(self._packets(frame))

    def _packets(self, frame: av.AudioFrame | None) -> "Iterator[av.Packet[Any]]":
        if frame is not None:
            self._next += self._hole(frame)
            frame.pts = None
        for part in self._resampler.resample(frame):
            part.pts, part.time_base = self._next, Fraction(1, OPUS_HZ)
            self._next += part.samples
            self.end_s = self._next / OPUS_HZ
            yield from self._out.encode(part)
        if frame is None:
            yield from self._out.encode(None)

    def _hole(self, frame: av.AudioFrame) -> int:
        """Return how many samples are missing before ``frame``; small waverings are none."""
        hole = 0
        if frame.pts is not None and frame.time_base is not None:
            stamped = round((frame.pts * frame.time_base - self._origin_s) * OPUS_HZ)
            missing = stamped - round(self._due)
            hole = missing if missing > JITTER else 0
        self._due += hole + Fraction(frame.samples * OPUS_HZ, frame.sample_rate)
        return hole


def _encoder() -> str:
    for name in _H264:
        if name in av.codecs_available:
            return name
    raise MediaError("this build of PyAV has no H264 encoder: install the wheel from PyPI")


def _even(side: float) -> int:
    return max(16, round(side / 2) * 2)
