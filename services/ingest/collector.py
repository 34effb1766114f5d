"""Encoded frames of one live session, gathered until they are worth a trip to the decoder.

Frames with ticks come in as they arrive; a batch goes out when media time has passed a boundary of
:data:`FLUSH_TICKS` on every track, when one track has waited :data:`WAIT_S` for the other, or when
a bound is near. Pure: arrival times are arguments.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec

from pipeline.types import SLOT_TICKS, Kind

FLUSH_TICKS: Final = SLOT_TICKS
WAIT_S: Final = 0.15
BOUND: Final[dict[Kind, int]] = {"audio": 256, "video": 96}
"""Frames that may wait; more than two slots at 60 pictures and 100 sound packets a second."""
_FLUSH_AT: Final[dict[Kind, int]] = {"audio": 128, "video": 48}
MAX_BYTES: Final = 4 * 1024 * 1024
"""Encoded bytes that may wait, both tracks together."""


class Encoded(msgspec.Struct, frozen=True, array_like=True, eq=False):
    """One encoded frame on the media clock; plain data that crosses to the decoder as it is."""

    kind: Kind
    codec: str
    """``VP8``, ``H264``, ``opus``, ``PCMU``, ``PCMA`` or ``G722``."""
    tick: int
    data: bytes
    key: bool
    needed: bool = True
    """False: only its time counts, as proof of how far the track has come."""


@dataclass(slots=True)
class _Track:
    frames: list[Encoded] = field(default_factory=list)
    mark: int = FLUSH_TICKS
    """The boundary that this track has yet to pass."""
    newest: int = 0


@dataclass(slots=True)
class Collector:
    """The encoded frames that wait to be decoded."""

    dropped: Counter[str] = field(default_factory=Counter)
    waiting_bytes: int = 0
    arrived_s: float = 0.0
    """When the newest frame came in."""
    _tracks: dict[Kind, _Track] = field(default_factory=dict)
    _crossed_s: float | None = None

    def __len__(self) -> int:
        """Return how many frames wait."""
        return sum(len(track.frames) for track in self._tracks.values())

    def add(self, frame: Encoded, now_s: float) -> bool:
        """Take one frame. False: there was no room, and what waited on its track was dropped.

        A broken chain of video frames decodes to rubbish, so the track is cleared as a whole; the
        caller asks for a key frame.
        """
        track = self._tracks.setdefault(frame.kind, _Track())
        full = (
            len(track.frames) >= BOUND[frame.kind]
            or self.waiting_bytes + len(frame.data) > MAX_BYTES
        )
        if full:
            self.dropped[frame.kind] += len(track.frames)
            self.waiting_bytes -= sum(len(waiting.data) for waiting in track.frames)
            track.frames.clear()
        track.frames.append(frame)
        track.newest = max(track.newest, frame.tick)
        self.waiting_bytes += len(frame.data)
        self.arrived_s = now_s
        if self._crossed_s is None and track.newest >= track.mark:
            self._crossed_s = now_s
        return not full

    def due(self, now_s: float) -> bool:
        """Tell whether what waits should be decoded now."""
        if not len(self):
            return False
        tracks = self._tracks.items()
        if any(len(track.frames) >= _FLUSH_AT[kind] for kind, track in tracks):
            return True
        if self._crossed_s is None:
            return False
        mark = min(track.mark for _, track in tracks)
        waited = now_s - self._crossed_s >= WAIT_S
        return waited or all(track.newest >= mark for _, track in tracks)

    def take(self) -> list[Encoded]:
        """Return all that waits, each track in order of media time."""
        frames: list[Encoded] = []
        for track in self._tracks.values():
            frames += sorted(track.frames, key=lambda frame: frame.tick)
            track.frames = []
            track.mark = max(track.mark, (track.newest // FLUSH_TICKS + 1) * FLUSH_TICKS)
        self.waiting_bytes = 0
        self._crossed_s = None
        return frames
