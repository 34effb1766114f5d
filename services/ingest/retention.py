"""Scores that the policy lets stay shorter than the bus would keep them.

The bus forgets a stream two minutes after its end. Where ``retention_s`` is less, the owner erases
each session that long after its end, as a person's own DELETE would: in the log and in every
gateway. What waits when the process ends is erased then; after a crash the bus's two minutes hold.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import msgspec
import structlog

from pipeline.errors import BusError
from services.bus.types import KEPT_MS, ResultBus, Session, StreamKey
from services.clock import Clock
from services.queues import Registry
from services.tasks import cancelled

SESSIONS: Final = 4096
"""Ended sessions that may wait; beyond that the oldest goes early."""
SPARE: Final = 256
"""… and so many more while the bus is away, which forgets the oldest by itself."""
RETRY_S: Final = 1.0
LAST_S: Final = 3.0
"""How long the end of the process may wait for the last erasures."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Ended:
    due_s: float
    session: Session


class Retention:
    """Erases sessions when their time is over; an async context manager."""

    def __init__(self, bus: ResultBus, clock: Clock, retention_s: int, queues: Registry) -> None:
        self._bus = bus
        self._clock = clock
        self._retention_s = retention_s
        self._waiting: deque[_Ended] = deque(maxlen=SESSIONS + SPARE)
        self._news = asyncio.Event()
        self._early = 0
        self.erased = 0
        """Sessions erased so far."""
        self._task: asyncio.Task[None] | None = None
        self._queue = queues.add(
            "retention",
            bound=SESSIONS,
            unit="sessions",
            rule="drop_oldest",
            depth=lambda: len(self._waiting),
            dropped=lambda: {"early": self._early} if self._early else {},
        )

    async def __aenter__(self) -> Self:
        if self.shortens:
            self._task = asyncio.create_task(self._run(), name="retention")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await cancelled(self._task)
        try:
            async with asyncio.timeout(LAST_S):
                while self._waiting:
                    await self._erase_oldest()
        except (BusError, TimeoutError):
            _log.warning("sessions are left to the bus to forget", count=len(self._waiting))
        self._queue.close()

    @property
    def shortens(self) -> bool:
        """Whether sessions go before the bus would forget them."""
        return self._retention_s * 1000 < KEPT_MS

    def ended(self, session: Session) -> None:
        """Take a session that has just ended."""
        if self.shortens:
            due_s = self._clock.monotonic_s() + self._retention_s
            self._waiting.append(_Ended(due_s, session))
            self._news.set()

    async def _run(self) -> None:
        while True:
            await self._sleep()
            try:
                while self._waiting and self._is_due():
                    await self._erase_oldest()
            except BusError:
                await asyncio.sleep(RETRY_S)

    async def _sleep(self) -> None:
        self._news.clear()
        left_s = self._waiting[0].due_s - self._clock.monotonic_s() if self._waiting else None
        try:
            async with asyncio.timeout(None if left_s is None else max(0.0, left_s)):
                await self._news.wait()
        except TimeoutError:
            return

    def _is_due(self) -> bool:
        if len(self._waiting) > SESSIONS:
            self._early += 1
            return True
        return self._waiting[0].due_s <= self._clock.monotonic_s()

    async def _erase_oldest(self) -> None:
        session = self._waiting[0].session
        await self._bus.erase_session(StreamKey(session.tenant, session.stream), session.epoch)
        over = msgspec.structs.replace(session, state="ended", erase=True)
        await self._bus.announce(over, self._clock.wall_ms())
        self._waiting.popleft()
        self.erased += 1
