"""What waits for one connection: its answers, and its places in the feeds.

Bounds: 256 answers of its own; records wait in the shared feeds, at most 256 per session. When more
than 256 records or 1 MiB wait for this connection, windows are conflated (newest per session) until
it has caught up; other events never. Nothing here blocks: the sender calls :meth:`Outbox.take`.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from services.gateway.feed import Entry
from services.gateway.member import Member
from services.gateway.notices import Notices
from services.gateway.protocol import Closing, Code
from services.queues import Registered, Registry

QUEUE_MESSAGES = 256
QUEUE_BYTES = 1 << 20
LANE_EVENTS = 256
LANE_PATIENCE_S = 5.0
"""How long the lane of events that are never dropped may stay full."""
_SHARE = 32
"""Records one session may send before the next has its turn."""
_log = structlog.get_logger(__name__)


class Outbox:
    """Fed by feeds and by the connection's own answers, emptied by one sender."""

    def __init__(self, notices: Notices, now_s: Callable[[], float]) -> None:
        self._notices = notices
        self._now_s = now_s
        self._answers: deque[bytes] = deque(maxlen=QUEUE_MESSAGES)
        self._due: deque[Member] = deque()
        self._timers: set[asyncio.TimerHandle] = set()
        self._wake = asyncio.Event()
        self._lane_full_s: float | None = None
        self.on_ready: Callable[[], None] = self._wake.set
        """Called when something waits; a sender of its own sets it and may :meth:`wake` later."""
        self.members: dict[str, Member] = {}
        """By session id."""
        self.tenant: str | None = None
        """Whose events this connection may get; the first place tells it when nobody did."""
        self.foreign = 0
        """Places that were refused or given up because they are another tenant's."""
        self.follows_all = False
        """Whether sessions that start later are joined too."""
        self.closing: Closing | None = None
        self.conflated = 0
        """Windows that were left out because the connection was slow."""

    def registered(self, queues: Registry) -> Registered:
        """Put this queue into the registry while the result is open."""
        return queues.add(
            "gw_out",
            bound=QUEUE_MESSAGES,
            unit="messages",
            rule="latest_wins",
            depth=lambda: len(self._answers) + self.backlog[0],
            dropped=lambda: {"conflated": self.conflated},
        )

    def answer(self, message: bytes) -> None:
        """Queue a message of the gateway's own; it goes out before any event."""
        if len(self._answers) == QUEUE_MESSAGES:
            self.close(Code.SLOW_READER, "slow_reader", "answers pile up: read faster")
            return
        self._answers.append(message)
        self.on_ready()

    def answers(self) -> list[bytes]:
        """Return the own messages that wait; they are gone from the queue then."""
        waiting = list(self._answers)
        self._answers.clear()
        return waiting

    @property
    def expects(self) -> bool:
        """Tell whether any event can still come."""
        return self.follows_all or bool(self.members) or bool(self._answers)

    def join(self, member: Member) -> None:
        """Take a place in a feed; an older place in the same feed is given up."""
        session_id = member.feed.session.session_id
        self.leave(session_id)
        if self.tenant is None:
            self.tenant = member.feed.session.tenant
        if member.finished or self._is_foreign(member):
            return
        self.members[session_id] = member
        member.feed.members.add(member)
        if member.cursor < member.feed.last:
            self.ready(member)

    def _is_foreign(self, member: Member) -> bool:
        """Tell, and note, whether a place is another tenant's: a fault of ours, never of a reader.

        Looked at when a place is taken and again whenever something is sent from it.
        """
        foreign = member.feed.session.tenant != self.tenant
        if foreign:
            self.foreign += 1
            _log.error("a place of another tenant was refused")
        return foreign

    def leave(self, session_id: str) -> None:
        """Give up the place in a session's feed."""
        member = self.members.pop(session_id, None)
        if member is not None:
            member.feed.members.discard(member)

    def leave_all(self) -> None:
        """Give up every place and timer; the connection is gone."""
        for session_id in list(self.members):
            self.leave(session_id)
        for timer in self._timers:
            timer.cancel()
        self._due.clear()

    def ready(self, member: Member) -> None:
        """``member`` has something to send."""
        if not member.queued:
            member.queued = True
            self._due.append(member)
            self.on_ready()

    def replaced(self, member: Member) -> None:
        """A newer publisher took over the stream of a session that never ended."""
        session_id = member.feed.session.session_id
        self.leave(session_id)
        message = "a newer publisher took over this stream; subscribe to its new session"
        if self.follows_all or self.members:
            self.answer(self._notices.error("stream_replaced", message, session_id=session_id))
        else:
            self.close(Code.REPLACED, "stream_replaced", message)

    def overrun(self) -> None:
        """An event that is never dropped was overwritten in its feed."""
        self.close(Code.SLOW_READER, "slow_reader", "alerts pile up: read faster or ask for less")

    def close(self, code: Code, error: str, reason: str) -> None:
        """Ask the connection to end; the first reason counts."""
        if self.closing is None:
            self.closing = Closing(code, error, reason)
            self._wake.set()

    def wake(self) -> None:
        """Let :meth:`wait` return."""
        self._wake.set()

    async def wait(self) -> None:
        """Return when there is something to send or the connection must end."""
        await self._wake.wait()
        self._wake.clear()

    @property
    def backlog(self) -> tuple[int, int]:
        """Live records that wait, and about how many bytes they have."""
        records = octets = 0
        for member in self._due:
            behind = member.behind
            records += behind
            octets += behind * member.feed.mean_bytes()
        return records, octets

    @property
    def waiting(self) -> bool:
        """Tell whether something waits or the connection must end."""
        return bool(self._due or self._answers or self.closing)

    def runs(self, limit_bytes: int) -> list[bytes] | None:
        """Return frames of everything that waits, shared with other readers; the usual case.

        None when something needs a decision: then :meth:`take` is for it, and nothing moved.
        """
        if self._answers or self.closing:
            return None
        pieces = []
        for member in self._due:
            piece = member.run() if member.feed.session.tenant == self.tenant else None
            if piece is None or (limit_bytes := limit_bytes - len(piece)) < 0:
                return None
            pieces.append(piece)
        for member in self._due:
            member.sent()
        self._due.clear()
        return pieces

    def take(self, limit_bytes: int) -> list[bytes | Entry]:
        """Return what goes out next: own messages as bytes, records as entries."""
        answers = self.answers()
        size = sum(map(len, answers))
        out: list[bytes | Entry] = [*answers]
        records, octets = self.backlog
        slow = records > QUEUE_MESSAGES or octets > QUEUE_BYTES
        now_s = self._now_s()
        self._watch_lane(slow, now_s)
        while self._due and size < limit_bytes:
            member = self._due.popleft()
            member.queued = False
            size += self._turn(member, out, now_s, slow=slow)
        return out

    def _turn(self, member: Member, out: list[bytes | Entry], now_s: float, *, slow: bool) -> int:
        session = member.feed.session.session_id
        if self.members.get(session) is not member:
            return 0
        if self._is_foreign(member):
            self.leave(session)
            return 0
        items, again_s = member.take(now_s, _SHARE, slow=slow)
        size = 0
        for item in items:
            if isinstance(item, Entry):
                out.append(item)
                size += len(item.frame)
            else:
                cause = member.why(item)
                if cause == "slow_reader":
                    self.conflated += item.last - item.first + 1
                gap = self._notices.gap(session, item.first, item.last, cause)
                out.append(gap)
                size += len(gap)
        if again_s is not None:
            self._later(member, again_s - now_s)
        elif member.cursor < member.feed.last:
            self.ready(member)
        elif member.finished:
            self.leave(session)
        return size

    def _later(self, member: Member, delay_s: float) -> None:
        def fire() -> None:
            self._timers.discard(timer)
            self.ready(member)

        member.queued = False
        timer = asyncio.get_running_loop().call_later(max(0.0, delay_s), fire)
        self._timers.add(timer)

    def _watch_lane(self, slow: bool, now_s: float) -> None:
        if not slow or sum(member.lanes() for member in self._due) <= LANE_EVENTS:
            self._lane_full_s = None
        elif self._lane_full_s is None:
            self._lane_full_s = now_s
        elif now_s - self._lane_full_s > LANE_PATIENCE_S:
            self.overrun()
