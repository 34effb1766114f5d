"""Writes of all streams of a process, pipelined per turn of the event loop.

While one pipeline is on its way, what arrives waits and leaves with the next. Each round is two
pipelines: the log entries, then, for those the server accepted, the best-effort copies. Never one
pipeline and never MULTI: a refused XADD does not stop the commands after it, so a zombie writer
would still publish.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType

import structlog
from redis.exceptions import RedisError, ResponseError

from pipeline.errors import BusError
from services.bus import keys
from services.bus.server import Client
from services.bus.types import KEPT_MS, LOG_RECORDS, LogLost, Record, StreamKey

_log = structlog.get_logger(__name__)


class _Fate(Enum):
    """What the server did with one record."""

    WRITTEN = 0
    ALREADY_THERE = 1
    FENCED = 2
    NO_LOG = 3
    FAILED = 4


@dataclass(slots=True)
class _Job:
    """One call of :meth:`Appender.append`; ``done`` resolves when its answers are in."""

    key: StreamKey
    records: Sequence[Record]
    restart: bool
    done: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Appender:
    """Owner of the write path. ``_jobs`` holds at most one job per waiting caller."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jobs: list[_Job] = []
        self._task: asyncio.Task[None] | None = None
        self.publish_errors = 0
        self.fenced = 0

    async def append(self, key: StreamKey, records: Sequence[Record], *, restart: bool) -> None:
        """Do what :meth:`services.bus.types.ResultBus.append` promises."""
        if not records:
            return
        job = _Job(key, records, restart)
        self._jobs.append(job)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._rounds(), name="bus-append")
        await job.done

    async def close(self) -> None:
        """Let the round under way end."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _rounds(self) -> None:
        while self._jobs:
            jobs, self._jobs = self._jobs, []
            try:
                await self._round(jobs)
            except (RedisError, OSError) as error:
                _refuse(jobs, away(error))
            finally:
                _refuse(jobs, BusError("the bus is closing", retryable=True))

    async def _round(self, jobs: Sequence[_Job]) -> None:
        answers = await self._write(jobs)
        accepted: list[tuple[StreamKey, Record]] = []
        outcome: list[tuple[_Job, BusError | None]] = []
        for job, job_answers in zip(jobs, answers, strict=True):
            fates = [
                await self._fate(job.key, record, answer)
                for record, answer in zip(job.records, job_answers, strict=True)
            ]
            outcome.append((job, self._verdict(fates, job_answers)))
            accepted += [
                (job.key, record)
                for record, fate in zip(job.records, fates, strict=True)
                if fate is _Fate.WRITTEN
            ]
        await self._publish(accepted)
        for job, error in outcome:
            if error is None and not job.done.done():
                job.done.set_result(None)
            elif error is not None:
                _refuse([job], error)

    async def _write(self, jobs: Sequence[_Job]) -> list[list[object]]:
        pipe = self._client.pipeline(transaction=False)
        for job in jobs:
            name = keys.log(job.key)
            for position, record in enumerate(job.records):
                opens = record.header.seq == 0 or (job.restart and position == 0)
                pipe.execute_command(*_xadd(name, record, opens=opens))
            pipe.pexpire(name, KEPT_MS)
        answers = await pipe.execute(raise_on_error=False)
        per_job: list[list[object]] = []
        for job in jobs:
            per_job.append(answers[: len(job.records)])
            answers = answers[len(job.records) + 1 :]
        return per_job

    async def _fate(self, key: StreamKey, record: Record, answer: object) -> _Fate:
        if answer is None:
            return _Fate.NO_LOG
        if not isinstance(answer, ResponseError):
            return _Fate.WRITTEN
        return await self._judge(key, record)

    async def _judge(self, key: StreamKey, record: Record) -> _Fate:
        """Tell why an id was refused, from the log's state and never from the error's words."""
        name, mine = keys.log(key), (record.header.epoch, record.header.seq)
        entry_id = keys.entry_id(record.header)
        present = await self._client.xrange(name, entry_id, entry_id)
        if present:
            return _same_session(present[0], record)
        if not await self._client.exists(name):
            return _Fate.FAILED
        info = await self._client.xinfo_stream(name)
        last = tuple(int(part) for part in info["last-generated-id"].split(b"-"))
        if last < mine:
            return _Fate.FAILED
        if last[0] > mine[0]:
            self.fenced += 1
            return _Fate.FENCED
        return _Fate.ALREADY_THERE  # our own epoch, and trimmed or erased since

    def _verdict(self, fates: Sequence[_Fate], answers: Sequence[object]) -> BusError | None:
        if _Fate.FENCED in fates:
            return BusError("a newer publisher owns this stream", retryable=False)
        if _Fate.NO_LOG in fates:
            return LogLost()
        if _Fate.FAILED in fates:
            return BusError(
                f"the bus refused a write: {answers[fates.index(_Fate.FAILED)]}", retryable=True
            )
        return None

    async def _publish(self, accepted: Sequence[tuple[StreamKey, Record]]) -> None:
        if not accepted:
            return
        pipe = self._client.pipeline(transaction=False)
        for key, record in accepted:
            pipe.execute_command("PUBLISH", keys.channel(key), keys.pack(record))
        try:
            answers = await pipe.execute(raise_on_error=False)
        except (RedisError, OSError):
            # The log has them: subscribers see the hole or the reconnect and read it there.
            self.publish_errors += len(accepted)
        else:
            self.publish_errors += sum(isinstance(answer, Exception) for answer in answers)


def away(error: Exception) -> BusError:
    """Return the error of a server that cannot be reached or does not answer."""
    return BusError(f"Redis is away ({type(error).__name__})", retryable=True)


def _xadd(name: str, record: Record, *, opens: bool) -> list[str | bytes | int]:
    command: list[str | bytes | int] = ["XADD", name]
    if not opens:
        command.append("NOMKSTREAM")
    command += ["MAXLEN", LOG_RECORDS, keys.entry_id(record.header)]
    return [*command, "h", keys.pack_header(record.header), "d", record.data]


def _same_session(entry: tuple[bytes, dict[bytes, bytes]], record: Record) -> _Fate:
    header = keys.unpack(entry[1][b"h"], b"").header
    same = header.session_id == record.header.session_id
    return _Fate.ALREADY_THERE if same else _Fate.FENCED


def _refuse(jobs: Sequence[_Job], error: BusError) -> None:
    for job in jobs:
        if not job.done.done():
            job.done.set_exception(error)


class wrapped:  # noqa: N801 - reads as a verb at the call
    """Turns errors of the client into :class:`BusError` at the door."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, RedisError | OSError):
            raise away(error) from error
