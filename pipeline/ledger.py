"""The books of one session's windows: each one cut leaves exactly once, in order of its index.

Outcomes come back in any order; what is answered early waits for what was cut before it. The rule
``cut == left + in_flight`` holds after every call. The book is bounded: when more than ``bound``
windows are in flight, the oldest that has no answer is given up as ``unanswered``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.events import Evidence, EvidenceSet
from pipeline.types import Outcome, SkipReason, Window

NO_TEXT = Evidence(used=False, quality=None, reason="no_asr")


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one window took, in ms."""

    age_ms: int = 0
    """Last media of the window received → answer."""
    queue_ms: int = 0
    score_ms: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What became of a window, and when it was known."""

    result: Outcome | SkipReason
    timing: Timing
    wall_ms: int


@dataclass(slots=True, eq=False)
class Entry:
    """One window that was cut: what is kept of it until it leaves. No media."""

    index: int
    start: int
    end: int
    evidence: EvidenceSet
    """What can be said without a model."""
    answer: Answer | None = None
    degraded: tuple[str, ...] = ()
    """What was left out of it for lack of time (wire field ``degraded``)."""


class Ledger:
    """Windows in flight, by index."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._entries: dict[int, Entry] = {}
        self._next = 0
        self.cut = 0
        self.ignored = 0
        """Answers for windows that were never cut or have their answer already."""

    @property
    def in_flight(self) -> int:
        """Windows cut that did not leave yet."""
        return len(self._entries)

    def add(self, window: Window, degraded: tuple[str, ...] = ()) -> None:
        """Enter a window. Raises :class:`ValueError` unless indices grow."""
        if window.index < self._next:
            raise ValueError(f"window {window.index} after window {self._next - 1}")
        self._next = window.index + 1
        self.cut += 1
        entry = Entry(window.index, window.start, window.end, unread(window), degraded=degraded)
        self._entries[window.index] = entry

    def overdue(self) -> Entry | None:
        """Return the window to give up now because the book is full, or None."""
        if len(self._entries) <= self._bound:
            return None
        return next((e for e in self._entries.values() if e.answer is None), None)

    def answer(self, index: int, answer: Answer) -> bool:
        """Note the answer for a window; the first one counts, others are counted and ignored."""
        entry = self._entries.get(index)
        if entry is None or entry.answer is not None:
            self.ignored += 1
            return False
        entry.answer = answer
        return True

    def unanswered(self) -> list[int]:
        """Return the indices that wait for an answer, oldest first."""
        return [entry.index for entry in self._entries.values() if entry.answer is None]

    def reopened(self) -> list[int]:
        """Forget every answer that has not left; return the indices that wait, oldest first."""
        for entry in self._entries.values():
            entry.answer = None
        return self.unanswered()

    def leave(self) -> Iterator[tuple[Entry, Answer]]:
        """Take out, oldest first, the windows that have an answer and none open before them."""
        while self._entries:
            index, entry = next(iter(self._entries.items()))
            if entry.answer is None:
                return
            del self._entries[index]
            yield entry, entry.answer


def unread(window: Window) -> EvidenceSet:
    """Return what is known of a window's evidence before any model saw it."""
    audio = video = Evidence(used=False, quality=None, reason=None)
    if window.audio is None:
        audio = Evidence(used=False, quality=None, reason="no_track")
    elif not any(window.audio_coverage):
        audio = Evidence(used=False, quality=None, reason="no_media")
    if not window.frames:
        video = Evidence(
            used=False, quality=None, reason="no_track" if window.frames is None else "no_media"
        )
    return EvidenceSet(audio=audio, video=video, text=NO_TEXT)
