"""Readings kept per session, so that work on a frame or a slot is done once.

Two bounds: keys of one session (the oldest put goes first) and sessions (the least recently used
goes first). Both are counted. A missing entry costs time, never a different answer.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(slots=True)
class CacheCounters:
    """How a cache fared since it was made."""

    hits: int = 0
    misses: int = 0
    entries_dropped: int = 0
    """Entries that gave way to newer ones of their session."""
    sessions_dropped: int = 0
    """Sessions that gave way to others before they were forgotten."""


class SessionCache(Generic[Value]):
    """A bounded map ``(session_id, key) -> value``, owned by one thread."""

    def __init__(self, *, per_session: int, sessions: int) -> None:
        self.per_session = per_session
        self.sessions = sessions
        self.counters = CacheCounters()
        self._kept: OrderedDict[str, OrderedDict[int, Value]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def get(self, session_id: str, key: int) -> Value | None:
        """Return what was put under the key, or ``None``."""
        kept = self._kept.get(session_id)
        if kept is None or key not in kept:
            self.counters.misses += 1
            return None
        self.counters.hits += 1
        self._kept.move_to_end(session_id)
        return kept[key]

    def put(self, session_id: str, key: int, value: Value) -> None:
        """Keep ``value``; whatever lies beyond the bounds leaves."""
        kept = self._kept.setdefault(session_id, OrderedDict())
        self._kept.move_to_end(session_id)
        kept[key] = value
        while len(kept) > self.per_session:
            kept.popitem(last=False)
            self.counters.entries_dropped += 1
        while len(self._kept) > self.sessions:
            self._kept.popitem(last=False)
            self.counters.sessions_dropped += 1

    def forget(self, session_ids: Iterable[str]) -> None:
        """Drop everything of sessions that ended; unknown ids are fine."""
        for session_id in session_ids:
            self._kept.pop(session_id, None)

    def statistics(self) -> dict[str, int]:
        """Return size and counters."""
        return {
            "sessions": len(self._kept),
            "entries": len(self),
            "hits": self.counters.hits,
            "misses": self.counters.misses,
            "entries_dropped": self.counters.entries_dropped,
            "sessions_dropped": self.counters.sessions_dropped,
        }
