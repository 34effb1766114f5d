"""The result bus inside one process: for tests and for machines without a server binary.

Same promises as on Redis; what lies here ends with the process. :meth:`MemoryBus.outage` and
:meth:`MemoryBus.wipe` are the fault seams of the tests.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Self, TypeVar

import msgspec

from pipeline.errors import BusError
from services.bus.types import (
    FEED_ITEMS,
    KEPT_MS,
    LOG_RECORDS,
    LogLost,
    Reconnected,
    Record,
    Replay,
    Session,
    StreamKey,
    replay_of,
)
from services.clock import Clock, SystemClock
from services.orders import Kind, Order, check_room

T = TypeVar("T")


@dataclass(slots=True)
class _Log:
    """One stream's log; ``top`` outlives trimming and erasing."""

    records: deque[Record] = field(default_factory=lambda: deque(maxlen=LOG_RECORDS))
    top: tuple[int, int] = (-1, -1)
    expires_s: float = 0.0


class Feed(Generic[T]):
    """Bound :data:`FEED_ITEMS`; on overflow everything goes and one ``Reconnected`` stays."""

    def __init__(self, feeds: "set[Feed[T]]", lost: Counter[str]) -> None:
        self._feeds = feeds
        self._lost = lost
        self._items: deque[T | Reconnected] = deque(maxlen=FEED_ITEMS)
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._feeds.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._feeds.discard(self)

    @property
    def waiting(self) -> int:
        """Items that wait for the reader."""
        return len(self._items)

    def put(self, item: T | Reconnected) -> None:
        """Hand an item to the reader."""
        if len(self._items) == FEED_ITEMS:
            self._lost["overflow"] += len(self._items)
            self._items.clear()
            self._items.append(Reconnected())
        self._items.append(item)
        self._ready.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T | Reconnected:
        while not self._items:
            self._ready.clear()
            await self._ready.wait()
        return self._items.popleft()


class MemorySubscription(Feed[tuple[StreamKey, Record]]):
    """A live feed of records."""

    def __init__(self, feeds: "set[Feed[tuple[StreamKey, Record]]]", lost: Counter[str]) -> None:
        super().__init__(feeds, lost)
        self._keys: set[StreamKey] = set()

    async def add(self, key: StreamKey) -> None:
        """Start to receive records of ``key``."""
        self._keys.add(key)

    async def remove(self, key: StreamKey) -> None:
        """Stop receiving records of ``key``."""
        self._keys.discard(key)

    def put(self, item: tuple[StreamKey, Record] | Reconnected) -> None:
        """Take the record if its stream is subscribed."""
        if isinstance(item, Reconnected) or item[0] in self._keys:
            super().put(item)


