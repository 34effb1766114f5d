"""One session as the gateway holds it: its newest records once, for all its readers.

Readers (:class:`~services.gateway.member.Member`) keep a position each and take records from here,
so a thousand readers cost no copy. No I/O and no clock: the hub fills the feed and heals it.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pipeline.events import DeliveryGapCause
from services.bus.types import LOG_RECORDS, Record, Session, StreamKey

if TYPE_CHECKING:
    from services.gateway.member import Member

HOLES = 64
RECORDS = LOG_RECORDS + 128
"""More than the log: a log read at once must not push out what readers still need."""
_WINDOWS = frozenset({"window.scored", "window.skipped"})
_TEXT_FRAME = 0x81
_LENGTH_16, _LENGTH_64 = 126, 127


def text_frame(data: bytes) -> bytes:
    """Return ``data`` as one unmasked WebSocket text frame (RFC 6455 §5.2)."""
    size = len(data)
    if size < _LENGTH_16:
        return bytes((_TEXT_FRAME, size)) + data
    if size < 1 << 16:
        return bytes((_TEXT_FRAME, _LENGTH_16)) + size.to_bytes(2, "big") + data
    return bytes((_TEXT_FRAME, _LENGTH_64)) + size.to_bytes(8, "big") + data


class Entry:
    """A record as a ready frame, made once however many readers there are."""

    __slots__ = ("_header_bytes", "frame", "header", "kind", "seq", "window")

    def __init__(self, record: Record) -> None:
        self.header = record.header
        self.seq = record.header.seq
        self.kind = record.header.type
        self.window = self.kind in _WINDOWS
        self.frame = text_frame(record.data)
        self._header_bytes = len(self.frame) - len(record.data)

    @property
    def data(self) -> bytes:
        """The event's JSON."""
        return self.frame[self._header_bytes :]


class Feed:
    """The last :data:`RECORDS` records of a session, in order of seq.

    Overwrites the oldest. A reader that has not taken an overwritten window gets a delivery gap;
    one that has not taken another event is :meth:`~Member.overrun`.

    ``on_news`` is called when the readers have something to take; its owner then calls
    :meth:`tell`, once for all records of a turn.
    """

    def __init__(self, session: Session, on_news: "Callable[[Feed], None] | None" = None) -> None:
        self.session = session
        self.key = StreamKey(session.tenant, session.stream)
        self.entries: deque[Entry] = deque(maxlen=RECORDS)
        self.last = -1
        """Newest seq taken in."""
        self.members: set[Member] = set()
        self.held: dict[int, Record] = {}
        """Records that came before one that is still missing; at most ``LOG_RECORDS``."""
        self.holes: deque[tuple[int, int, DeliveryGapCause]] = deque(maxlen=HOLES)
        """Ranges that the log does not hold any more."""
        self.cause: DeliveryGapCause = "log_trimmed"
        self.ended = False
        self.superseded = False
        """A session with a higher epoch lives on the same stream."""
        self.used_s = 0.0
        self.sick_since_s: float | None = None
        """Since when :attr:`held` waits for a log that does not have what is missing."""
        self._on_news = on_news or Feed.tell
        self._whole_from = 0
        self._runs: dict[int, bytes] = {}

    @property
    def first(self) -> int:
        """Oldest seq held; one past the newest when nothing is held."""
        return self.entries[0].seq if self.entries else self.last + 1

    def receive(self, record: Record) -> bool:
        """Take a live record; False asks the hub to heal: something before it is missing."""
        seq = record.header.seq
        if seq <= self.last:
            return True
        if seq == self.last + 1:
            self._take(record)
            self._take_held()
            return not self.held
        if len(self.held) < LOG_RECORDS:
            self.held[seq] = record
        return False

    def heal(self, records: tuple[Record, ...]) -> None:
        """Take what the log holds behind :attr:`last`; what it lacks is a hole for good."""
        for record in records:
            if record.header.seq > self.last:
                self._leap(record.header.seq)
                self._take(record)
        self._take_held()

    def erase(self) -> None:
        """Drop everything but the end: readers still learn that the session is over."""
        kept = [entry for entry in self.entries if entry.kind == "session.ended"]
        self.entries = deque(kept, maxlen=RECORDS)
        self._runs.clear()
        self.held.clear()
        self.ended = True

    def accept_holes(self) -> None:
        """Give up on what is missing before the records that are held."""
        while self.held:
            seq = min(self.held)
            self._leap(seq)
            self._take_held()

    def since(self, after: int) -> Iterator[Entry]:
        """Yield what is held with ``seq > after``, oldest first."""
        if not self.entries or self.entries[-1].seq <= after:
            return iter(())
        newer = []
        for entry in reversed(self.entries):
            if entry.seq <= after:
                break
            newer.append(entry)
        return reversed(newer)

    def run(self, after: int) -> bytes | None:
        """Return the frames of everything behind ``after`` in one piece, shared by all readers.

        None when something behind it is missing, or nothing is there.
        """
        if after + 1 < max(self.first, self._whole_from) or after >= self.last:
            return None
        frames = self._runs.get(after)
        if frames is None:
            frames = self._runs[after] = b"".join(entry.frame for entry in self.since(after))
        return frames

    def tell(self) -> None:
        """Tell every reader that there is something to take."""
        for member in tuple(self.members):
            member.tell()

    def why_missing(self, seq: int) -> DeliveryGapCause:
        """Return why ``seq`` cannot be delivered to a reader that asks for it."""
        for first, last, cause in self.holes:
            if first <= seq <= last:
                return cause
        return "slow_reader"

    def mean_bytes(self) -> int:
        """Return about how long one record is."""
        return len(self.entries[-1].frame) if self.entries else 0

    def _leap(self, seq: int) -> None:
        if seq > self.last + 1:
            self.holes.append((self.last + 1, seq - 1, self.cause))
            self.last = seq - 1
            self._whole_from = seq
        self.cause = "log_trimmed"

    def _take_held(self) -> None:
        while (record := self.held.pop(self.last + 1, None)) is not None:
            self._take(record)
        for seq in [seq for seq in self.held if seq <= self.last]:
            del self.held[seq]

    def _take(self, record: Record) -> None:
        entry = Entry(record)
        if len(self.entries) == RECORDS:
            self._evict(self.entries[0])
        self._runs.clear()
        self.entries.append(entry)
        self.last = entry.seq
        if entry.kind == "session.ended":
            self.ended = True
        self._on_news(self)

    def _evict(self, oldest: Entry) -> None:
        if oldest.window:
            return
        for member in self.members:
            if member.cursor < oldest.seq:
                member.overrun(oldest)
