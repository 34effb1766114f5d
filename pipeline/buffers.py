"""What one track holds until its windows are cut: sound or sampled frames, and what is missing.

Media with ticks comes in, the content of a span goes out. Buffers are of fixed size, know nothing
of the other track and decide nothing: when to cut and what is too late is
:mod:`pipeline.windowing`'s business.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.types import (
    FRAME_CELL_TICKS,
    LEAD_TICKS,
    SLOT_TICKS,
    WINDOW_SLOTS,
    WINDOW_TICKS,
    VideoFrame,
)

AUDIO_HOLE_TICKS = 4_000
"""Sound missing for this long (250 ms) is announced."""
VIDEO_HOLE_TICKS = 20_000
"""Pictures missing for this long (1.25 s beyond the cell of the last one) are announced. Longer
than for sound: a still camera in the dark, a shared screen or a muted camera sends one frame a
second without any loss."""


class Holes:
    """Finds stretches without media in one track, which is told of its media in order of time.

    What lies before the first media is no hole: the track had not begun.
    """

    def __init__(self, least_ticks: int) -> None:
        self._least = least_ticks
        self._until: int | None = None

    def covered(self, start: int, end: int) -> tuple[int, int] | None:
        """Note media in ``[start, end)``; return the hole before it when it is long enough."""
        hole = self._since(start)
        self._until = end
        return hole

    def close(self, end: int) -> tuple[int, int] | None:
        """Return the hole still open at ``end``, if any, and begin anew."""
        hole = self._since(end)
        self._until = None
        return hole

    def _since(self, tick: int) -> tuple[int, int] | None:
        if self._until is None or tick - self._until < self._least:
            return None
        return self._until, tick


class AudioBuffer:
    """Sound from the left context of the next window on, zeros where nothing arrived.

    ``room_ticks`` is how far beyond that window's first tick samples may lie.
    """

    def __init__(self, start: int, room_ticks: int) -> None:
        self.holes = Holes(AUDIO_HOLE_TICKS)
        self._base = start - LEAD_TICKS
        self._samples = np.zeros(LEAD_TICKS + room_ticks, np.int16)
        self._arrived = np.zeros(LEAD_TICKS + room_ticks, np.bool_)

    def write(self, start: int, samples: NDArray[np.int16]) -> int:
        """Store ``samples`` at tick ``start``; the first copy of a tick wins.

        Returns how many ticks were there already. The span must lie inside the buffer.
        """
        begin = start - self._base
        span = slice(begin, begin + len(samples))
        fresh = ~self._arrived[span]
        np.copyto(self._samples[span], samples, where=fresh)
        self._arrived[span] = True
        return len(samples) - int(np.count_nonzero(fresh))

    def window(self) -> tuple[NDArray[np.int16], tuple[float, ...]]:
        """Return a read-only copy of left context and next window, and the coverage per slot."""
        audio = self._samples[: LEAD_TICKS + WINDOW_TICKS].copy()
        audio.setflags(write=False)
        arrived = self._arrived[LEAD_TICKS : LEAD_TICKS + WINDOW_TICKS]
        counts = np.count_nonzero(arrived.reshape(WINDOW_SLOTS, SLOT_TICKS), axis=1)
        return audio, tuple(int(count) / SLOT_TICKS for count in counts)

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the stretches of ``[start, end)`` that arrived, in order."""
        arrived = self._arrived[start - self._base : end - self._base].astype(np.int8)
        edges = np.flatnonzero(np.diff(arrived, prepend=0, append=0)) + start
        for begin, after in edges.reshape(-1, 2):
            yield int(begin), int(after)

    def slide(self, start: int) -> None:
        """Let the next window begin at ``start``; what lies before its left context is gone."""
        shift = min(start - LEAD_TICKS - self._base, len(self._samples))
        for row in (self._samples, self._arrived):
            row[: len(row) - shift] = row[shift:]
            row[len(row) - shift :] = 0
        self._base = start - LEAD_TICKS

    def clear(self, start: int) -> None:
        """Forget everything; the next window begins at ``start`` with a silent left context."""
        self._samples[:] = 0
        self._arrived[:] = False
        self._base = start - LEAD_TICKS


class FrameBuffer:
    """Sampled frames from the next window's start on, at most one in each cell."""

    def __init__(self) -> None:
        self.holes = Holes(VIDEO_HOLE_TICKS)
        self._frames: dict[int, VideoFrame] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def write(self, frame: VideoFrame) -> bool:
        """Store ``frame`` unless its cell has one that is not later; tell whether one was lost."""
        cell = frame.at // FRAME_CELL_TICKS
        present = self._frames.get(cell)
        if present is None or frame.at < present.at:
            frame.rgb.setflags(write=False)
            self._frames[cell] = frame
        return present is not None

    def between(self, start: int, end: int) -> tuple[VideoFrame, ...]:
        """Return the frames shown in ``[start, end)``, oldest first."""
        inside = (frame for frame in self._frames.values() if start <= frame.at < end)
        return tuple(sorted(inside, key=lambda frame: frame.at))

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the stretches of ``[start, end)`` that the frames there stand for, in order."""
        for frame in self.between(start, end):
            yield frame.at, frame.at + FRAME_CELL_TICKS

    def slide(self, start: int) -> None:
        """Forget the frames before ``start``."""
        self._frames = {cell: frame for cell, frame in self._frames.items() if frame.at >= start}

    def clear(self, start: int) -> None:
        """Forget everything; ``start`` is where the next window begins."""
        del start
        self._frames = {}
