"""One reader of one session: a position in the feed and the rules of what it gets next.

Pull, not push: nothing is copied for a reader that is behind. Positions only grow, so delivery is
strictly increasing in ``seq``; every seq that a slow reader does not get lies in exactly one
delivery gap, and what the client itself left out (``events``, ``max_hz``) makes none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.events import DeliveryGapCause
from services.gateway.feed import Entry, Feed
from services.gateway.protocol import Selection

if TYPE_CHECKING:
    from services.gateway.outbox import Outbox


Fate = Literal["send", "leave", "conflate", "hold"]


@dataclass(frozen=True, slots=True)
class Missing:
    """Seqs that this reader will not get."""

    first: int
    last: int


class Member:
    """A place in one feed, owned by an outbox."""

    __slots__ = (
        "_kinds",
        "_lost_until",
        "_next_s",
        "_plain",
        "cursor",
        "feed",
        "outbox",
        "queued",
        "replay_until",
        "selection",
    )

    def __init__(self, feed: Feed, outbox: "Outbox", selection: Selection, after: int) -> None:
        self.feed = feed
        self.outbox = outbox
        self.selection = selection
        self.cursor = after
        """Newest seq that was delivered, left out, or announced as missing."""
        self.replay_until = feed.last
        """Records up to here were asked for: they are never conflated."""
        self.queued = False
        self._lost_until = feed.first - 1
        self._next_s = 0.0
        self._plain = selection.events is None and selection.max_hz is None
        self._kinds: dict[str, bool] = {}

    def _takes(self, kind: str) -> bool:
        wanted = self._kinds.get(kind)
        if wanted is None:
            wanted = self._kinds[kind] = self.selection.takes(kind)
        return wanted

    @property
    def recovered(self) -> int:
        """How many records the feed still holds behind the position, whatever their type."""
        return sum(1 for _ in self.feed.since(self.cursor))

    @property
    def lost(self) -> int:
        """How many records behind the position the feed does not hold any more."""
        return max(0, self.feed.last - self.cursor) - self.recovered

    def why(self, missing: Missing) -> DeliveryGapCause:
        """Return why this reader misses a range."""
        if missing.first <= self._lost_until:
            return "log_trimmed"
        return self.feed.why_missing(missing.first)

    @property
    def behind(self) -> int:
        """How many live records this reader has not taken."""
        return max(0, self.feed.last - max(self.cursor, self.replay_until))

    @property
    def finished(self) -> bool:
        """Tell whether the session is over and everything was taken."""
        return self.feed.ended and self.cursor >= self.feed.last

    def tell(self) -> None:
        """There is something new in the feed."""
        if self._plain or self._wanted():
            self.outbox.ready(self)

    def _wanted(self) -> bool:
        """Move over what was left out; tell whether something is worth a turn."""
        for entry in self.feed.since(self.cursor):
            if entry.seq > self.cursor + 1 or self._takes(entry.kind):
                return True
            self.cursor = entry.seq
        return self.finished

    def run(self) -> bytes | None:
        """Return all that waits as one piece of frames when nothing needs a decision, else None.

        The caller sends it and calls :meth:`sent`.
        """
        if not self._plain or self.feed.ended:
            return None
        return self.feed.run(self.cursor)

    def sent(self) -> None:
        """Everything that waited is on its way."""
        self.cursor = self.feed.last
        self.queued = False

    def overrun(self, entry: Entry) -> None:
        """An event that may never be dropped is about to be overwritten before it was taken."""
        if self._takes(entry.kind):
            self.outbox.overrun()

    def take(
        self, now_s: float, limit: int, *, slow: bool
    ) -> tuple[list[Entry | Missing], float | None]:
        """Return up to ``limit`` entries (with what is missing between them) and move on.

        ``slow``: the connection is behind, so of the live windows only the newest goes out. The
        second value tells when to call again for a window that ``max_hz`` holds back.
        """
        out: list[Entry | Missing] = []
        missing: Missing | None = None
        again_s: float | None = None
        for entry, fate in self._fates(now_s, slow=slow):
            if entry.seq > self.cursor + 1:
                missing = _joined(missing, self.cursor + 1, entry.seq - 1)
            if fate == "hold":
                self.cursor, again_s = entry.seq - 1, self._next_s
                break
            if fate == "conflate":
                missing = _joined(missing, entry.seq, entry.seq)
            elif fate == "send":
                out += [entry] if missing is None else [missing, entry]
                missing = None
            self.cursor = entry.seq
            if len(out) >= limit:
                break
        return (out if missing is None else [*out, missing]), again_s

    def lanes(self) -> int:
        """Return how many events that may not be dropped wait here."""
        return sum(
            not entry.window and self._takes(entry.kind)
            for entry in self.feed.since(max(self.cursor, self.replay_until))
        )

    def _fates(self, now_s: float, *, slow: bool) -> Iterator[tuple[Entry, Fate]]:
        pending = list(self.feed.since(self.cursor))
        wanted = [entry for entry in pending if self._takes(entry.kind)]
        newest = max((entry.seq for entry in wanted if entry.window), default=-1)
        lane = max((entry.seq for entry in wanted if not entry.window), default=-1)
        for entry in pending:
            if not self._takes(entry.kind):
                yield entry, "leave"
            elif not entry.window or entry.seq <= self.replay_until:
                yield entry, "send"
            elif self.selection.max_hz is not None:
                yield entry, self._paced(entry, newest, lane, now_s)
            else:
                yield entry, "conflate" if slow and entry.seq != newest else "send"

    def _paced(self, entry: Entry, newest: int, lane: int, now_s: float) -> Fate:
        """Return what ``max_hz`` makes of a window; a lane event behind it never waits for it."""
        period_s = 1 / (self.selection.max_hz or 1.0)
        if entry.seq != newest or (now_s < self._next_s and lane > entry.seq):
            return "leave"
        if now_s < self._next_s:
            return "hold"
        on_time = now_s - self._next_s < period_s
        self._next_s = (self._next_s if on_time else now_s) + period_s
        return "send"


def _joined(missing: Missing | None, first: int, last: int) -> Missing:
    return Missing(first if missing is None else missing.first, last)
