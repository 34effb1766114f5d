"""What a stream's writer still holds: events not yet written, and written ones for a refill.

A log can vanish with its server; then everything held here is written again. No clock, no I/O.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from pipeline.events import Event, WindowScored, decode, encode
from services.bus.types import LOG_RECORDS, Header, Record

LANE_BOUND = 4 * LOG_RECORDS
"""Events other than windows are kept up to here over an outage; an alert every second for a
quarter of an hour."""
LATE_S = 3.0
_WINDOWS = ("window.scored", "window.skipped")


@dataclass(slots=True)
class _Entry:
    record: Record
    put_s: float
    written: bool = False


class Ring:
    """Events of one session in order of ``seq``.

    Holds :data:`~services.bus.types.LOG_RECORDS` events. Without room, written ones go first, then
    the oldest unwritten window; other events never, up to :data:`LANE_BOUND`.
    """

    def __init__(self, session_id: str, epoch: int, role: str) -> None:
        self._session_id = session_id
        self._epoch = epoch
        self._role = role
        self._entries: list[_Entry] = []
        self.dropped: dict[str, int] = {"window": 0, "lane": 0}
        """Events lost before they were written."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, event: Event, now_s: float) -> None:
        """Take the next event; ``now_s`` is monotonic."""
        if event.seq is None:
            raise ValueError("only events with a seq belong in the log")
        kind = str(type(event).__struct_config__.tag)
        header = Header(self._session_id, self._epoch, event.seq, kind, self._role)
        self._entries.append(_Entry(Record(header, encode(event)), now_s))
        while len(self._entries) > LOG_RECORDS and self._make_room():
            pass

    def unwritten(self, now_s: float, limit: int) -> list[Record]:
        """Return up to ``limit`` unwritten records, oldest first.

        A window that waited longer than :data:`LATE_S` says so in ``degraded``.
        """
        due = [entry for entry in self._entries if not entry.written][:limit]
        for entry in due:
            if now_s - entry.put_s > LATE_S:
                entry.record = _late(entry.record)
        return [entry.record for entry in due]

    def held(self) -> list[Record]:
        """Return everything, oldest first, for a log that lost it."""
        return [entry.record for entry in self._entries]

    def written(self, records: Sequence[Record]) -> None:
        """Mark records as being in the log."""
        seqs = {record.header.seq for record in records}
        for entry in self._entries:
            entry.written = entry.written or entry.record.header.seq in seqs

    def forget_from(self, seq: int) -> None:
        """Mark what is behind ``seq`` as unwritten: the log's top is there."""
        for entry in self._entries:
            if entry.record.header.seq > seq:
                entry.written = False

    @property
    def pending(self) -> int:
        """How many events are not written yet."""
        return sum(not entry.written for entry in self._entries)

    @property
    def top(self) -> int:
        """The newest ``seq`` that was written, -1 before the first."""
        return max((e.record.header.seq for e in self._entries if e.written), default=-1)

    def _make_room(self) -> bool:
        if self._entries[0].written:
            del self._entries[0]
            return True
        for index, entry in enumerate(self._entries):
            if entry.record.header.type in _WINDOWS:
                self.dropped["window"] += 1
                del self._entries[index]
                return True
        if len(self._entries) > LANE_BOUND:
            self.dropped["lane"] += 1
            del self._entries[0]
        return False


def _late(record: Record) -> Record:
    if record.header.type != "window.scored":
        return record
    event = decode(record.data)
    if not isinstance(event, WindowScored) or "late" in event.degraded:
        return record
    late = msgspec.structs.replace(event, degraded=[*event.degraded, "late"])
    return Record(record.header, encode(late))