class MemoryBus:
    """``ResultBus`` in memory; used from one event loop."""

    name = "memory"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._logs: dict[StreamKey, _Log] = {}
        self._directory: dict[str, Session] = {}
        self._live: set[Feed[tuple[StreamKey, Record]]] = set()
        self._ctl: set[Feed[Session]] = set()
        self._away = False
        self._lost: Counter[str] = Counter()
        self._orders: dict[tuple[Kind, str], Order] = {}

    async def append(
        self, key: StreamKey, records: Sequence[Record], *, restart: bool = False
    ) -> None:
        """Write, then publish."""
        self._reach()
        accepted = self._write(key, records, restart=restart)
        for feed in tuple(self._live):
            for record in accepted:
                feed.put((key, record))

    def _write(self, key: StreamKey, records: Sequence[Record], *, restart: bool) -> list[Record]:
        accepted = []
        for position, record in enumerate(records):
            log = self._log(key)
            opens = record.header.seq == 0 or (restart and position == 0)
            if log is None and not opens:
                raise LogLost
            if log is None:
                log = self._logs[key] = _Log()
            if self._accept(log, record):
                accepted.append(record)
        return accepted

    def _accept(self, log: _Log, record: Record) -> bool:
        header = record.header
        position = (header.epoch, header.seq)
        if position > log.top:
            log.records.append(record)
            log.top = position
            log.expires_s = self._clock.monotonic_s() + KEPT_MS / 1000
            return True
        same = [held for held in log.records if (held.header.epoch, held.header.seq) == position]
        foreign = bool(same) and same[0].header.session_id != header.session_id
        if foreign or (not same and log.top[0] > header.epoch):
            raise BusError("a newer publisher owns this stream", retryable=False)
        return False

    def _log(self, key: StreamKey) -> _Log | None:
        log = self._logs.get(key)
        if log is not None and log.expires_s <= self._clock.monotonic_s():
            del self._logs[key]
            return None
        return log

    def _reach(self) -> None:
        if self._away:
            raise BusError("the bus is away", retryable=True)

    async def epoch(self, key: StreamKey, now_ms: int) -> int:
        """Return the epoch for a new session of ``key``."""
        self._reach()
        log = self._log(key)
        return now_ms if log is None else max(now_ms, log.top[0] + 1)

    def subscribe(self) -> MemorySubscription:
        """Open an empty live feed."""
        return MemorySubscription(self._live, self._lost)

    async def replay(self, key: StreamKey, epoch: int, after: int) -> Replay:
        """Return what the log holds of ``epoch`` behind ``after``."""
        self._reach()
        log = self._log(key)
        held = () if log is None else log.records
        records = (item for item in held if item.header.epoch == epoch and item.header.seq > after)
        return replay_of(tuple(records), after)

    async def last(self, key: StreamKey) -> Record | None:
        """Return the newest record of the stream."""
        self._reach()
        log = self._log(key)
        return log.records[-1] if log is not None and log.records else None

    async def announce(self, session: Session, expires_ms: int, *, quiet: bool = False) -> None:
        """Put or renew a directory entry; a live one keeps its log from expiring."""
        self._reach()
        known = self._directory.get(session.session_id)
        erase = session.erase or (known is not None and known.erase)
        entry = msgspec.structs.replace(session, lease_ms=expires_ms, erase=erase)
        self._directory[session.session_id] = entry
        log = self._log(StreamKey(session.tenant, session.stream))
        if log is not None and session.state == "live":
            log.expires_s = self._clock.monotonic_s() + KEPT_MS / 1000
        for old in [s for s in self._directory.values() if s.lease_ms < expires_ms - 2 * KEPT_MS]:
            del self._directory[old.session_id]
        if not quiet:
            for feed in tuple(self._ctl):
                feed.put(entry)

    async def lookup(self, session_id: str) -> Session | None:
        """Return one directory entry."""
        self._reach()
        return self._directory.get(session_id)

    async def sessions(self, tenant: str, now_ms: int) -> list[Session]:
        """Return the tenant's directory, oldest session first."""
        self._reach()
        return sorted(
            (
                entry
                for entry in self._directory.values()
                if entry.tenant == tenant and entry.lease_ms >= now_ms - KEPT_MS
            ),
            key=lambda entry: (entry.epoch, entry.session_id),
        )

    async def leases(self, tenant: str, now_ms: int) -> dict[str, int]:
        """Return session id → lease expiry."""
        entries = await self.sessions(tenant, now_ms)
        return {entry.session_id: entry.lease_ms for entry in entries}

    def changes(self) -> Feed[Session]:
        """Open the feed of directory changes."""
        return Feed(self._ctl, self._lost)

    async def erase(self, streams: Collection[StreamKey]) -> None:
        """Delete whole logs."""
        self._reach()
        for key in streams:
            self._logs.pop(key, None)

    async def erase_session(self, key: StreamKey, epoch: int) -> None:
        """Delete one epoch of a log."""
        self._reach()
        log = self._log(key)
        if log is not None:
            kept = [record for record in log.records if record.header.epoch != epoch]
            log.records = deque(kept, maxlen=LOG_RECORDS)

    async def give_order(self, order: Order, now_ms: int) -> None:
        """Put or replace an order."""
        standing = {key: held for key, held in self._orders.items() if held.expires_ms > now_ms}
        key = (order.kind, order.name)
        self._reach()
        check_room(len(standing), known=key in standing)
        self._orders = {**standing, key: order}

    async def orders(self, now_ms: int) -> list[Order]:
        """Return what stands."""
        self._reach()
        return [order for order in self._orders.values() if order.expires_ms > now_ms]

    async def ping(self) -> float:
        """Return 0: nothing travels."""
        self._reach()
        return 0.0

    @property
    def feeding(self) -> bool:
        """Whether every live feed still reads: nothing can fall over here."""
        return True

    @property
    def feed_depth(self) -> int:
        """Items that wait in all live feeds."""
        live = sum(feed.waiting for feed in self._live)
        return live + sum(feed.waiting for feed in self._ctl)

    @property
    def feed_dropped(self) -> int:
        """Items that were dropped because a reader fell behind."""
        return self._lost["overflow"]

    def statistics(self) -> dict[str, int]:
        """Return how much is held."""
        return {"logs": len(self._logs)}

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Be away inside the block, then tell every live feed."""
        self._away = True
        try:
            yield
        finally:
            self._away = False
            for records in tuple(self._live):
                records.put(Reconnected())
            for sessions in tuple(self._ctl):
                sessions.put(Reconnected())

    def wipe(self) -> None:
        """Lose everything, as a server that restarts without a disk does."""
        self._logs.clear()
        self._directory.clear()
        self._orders.clear()
