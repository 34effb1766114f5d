"""One session's way onto the bus: events in without waiting, log, live path and directory out.

The owner of a session puts events; one task writes them in order, over outages too. While the
session lives, its lease in the directory is renewed each second; with it goes a look whether
somebody asked to erase the session's data.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import msgspec
import structlog

from pipeline.errors import BusError
from pipeline.events import Event, SessionEnded
from services.bus.backoff import Backoff
from services.bus.ring import Ring
from services.bus.types import LOG_RECORDS, LogLost, ResultBus, Session, StreamKey
from services.clock import Clock
from services.queues import Registered, Registry
from services.tasks import cancelled

LEASE_MS = 3_000
RENEW_S = 1.0
BATCH_RECORDS = 64
CLOSE_S = 35.0
"""How long :meth:`StreamWriter.close` may take to write out what is held: an outage of half a
minute costs nothing, the end of a session included."""
DRAIN_S = 15.0
"""The same for a session that its process ended to end itself."""

Stop = Literal["fenced", "erased"]
"""``fenced``: a newer publisher owns the stream. ``erased``: the session's data must go."""
_log = structlog.get_logger(__name__)


async def open_writer(
    bus: ResultBus,
    clock: Clock,
    session: Session,
    *,
    on_stop: Callable[[Stop], None] | None = None,
    queues: Registry | None = None,
) -> "StreamWriter":
    """Start a writer for ``session`` (its ``epoch`` from :meth:`ResultBus.epoch`).

    Announces the session when it can; an outage delays that and is no error. ``on_stop`` is called
    once on the event loop when the owner must end the session: after ``fenced`` nothing more is
    written, after ``erased`` the remaining events still are, and :meth:`StreamWriter.close` then
    erases them. With ``queues`` the ring is listed there as ``writer_ring``.
    """
    writer = StreamWriter(bus, clock, session, on_stop, queues)
    await writer.start()
    return writer


