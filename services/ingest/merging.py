"""Brings the tracks of a file into one order of media time, however the file interleaves them.

Items of each track come in in order, the same items go out in order of their ticks, so that
windows find both tracks where they belong and nothing of a badly interleaved file comes too late.
"""

from collections import deque
from collections.abc import Sequence

from pipeline.types import TICKS_PER_S, AudioChunk, Kind, VideoFrame
from services.ingest.items import Ended, Item, Reached

MAX_LEAD_TICKS = 20 * TICKS_PER_S
"""How far one track may run ahead in the file before the other is waited for no longer; held back
meanwhile: 80 pictures and 640 kB of sound."""
MAX_ITEMS = 4096
"""… nor longer than this, however short the items of a strange file are."""


def track_of(item: Item) -> Kind:
    """Return the track an item belongs to."""
    if isinstance(item, AudioChunk):
        return "audio"
    return "video" if isinstance(item, VideoFrame) else item.kind


def tick_of(item: AudioChunk | VideoFrame | Reached) -> int:
    """Return the place of an item on the media clock."""
    if isinstance(item, AudioChunk):
        return item.start
    return item.at if isinstance(item, VideoFrame) else item.tick


def end_of(item: AudioChunk | VideoFrame | Reached) -> int:
    """Return the tick before which its track has nothing more to give."""
    return item.start + len(item.samples) if isinstance(item, AudioChunk) else tick_of(item)


class Merger:
    """Merges tracks; give with :meth:`add`, take what it returns."""

    def __init__(self, tracks: Sequence[Kind]) -> None:
        self._waiting: dict[Kind, deque[Item]] = {kind: deque() for kind in tracks}
        self._at: dict[Kind, int] = dict.fromkeys(tracks, 0)
        self.gave_way = 0
        """Items handed over out of order because the other track was too far behind."""

    def add(self, item: Item) -> list[Item]:
        """Take one item; return all that are next in order of media time."""
        kind = track_of(item)
        self._waiting[kind].append(item)
        if not isinstance(item, Ended):
            self._at[kind] = max(self._at[kind], end_of(item))
        return self._ready()

    def rest(self) -> list[Item]:
        """Return what is still held, in order; the file is over."""
        items = [item for queue in self._waiting.values() for item in queue]
        for queue in self._waiting.values():
            queue.clear()
        media = [item for item in items if not isinstance(item, Ended)]
        ends = [item for item in items if isinstance(item, Ended)]
        return [*sorted(media, key=tick_of), *ends]

    def _ready(self) -> list[Item]:
        ready: list[Item] = []
        while (kind := self._next()) is not None:
            item = self._waiting[kind].popleft()
            ready.append(item)
            if isinstance(item, Ended):
                del self._waiting[kind]
        return ready

    def _next(self) -> Kind | None:
        """Return the track whose first item is next, or None while that cannot be told."""
        heads = {kind: queue[0] for kind, queue in self._waiting.items() if queue}
        if not heads:
            return None
        kind = min(heads, key=lambda name: _order(heads[name]))
        if len(heads) == len(self._waiting):
            return kind
        behind = min(self._at[name] for name in self._waiting if name not in heads)
        first = _order(heads[kind])[0]
        if first <= behind:
            return kind
        full = len(self._waiting[kind]) > MAX_ITEMS
        if full or max(self._at.values()) - behind > MAX_LEAD_TICKS:
            self.gave_way += 1
            return kind
        return None


def _order(item: Item) -> tuple[float, int]:
    """Ticks first; a track's end comes as soon as it is the first in its queue."""
    return (-1.0, 0) if isinstance(item, Ended) else (float(tick_of(item)), 1)
