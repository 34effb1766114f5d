"""The gateway's view of the bus: which sessions live, and a feed for each one somebody watches.

One reader task takes live records, one healer reads logs where something is missing, one watcher
follows the directory, one ticker looks at leases and at the tops of logs (the loss of a last
message has no successor to reveal it). All end with :meth:`Hub.__aexit__`.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import structlog

from pipeline.errors import BusError
from services.bus.types import (
    Reconnected,
    Record,
    ResultBus,
    Session,
    StreamKey,
    Subscription,
)
from services.clock import Clock
from services.gateway.directory import Directory
from services.gateway.feed import RECORDS, Feed
from services.gateway.notices import Notices
from services.queues import Registered, Registry
from services.tasks import cancelled

TICK_S = 1.0
OPEN_S = 5.0
RETRY_S = 0.2
GRACE_MS = 3_000
"""After an outage owners have this long to renew their leases."""
TAIL_CHECK_TICKS = 5
LINGER_S = 60.0
"""How long a feed that nobody reads stays warm."""
NEWCOMERS = 1024
_LOOK_S = 0.02
TURN_RECORDS = 64
HOLE_PATIENCE_S = 10.0
"""How long an owner has to fill a log that vanished before a hole in it is final."""

Joiner = Callable[[Feed], None]
_log = structlog.get_logger(__name__)


class Hub:
    """Open it with ``async with``; it needs the bus only from then on."""

    def __init__(self, bus: ResultBus, clock: Clock, queues: Registry) -> None:
        self._bus = bus
        self._clock = clock
        self.notices = Notices(clock)
        self.directory = Directory()
        self._tenants: set[str] = set()
        self._feeds: dict[str, Feed] = {}
        self._keys: dict[StreamKey, int] = {}
        self._opening = asyncio.Lock()
        self._sick: dict[str, Feed] = {}
        self._unwell = asyncio.Event()
        self._joiners: dict[str, set[Joiner]] = {}
        self._newcomers: asyncio.Queue[Session] = asyncio.Queue(maxsize=NEWCOMERS)
        self._registered = _register(queues, self._feeds, self._newcomers)
        self._changed = asyncio.Condition()
        self._subscription: Subscription | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._exit: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._closing = False
        self._news: list[Feed] = []
        self._grace_ms = 0
        self.heals = 0
        self.lost = 0

    async def __aenter__(self) -> Self:
        feed = self._bus.subscribe()
        self._subscription = await feed.__aenter__()
        self._exit.append(lambda: _leave(feed))
        jobs = (self._read, self._heal_all, self._watch, self._tick_all, self._welcome)
        self._tasks = [asyncio.create_task(job(), name=f"hub{job.__name__}") for job in jobs]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        await cancelled(*self._tasks)
        for leave in self._exit:
            await leave()
        for queue in self._registered:
            queue.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Say so when a task ends that must not: ``/readyz`` fails from then on."""
        if not self._closing:
            error = None if task.cancelled() else task.exception()
            _log.error("a task of the gateway has ended", task=task.get_name(), exc_info=error)

    @property
    def running(self) -> bool:
        """Tell whether every task of the hub still runs."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    def statistics(self) -> dict[str, int]:
        """Return gauges and counters."""
        return {
            "feeds": len(self._feeds),
            "readers": sum(len(feed.members) for feed in self._feeds.values()),
            "heals_total": self.heals,
            "lost_events_total": self.lost,
        }

    async def serve(self, tenant: str) -> None:
        """Know the tenant's sessions from now on. Raises a retryable ``BusError`` on an outage."""
        if tenant not in self._tenants:
            await self._load(tenant)
            self._tenants.add(tenant)

    async def find(self, tenant: str, session_id: str) -> Session | None:
        """Return a session that ``tenant`` may see, live or lately ended."""
        known = self.directory.get(tenant, session_id)
        if known is not None:
            return known
        entry = await self._bus.lookup(session_id)
        if entry is not None:
            self._put(entry, welcome=entry.state == "live")
        return self.directory.get(tenant, session_id)

    async def feed(self, session: Session) -> Feed:
        """Return the session's feed, filled from its log; live from then on.

        Subscribes first and reads the log after that, so nothing falls between the two. Raises a
        retryable :class:`~pipeline.errors.BusError` when the log cannot be read.
        """
        async with self._opening:
            feed = self._feeds.get(session.session_id)
            if feed is None:
                feed = await self._open(session)
        feed.used_s = self._clock.monotonic_s()
        return feed

    async def _open(self, session: Session) -> Feed:
        feed = Feed(session, self._noted)
        feed.used_s = self._clock.monotonic_s()  # or the ticker would retire it while it opens
        self._feeds[session.session_id] = feed
        self._keys[feed.key] = self._keys.get(feed.key, 0) + 1
        try:
            async with asyncio.timeout(OPEN_S):
                if self._subscription is not None:
                    await self._subscription.add(feed.key)
                replay = await self._bus.replay(feed.key, session.epoch, -1)
        except BaseException as error:
            await self._close(feed)
            if isinstance(error, TimeoutError):
                raise BusError("the bus does not answer", retryable=True) from error
            raise
        feed.heal(replay.records)
        feed.ended = feed.ended or session.state == "ended"
        return feed

    async def _close(self, feed: Feed) -> None:
        self._feeds.pop(feed.session.session_id, None)
        self._sick.pop(feed.session.session_id, None)
        left = self._keys.get(feed.key, 1) - 1
        if left > 0:
            self._keys[feed.key] = left
        else:
            self._keys.pop(feed.key, None)
            if self._subscription is not None:
                await self._subscription.remove(feed.key)

    def on_newcomer(self, tenant: str, joiner: Joiner) -> Callable[[], None]:
        """Call ``joiner`` with the feed of every session that starts; returns how to stop that."""
        joiners = self._joiners.setdefault(tenant, set())
        joiners.add(joiner)
        return lambda: joiners.discard(joiner)

    async def erased(self, session_id: str, patience_s: float) -> bool:
        """Wait until the owner says that the session's data is gone."""

        def done() -> bool:
            entry = self.directory.entry(session_id)
            return entry is not None and entry.erase and entry.state == "ended"

        async with self._changed:
            try:
                async with asyncio.timeout(patience_s):
                    await self._changed.wait_for(done)
            except TimeoutError:
                return False
        return True

    async def settle(self, patience_s: float) -> None:
        """Wait until every feed that is read holds all that its log holds, while that lasts."""
        try:
            async with asyncio.timeout(patience_s):
                for feed in list(self._feeds.values()):
                    while feed.members and not await self._whole(feed):  # noqa: ASYNC110 - asks the bus
                        await asyncio.sleep(_LOOK_S)
        except (BusError, TimeoutError):
            return  # what is missing is announced or read again by whoever resumes

    async def _whole(self, feed: Feed) -> bool:
        if feed.ended:
            return True
        last = await self._bus.last(feed.key)
        if last is None or last.header.epoch != feed.session.epoch:
            return True
        if last.header.seq > feed.last:
            self._heal(feed)
            return False
        return True

    # live records

    async def _read(self) -> None:
        if self._subscription is None:
            return
        taken = 0
        async for item in self._subscription:
            if isinstance(item, Reconnected):
                for feed in self._feeds.values():
                    feed.cause = "bus_reconnect"
                    self._grace_ms = self._clock.wall_ms() + GRACE_MS
                    self._heal(feed)
            else:
                self._receive(*item)
                taken += 1
                if taken % TURN_RECORDS == 0:
                    await asyncio.sleep(0)  # readers must get their turn within a long burst

    def _tell(self) -> None:
        """Tell readers once about all records of this turn of the event loop."""
        news, self._news = dict.fromkeys(self._news), []
        for feed in news:
            feed.tell()

    def _noted(self, feed: Feed) -> None:
        if not self._news:
            asyncio.get_running_loop().call_soon(self._tell)
        self._news.append(feed)

    def _receive(self, key: StreamKey, record: Record) -> None:
        feed = self._feeds.get(record.header.session_id)
        if feed is None or key != feed.key or record.header.epoch != feed.session.epoch:
            return  # nobody's, an older session's, or sent on a channel that is not its own
        if not feed.receive(record):
            self._heal(feed)
        if feed.ended:
            self.directory.end(feed.session.session_id)

    def _heal(self, feed: Feed) -> None:
        self._sick[feed.session.session_id] = feed
        self._unwell.set()

    async def _heal_all(self) -> None:
        while True:
            await self._unwell.wait()
            self._unwell.clear()
            for session_id, feed in list(self._sick.items()):
                self._sick.pop(session_id, None)
                try:
                    well = await self._heal_one(feed)
                except BusError:
                    well = False
                if not well and session_id in self._feeds:
                    self._sick[session_id] = feed
            if self._sick:
                asyncio.get_running_loop().call_later(RETRY_S, self._unwell.set)

    async def _heal_one(self, feed: Feed) -> bool:
        """Read the log; False when what is missing may still come to it.

        A log that lacks even what was published live has just vanished with its server: its owner
        fills it again, so only a log that stays silent for long has truly lost something.
        """
        self.heals += 1
        holes = len(feed.holes)
        replay = await self._bus.replay(feed.key, feed.session.epoch, feed.last)
        feed.heal(replay.records)
        now_s = self._clock.monotonic_s()
        if not feed.held:
            feed.sick_since_s = None
        elif feed.sick_since_s is None:
            feed.sick_since_s = now_s
        elif now_s - feed.sick_since_s > HOLE_PATIENCE_S:
            feed.accept_holes()
            feed.sick_since_s = None
        self.lost += max(0, len(feed.holes) - holes)
        if feed.superseded and not feed.ended:
            for member in tuple(feed.members):
                member.outbox.replaced(member)
        if feed.ended or feed.superseded:
            self.directory.end(feed.session.session_id)
        return not feed.held

    # directory

    async def _load(self, tenant: str) -> None:
        for session in await self._bus.sessions(tenant, self._clock.wall_ms()):
            self._put(session)

    async def _watch(self) -> None:
        async with self._bus.changes() as changes:
            async for change in changes:
                if isinstance(change, Reconnected):
                    await self._reload()
                elif change.tenant in self._tenants:
                    self._put(change)
                async with self._changed:
                    self._changed.notify_all()

    async def _reload(self) -> None:
        for tenant in self._tenants:
            try:
                await self._load(tenant)
            except BusError:
                return  # the ticker finds what is new

    def _put(self, session: Session, *, welcome: bool = True) -> None:
        """Take a change. A session that began and ended while we could not look is news too."""
        if session.erase and session.state == "ended" and session.session_id in self._feeds:
            self._feeds[session.session_id].erase()
        if self.directory.put(session) and welcome:
            for old in self.directory.replaced_by(session):
                self._superseded(old)
            self._introduce(session)

    def _introduce(self, session: Session) -> None:
        """Let readers join who follow everything and do not know the session."""
        if self._newcomers.full():
            _log.warning("too many sessions start at once; the ticker will find this one")
            self.directory.forget([session.session_id])
        else:
            self._newcomers.put_nowait(session)

    def _judge_leases(self, now_ms: int) -> None:
        """Tell readers of owners that are gone, and introduce sessions of those that are back."""
        for session in self.directory.returned(now_ms):
            self._introduce(session)  # who came meanwhile has not been offered it
        for session in self.directory.overdue(now_ms):
            self._owner_lost(session)

    def _superseded(self, old: Session) -> None:
        feed = self._feeds.get(old.session_id)
        if feed is not None and not feed.ended:
            feed.superseded = True
            self._heal(feed)  # its end may still be under way

    async def _welcome(self) -> None:
        while True:
            session = await self._newcomers.get()
            feed = None
            while feed is None and self._joiners.get(session.tenant):
                try:
                    feed = await self.feed(session)
                except BusError:
                    await asyncio.sleep(RETRY_S)
            for joiner in tuple(self._joiners.get(session.tenant, ())):
                if feed is not None:
                    joiner(feed)

    # time

    async def _tick_all(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            ticks += 1
            try:
                await self.tick(tails=ticks % TAIL_CHECK_TICKS == 0)
            except BusError:
                self._grace_ms = self._clock.wall_ms() + GRACE_MS

    async def tick(self, *, tails: bool) -> None:
        """Look at leases, idle feeds and, with ``tails``, at the tops of the logs."""
        if self._sick:
            self._unwell.set()
        now_ms = self._clock.wall_ms()
        for tenant in tuple(self._tenants):
            for session_id in self.directory.renew(await self._bus.leases(tenant, now_ms)):
                entry = await self._bus.lookup(session_id)
                if entry is not None:
                    self._put(entry)
        if now_ms >= self._grace_ms:
            self._judge_leases(now_ms)
        for session_id in self.directory.prune(now_ms):
            self._forget(session_id)
        for feed in list(self._feeds.values()):
            if tails and not feed.ended:
                await self._check_tail(feed)
            await self._retire(feed)

    def _forget(self, session_id: str) -> None:
        """Let readers go whose session the bus has forgotten; nothing of it stays warm here."""
        feed = self._feeds.get(session_id)
        if feed is None:
            return
        for member in tuple(feed.members):
            member.outbox.leave(session_id)
        feed.used_s = -math.inf

    async def _check_tail(self, feed: Feed) -> None:
        last = await self._bus.last(feed.key)
        if last is not None and last.header.session_id == feed.session.session_id:
            if last.header.seq > feed.last:
                self._heal(feed)
        elif last is not None and last.header.epoch > feed.session.epoch:
            self._heal(feed)

    async def _retire(self, feed: Feed) -> None:
        if not feed.members and self._clock.monotonic_s() - feed.used_s > LINGER_S:
            await self._close(feed)

    def _owner_lost(self, session: Session) -> None:
        feed = self._feeds.get(session.session_id)
        if feed is None or feed.ended:
            return
        notice = self.notices.error(
            "stream_lost",
            "the process that owns this session is gone; it may come back as a new session",
            session_id=session.session_id,
        )
        for member in tuple(feed.members):
            member.outbox.answer(notice)


def _register(
    queues: Registry, feeds: dict[str, Feed], newcomers: asyncio.Queue[Session]
) -> list[Registered]:
    cache = queues.add(
        "gw_cache",
        bound=RECORDS,
        unit="events",
        rule="overwrite",
        depth=lambda: max((len(feed.entries) for feed in feeds.values()), default=0),
    )
    fresh = queues.add(
        "gw_newcomers", bound=NEWCOMERS, unit="sessions", rule="reject", depth=newcomers.qsize
    )
    return [cache, fresh]


async def _leave(feed: Any) -> None:
    await feed.__aexit__(None, None, None)
