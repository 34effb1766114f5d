"""The result bus as its users see it: append, subscribe, replay, and a directory of what is live.

The log per stream is the truth and the live path is best effort: a subscriber who misses a record
reads the log. One session is one epoch of one stream.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from pipeline.errors import BusError
from services.orders import OrderBoard

FEED_ITEMS = 4096
"""Items that wait in one live feed; then everything goes and one ``Reconnected`` stays, upon which
the reader reads what it missed in the logs."""
LOG_RECORDS = 256
"""Records a stream's log keeps; older ones are trimmed."""
KEPT_MS = 120_000
"""How long a log stays after its newest record and a directory entry after its lease."""


@dataclass(frozen=True, slots=True, order=True)
class StreamKey:
    """A stream of one tenant; both parts match ``^[A-Za-z0-9_-]{1,64}$``."""

    tenant: str
    stream: str


class Header(msgspec.Struct, frozen=True, array_like=True):
    """What a gateway must know of an event without decoding it."""

    session_id: str
    epoch: int
    seq: int
    type: str
    role: str


@dataclass(frozen=True, slots=True)
class Record:
    """One event on the bus: routing header and the JSON bytes, forwarded untouched."""

    header: Header
    data: bytes


SessionState = Literal["live", "ended"]


class Session(msgspec.Struct, frozen=True):
    """One entry of the directory."""

    session_id: str
    tenant: str
    stream: str
    epoch: int
    owner: str
    """Id of the ingest process that owns the session."""
    state: SessionState
    role: str
    lease_ms: int = 0
    """Unix ms until which the owner vouches for the session (set by the bus on reading)."""
    erase: bool = False
    """Somebody asked to erase this session's data; once set it stays set."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What the log still holds after a position, oldest first."""

    records: tuple[Record, ...]
    lost: tuple[int, int] | None
    """First and last seq that were asked for and are gone; None when the replay is complete."""


def replay_of(records: tuple[Record, ...], after: int) -> Replay:
    """Return ``records`` (all with ``seq > after``) with what is missing before the first."""
    if not records or records[0].header.seq == after + 1:
        return Replay(records, None)
    return Replay(records, (after + 1, records[0].header.seq - 1))


class LogLost(BusError):
    """The log of a live stream is gone (server restarted, key expired): write it anew."""

    def __init__(self) -> None:
        super().__init__("the stream's log is gone from the bus", retryable=True)


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The live path was down and is back: heal from the log."""


class Subscription(Protocol):
    """A live feed whose set of streams may change at any time."""

    async def add(self, key: StreamKey) -> None:
        """Start to receive records of ``key``; returns when the server confirmed it."""

    async def remove(self, key: StreamKey) -> None:
        """Stop receiving records of ``key``."""

    def __aiter__(self) -> AsyncIterator[tuple[StreamKey, Record] | Reconnected]:
        """Yield records as they come; never ends by itself, never raises for an outage."""


class FeedCounts(Protocol):
    """What a bus tells of its live feeds, each of which holds :data:`FEED_ITEMS` at most."""

    @property
    def feeding(self) -> bool:
        """Whether every live feed still reads; an outage of the server is none of its faults."""

    @property
    def feed_depth(self) -> int:
        """Items that wait in all feeds."""

    @property
    def feed_dropped(self) -> int:
        """Items that were dropped because a reader fell behind."""


class ResultBus(OrderBoard, Protocol):
    """Memory, Redis or Valkey; opened and closed by its owner."""

    async def append(
        self, key: StreamKey, records: Sequence[Record], *, restart: bool = False
    ) -> None:
        """Write ``records`` to the log in order, wait for the answers, then publish them.

        Idempotent: a record that is already in the log is not an error and is not published twice.
        A record with ``seq`` 0 starts the log, any other one needs it; when the log is gone,
        :class:`LogLost` asks for everything again with ``restart`` set.
        Raises :class:`~pipeline.errors.BusError`: ``retryable`` when the server is away, not
        retryable when a newer epoch owns the stream (nothing is published then).
        """

    async def epoch(self, key: StreamKey, now_ms: int) -> int:
        """Return the epoch for a new session: ``max(now_ms, epoch of the newest record + 1)``."""

    def subscribe(self) -> AbstractAsyncContextManager[Subscription]:
        """Open an empty live feed; it reconnects and resubscribes by itself."""

    async def replay(self, key: StreamKey, epoch: int, after: int) -> Replay:
        """Return the records of ``epoch`` with ``seq > after`` (``-1``: all) that the log holds."""

    async def last(self, key: StreamKey) -> Record | None:
        """Return the newest record of the stream, or None."""

    async def announce(self, session: Session, expires_ms: int, *, quiet: bool = False) -> None:
        """Put or renew a session in the directory until ``expires_ms`` (unix ms).

        The entry stays readable :data:`KEPT_MS` longer. ``quiet`` renews without telling
        :meth:`changes`.
        """

    async def lookup(self, session_id: str) -> Session | None:
        """Return the directory entry of a session, live or lately ended."""

    async def sessions(self, tenant: str, now_ms: int) -> list[Session]:
        """Return all entries of a tenant not older than :data:`KEPT_MS`, oldest session first."""

    async def leases(self, tenant: str, now_ms: int) -> dict[str, int]:
        """Return session id → lease expiry (unix ms) of what :meth:`sessions` would return."""

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[Session | Reconnected]]:
        """Open the feed of directory changes (``demeanor:ctl``)."""

    async def erase(self, keys: Collection[StreamKey]) -> None:
        """Delete the logs of streams."""

    async def erase_session(self, key: StreamKey, epoch: int) -> None:
        """Delete one session's records from its stream's log; other epochs stay."""

    async def ping(self) -> float:
        """Return the round trip in seconds. Raises a retryable ``BusError`` when away."""