class StreamWriter:
    """An ``EventSink`` over the bus. The ring is the only queue: see :class:`Ring`."""

    def __init__(
        self,
        bus: ResultBus,
        clock: Clock,
        session: Session,
        on_stop: Callable[[Stop], None] | None = None,
        queues: Registry | None = None,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._session = session
        self._on_stop = on_stop
        self._key = StreamKey(session.tenant, session.stream)
        self._ring = Ring(session.session_id, session.epoch, session.role)
        self._registered = None if queues is None else self._register(queues)
        self._wake = asyncio.Event()
        self._backoff = Backoff()
        self._renew_at_s = 0.0
        self._verify = False
        self._closing = False
        self._close_s = CLOSE_S
        self._announced = False
        self._task: asyncio.Task[None] | None = None
        self.stopped: Stop | None = None
        self.outages = 0
        self.refills = 0

    async def start(self) -> None:
        """Announce the session and start to write."""
        try:
            await self._announce()
        except BusError as error:
            if not error.retryable:
                raise
            self._outage()
        self._renew_at_s = self._clock.monotonic_s() + RENEW_S
        self._task = asyncio.create_task(self._run(), name="bus-writer")
        self._task.add_done_callback(self._over)

    def put(self, events: Sequence[Event]) -> None:
        """Take events in order of ``seq``; never blocks, never raises for an outage."""
        if self.stopped == "fenced":
            return
        now_s = self._clock.monotonic_s()
        for event in events:
            self._ring.put(event, now_s)
            if isinstance(event, SessionEnded) and event.reason == "drained":
                self._close_s = DRAIN_S
        self._wake.set()

    def erase(self) -> None:
        """Erase the session's records when closing: the owner must end it now."""
        self._erase_asked()

    async def close(self) -> None:
        """Write out what is held, mark the session ended, stop.

        Takes as long as an outage does, at most :data:`CLOSE_S`, or :data:`DRAIN_S` in a process
        that drains.
        """
        self._closing = True
        self._wake.set()
        if self._registered is not None:
            self._registered.close()
        if self._task is None:
            return
        _, late = await asyncio.wait([self._task], timeout=self._close_s)
        if late:
            _log.warning("events left unwritten", count=self._ring.pending)
        await cancelled(self._task)

    def statistics(self) -> dict[str, int]:
        """Return depth and counters of this writer."""
        return {
            "depth": len(self._ring),
            "pending": self._ring.pending,
            "outages_total": self.outages,
            "refills_total": self.refills,
            **{f"dropped_{kind}_total": count for kind, count in self._ring.dropped.items()},
        }

    @property
    def dropped(self) -> dict[str, int]:
        """Events lost before they were written, by kind."""
        return dict(self._ring.dropped)

    def _register(self, queues: Registry) -> Registered:
        return queues.add(
            "writer_ring",
            bound=LOG_RECORDS,
            unit="events",
            rule="drop_oldest",
            depth=lambda: self._ring.pending,
            dropped=lambda: self._ring.dropped,
        )

    def _over(self, task: asyncio.Task[None]) -> None:
        """End the session of a writer that fell over: it cannot write; the others go on."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the writer of a session has fallen over", exc_info=error)
            self._stop("fenced")

    async def _run(self) -> None:
        while not (self._closing and (self.stopped == "fenced" or not self._ring.pending)):
            try:
                await self._step()
            except LogLost:
                self._ring.forget_from(-1)
                await self._survive(self._refill)
            except BusError as error:
                if error.retryable:
                    await self._wait_out()
                else:
                    self._stop("fenced")
        await self._survive(self._end)

    async def _step(self) -> None:
        """Renew when it is time, write what waits, then wait for more."""
        if self._verify:
            await self._compare()
        if self._clock.monotonic_s() >= self._renew_at_s:
            await self._renew()
        self._wake.clear()
        records = self._ring.unwritten(self._clock.monotonic_s(), BATCH_RECORDS)
        if records and self.stopped != "fenced":
            await self._bus.append(self._key, records)
            self._ring.written(records)
            self._backoff.reset()
        elif not self._closing:
            await self._idle()

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(max(0.0, self._renew_at_s - self._clock.monotonic_s())):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _survive(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work`` until it succeeds or the bus refuses it for good."""
        while True:
            try:
                await work()
            except LogLost:
                self._ring.forget_from(-1)
            except BusError as error:
                if not error.retryable:
                    self._stop("fenced")
                    return
                await self._wait_out()
            else:
                return

    async def _wait_out(self) -> None:
        self._outage()
        await asyncio.sleep(self._backoff.next_s())

    def _outage(self) -> None:
        self.outages += 1
        self._verify = True

    async def _compare(self) -> None:
        """After an outage: the log may have lost its newest records, or all of them."""
        last = await self._bus.last(self._key)
        ours = last is not None and last.header.session_id == self._session.session_id
        if last is not None and ours and last.header.seq < self._ring.top:
            self._ring.forget_from(last.header.seq)
        self._verify = False
        if not ours and self._ring.top >= 0:
            raise LogLost

    async def _refill(self) -> None:
        """Write everything that is held into a log that is gone."""
        entry = await self._bus.lookup(self._session.session_id)
        if entry is not None and entry.erase:
            self._erase_asked()
        records = self._ring.held()
        if records:
            await self._bus.append(self._key, records, restart=True)
            self._ring.written(records)
        await self._announce()
        self.refills += 1
        self._verify = False

    async def _renew(self) -> None:
        entry = await self._bus.lookup(self._session.session_id)
        if entry is not None and entry.erase:
            self._erase_asked()
        await self._announce()
        self._renew_at_s = self._clock.monotonic_s() + RENEW_S

    async def _announce(self) -> None:
        quiet, self._announced = self._announced, True
        try:
            await self._bus.announce(self._session, self._clock.wall_ms() + LEASE_MS, quiet=quiet)
        except BusError:
            self._announced = quiet
            raise

    async def _end(self) -> None:
        entry = await self._bus.lookup(self._session.session_id)
        if entry is not None and entry.erase:
            self._erase_asked()  # after the last renewal, or in place of one
        if self.stopped == "erased":
            await self._bus.erase_session(self._key, self._session.epoch)
        ended = msgspec.structs.replace(
            self._session, state="ended", erase=self.stopped == "erased"
        )
        await self._bus.announce(ended, self._clock.wall_ms())

    def _erase_asked(self) -> None:
        if self.stopped is None:
            self._stop("erased")

    def _stop(self, why: Stop) -> None:
        if self.stopped == "fenced":
            return
        self.stopped = why
        _log.info("session must end", why=why)
        if self._on_stop is not None:
            self._on_stop(why)
