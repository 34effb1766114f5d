"""Decoded media to what windows are made of: small RGB pictures and 16 kHz mono sound.

Live streams and files share these two helpers, so a clip gives the same windows on every path.
Media time comes in as ticks and goes out as ticks: a resampler counts samples from the tick where
its run of sound began, so nothing drifts, and a loss starts a new run and never shifts time.
"""

from collections.abc import Iterable
from typing import Final

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.types import MAX_WIDTH_PX, TICKS_PER_S, AudioChunk

CONTINUOUS_TICKS: Final = 32
"""Sound that begins this close to where the last ended continues it: containers round time to 1 ms,
and the shortest packet that can be lost (Opus, 2.5 ms) is 40 ticks."""
_PLANAR: Final = "yuv420p"


def sampled_size(width: int, height: int) -> tuple[int, int]:
    """Return even width and height of the sampled picture: at most ``MAX_WIDTH_PX`` wide."""
    factor = min(1.0, MAX_WIDTH_PX / width)
    return max(2, round(width * factor / 2) * 2), max(2, round(height * factor / 2) * 2)


class Scaler:
    """Turns decoded frames of one track into small RGB pictures; sizes may change at any time.

    The planes are scaled first and by area, so faces do not alias, then the colours of the small
    picture are converted, each step by a context of its own: a quarter of what one step costs.
    """

    def __init__(self) -> None:
        self._scale = VideoReformatter()
        self._colour = VideoReformatter()

    def sampled(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Return the picture as ``(height, width, 3)`` RGB, read-only, at most 320 px wide.

        Never enlarged. Raises :class:`av.FFmpegError` or :class:`ValueError` for a pixel format
        that cannot be converted.
        """
        width, height = sampled_size(frame.width, frame.height)
        planes = self._scale.reformat(
            frame, width, height, _PLANAR, interpolation=Interpolation.AREA, threads=1
        )
        picture = self._colour.reformat(planes, format="rgb24", threads=1)
        rgb = np.asarray(picture.to_ndarray(), np.uint8)
        rgb.flags.writeable = False
        return rgb


class Resampler:
    """Turns decoded sound of one track into 16 kHz mono chunks on the tick line."""

    def __init__(self) -> None:
        self._resampler: av.AudioResampler | None = None
        self._shape: tuple[str, str, int] | None = None
        self._start = 0
        self._samples_in = 0
        self._samples_out = 0

    def push(self, frame: av.AudioFrame, tick: int) -> list[AudioChunk]:
        """Return the chunks that are ready after ``frame``, whose first sample lies at ``tick``.

        The resampler's filter holds back about 1 ms, which comes with the next frame or with
        :meth:`flush`. A jump of ``tick`` or a new rate or layout begins a new run.
        """
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        chunks: list[AudioChunk] = []
        if self._shape != shape or abs(tick - self._expected()) > CONTINUOUS_TICKS:
            chunks += self.flush()
            self._begin(shape, tick)
        self._samples_in += frame.samples
        # Its own time stamps would make libswresample stretch the sound to fit them.
        frame.pts = None
        return chunks + self._convert(frame)

    def flush(self) -> list[AudioChunk]:
        """End the run and return what the filter still held."""
        if self._resampler is None:
            return []
        chunks = self._convert(None)
        self._resampler = self._shape = None
        return chunks

    def _begin(self, shape: tuple[str, str, int], tick: int) -> None:
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=TICKS_PER_S)
        self._shape = shape
        self._start = tick
        self._samples_in = self._samples_out = 0

    def _expected(self) -> int:
        rate_hz = self._shape[2] if self._shape else TICKS_PER_S
        return self._start + self._samples_in * TICKS_PER_S // rate_hz

    def _convert(self, frame: av.AudioFrame | None) -> list[AudioChunk]:
        if self._resampler is None:
            return []
        parts = [out.to_ndarray()[0] for out in self._resampler.resample(frame)]
        if not parts:
            return []
        samples = np.concatenate(parts)
        samples.flags.writeable = False
        chunk = AudioChunk(self._start + self._samples_out, samples)
        self._samples_out += len(samples)
        return [chunk]


def joined(chunks: Iterable[AudioChunk]) -> list[AudioChunk]:
    """Return the same sound in as few chunks as there are runs: less work for whoever takes it."""
    runs: list[list[AudioChunk]] = []
    for chunk in chunks:
        if runs and runs[-1][-1].start + len(runs[-1][-1].samples) == chunk.start:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return [_merged(run) for run in runs]


def _merged(run: list[AudioChunk]) -> AudioChunk:
    if len(run) == 1:
        return run[0]
    samples = np.concatenate([chunk.samples for chunk in run])
    samples.flags.writeable = False
    return AudioChunk(run[0].start, samples)
