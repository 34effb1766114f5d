"""The scoring loop: windows of all sessions to one worker thread, answers back on the event loop.

Live windows are submitted and may be skipped (latest wins, too old, closing); windows of files wait
their turn and are never skipped for age. Both share batches. Each window is answered exactly once.

The plan. :meth:`ScoringLoop._pump` is the only place that decides, and it never waits: it answers
what is too old, starts the next batch when the worker is free, and sets one timer. It is called
when a window comes, when a batch is done and when the timer fires.

Faults of the scorer end at this door. A batch that raises is tried again window by window, once and
only while they are fresh: a window that fails twice is ``poison``. A batch that does not come back
in time hangs: a thread cannot be killed, so its live windows and all that come are answered
``scorer_lost`` at once, :attr:`ScoringLoop.fault` says so, and all is well again when it returns.
Numbers that are none are ``bad_output``.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from pipeline.batching import Batcher
from pipeline.finite import finite
from pipeline.stream import Timing
from pipeline.types import Batch, Job, Outcome, Scorer, SkipReason
from services.clock import Clock
from services.load import Sliding
from services.queues import Registry

MAX_BATCH = 16
MAX_DELAY_S = 0.0
"""How long the first window of a batch waits for company: company comes by itself while the batch
before is scored, and for a worker that is idle waiting is only delay."""
MAX_AGE_MS = 1500
QUEUE_BOUND = 256
"""Waiting windows of live sessions: two of each of the most sessions a process takes, and spare."""
CLOSE_PATIENCE_S = 5.0
"""How long closing waits for the batch that is being scored."""
TIMES_KEPT = 512
HANG_S = 2.0
"""A batch that takes longer than this, and :data:`HANG_WINDOW_S` a window, hangs. Far beyond what
a batch costs (about 0.1 s a new window): eight windows took more than 3 s on two cores that ten
other processes wanted, and that was no hang."""
HANG_WINDOW_S = 0.5
SICK_BATCHES = 3
"""Batches in a row without any outcome after which the scorer counts as broken."""

Result = Outcome | SkipReason
Done = Callable[[Job, Result, Timing], None]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A loop's books since it began."""

    waiting: int
    files_waiting: int
    """Of these, windows of files."""
    in_flight: int
    batches: int
    windows: int
    """Windows that were given to the scorer and came back."""
    failures: dict[SkipReason, int]
    """Windows that the scorer gave no outcome for, by reason."""
    skipped: dict[SkipReason, int]
    """Windows that never reached the scorer, by reason."""
    lost_batches: int
    """Batches whose scorer raised."""
    callback_errors: int
    hangs: int
    """Batches that did not come back in time."""
    late_outcomes: int
    """Answers that came after their window was given up."""
    score_ms: tuple[float, ...]
    """Duration of the newest batches, oldest first; at most :data:`TIMES_KEPT`."""

    def percentile_ms(self, share: float) -> float | None:
        """Return the duration that ``share`` (0..1) of the newest batches stayed within."""
        times = sorted(self.score_ms)
        return times[min(int(share * len(times)), len(times) - 1)] if times else None


@dataclass(slots=True)
class _Books:
    batches: int = 0
    windows: int = 0
    lost_batches: int = 0
    callback_errors: int = 0
    hangs: int = 0
    late_outcomes: int = 0
    sick_batches: int = 0
    """In a row, up to now."""
    failures: Counter[SkipReason] = field(default_factory=Counter)
    refused: int = 0
    rejected: int = 0
    score_ms: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT))


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    done: Done
    lossless: bool


class ScoringLoop:
    """Batches windows, scores them on its own thread and answers; used on one event loop."""

    def __init__(
        self,
        scorer: Scorer,
        clock: Clock,
        *,
        max_batch: int = MAX_BATCH,
        max_delay_s: float = MAX_DELAY_S,
        max_age_ms: int = MAX_AGE_MS,
        queues: Registry | None = None,
    ) -> None:
        """``clock`` is the one whose monotonic seconds stand in the jobs."""
        self.waits = Sliding()
        """How long windows of live sessions waited for their turn, in seconds."""
        self._scorer = scorer
        self._clock = clock
        self._max_age_s = max_age_ms / 1000
        self._batcher = Batcher(max_batch, max_delay_s, self._max_age_s)
        self._files = 2 * max_batch
        self._room = asyncio.Semaphore(self._files)
        self._pending: dict[Job, _Pending] = {}
        self._forgotten: list[str] = []
        self._books = _Books()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._task: asyncio.Task[None] | None = None
        self._in_flight: tuple[Job, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._begun_s = 0.0
        self._hung_since_s: float | None = None
        self._closing = False
        self._open = ExitStack()
        if queues is not None:
            self._register(queues)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Refuse what still comes, answer what waits, wait for the batch in flight."""
        self._closing = True
        self._disarm()
        for session_id in {job.session_id for job in self._pending}:
            self._answer_all(self._batcher.forget(session_id))
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_PATIENCE_S)
        hung = self._task is not None
        if self._task is not None:
            self._task.cancel()
        for job in list(self._pending):
            self._answer(job, "scorer_lost", None)
        self._worker.shutdown(wait=not hung, cancel_futures=True)
        self._open.close()
        await asyncio.sleep(0)  # answers given by call_soon are out before the loop is closed

    def submit(self, job: Job, done: Done) -> None:
        """Queue a live window; never blocks.

        ``done`` is called on the event loop, after this returns, exactly once: with the outcome or
        with the reason why there is none.
        """
        loop = asyncio.get_running_loop()
        if self._closing:
            self._books.refused += 1
            loop.call_soon(done, job, "draining", Timing())
            return
        if self._hung_since_s is not None:
            self._books.failures["scorer_lost"] += 1
            loop.call_soon(done, job, "scorer_lost", Timing())
            return
        if len(self._batcher) >= QUEUE_BOUND:
            self._books.rejected += 1
            loop.call_soon(done, job, "overload", Timing())
            return
        self._pending[job] = _Pending(done, lossless=False)
        for skipped, reason in self._batcher.add(job, self._clock.monotonic_s()):
            loop.call_soon(self._answer, skipped, reason, None)
        self._pump()

    async def score(self, job: Job) -> tuple[Result, Timing]:
        """Score a window of a file: waits for room and for its turn, whatever its age."""
        async with self._room:
            if self._closing:
                self._books.refused += 1
                return "draining", Timing()
            answer: asyncio.Future[tuple[Result, Timing]]
            answer = asyncio.get_running_loop().create_future()

            def done(_job: Job, result: Result, timing: Timing) -> None:
                if not answer.done():
                    answer.set_result((result, timing))

            self._pending[job] = _Pending(done, lossless=True)
            self._batcher.add(job, self._clock.monotonic_s(), lossless=True)
            self._pump()
            try:
                return await answer
            finally:
                if answer.cancelled():  # nobody waits for this file any more
                    self._answer_all(self._batcher.forget(job.session_id))

    def forget(self, session_id: str) -> None:
        """Answer what waits for a session that ended and drop what is cached for it."""
        self._answer_all(self._batcher.forget(session_id))
        if not self._closing:
            self._forgotten.append(session_id)
            self._pump()

    @property
    def fault(self) -> str | None:
        """Why the scorer does no good now, in a few words; None while it does."""
        if self._hung_since_s is not None:
            return "the scorer hangs"
        if self._books.sick_batches >= SICK_BATCHES:
            return "the scorer fails"
        return None

    @property
    def hung_s(self) -> float:
        """How long the batch in flight has been given up; 0: none hangs."""
        since_s = self._hung_since_s
        return 0.0 if since_s is None else self._clock.monotonic_s() - since_s

    def oldest_wait_s(self) -> float:
        """Return how long the live window that waits longest has waited; 0: none does."""
        oldest = min(
            (
                job.cut_s
                for job, pending in self._pending.items()
                if not pending.lossless and job not in self._in_flight
            ),
            default=None,
        )
        return 0.0 if oldest is None else max(0.0, self._clock.monotonic_s() - oldest)

    def statistics(self) -> Statistics:
        """Return the books as they stand."""
        books = self._books
        skipped = Counter(self._batcher.skipped)
        skipped["draining"] += books.refused
        skipped["overload"] += books.rejected
        return Statistics(
            waiting=len(self._batcher),
            files_waiting=self._files_waiting(),
            in_flight=len(self._in_flight),
            batches=books.batches,
            windows=books.windows,
            failures=dict(books.failures),
            skipped=dict(skipped),
            lost_batches=books.lost_batches,
            callback_errors=books.callback_errors,
            hangs=books.hangs,
            late_outcomes=books.late_outcomes,
            score_ms=tuple(books.score_ms),
        )

    def _register(self, queues: Registry) -> None:
        """List what waits here: all windows, those of one stream, and files at the door."""
        skipped = self._batcher.skipped
        self._open.enter_context(
            queues.add(
                "scorer_in",
                bound=QUEUE_BOUND,
                unit="windows",
                rule="reject",
                depth=self._batcher.__len__,
                dropped=lambda: {"stale": skipped["stale"], "overload": self._books.rejected},
            )
        )
        self._open.enter_context(
            queues.add(
                "windows_stream",
                bound=self._batcher.per_session,
                unit="windows",
                rule="drop_oldest",
                depth=self._batcher.longest,
                dropped=lambda: {"superseded": skipped["superseded"]},
            )
        )
        self._open.enter_context(
            queues.add(
                "files_to_score",
                bound=self._files,
                unit="windows",
                rule="block",
                depth=self._files_waiting,
            )
        )

    def _files_waiting(self) -> int:
        files = sum(pending.lossless for pending in self._pending.values())
        return files - sum(self._is_lossless(job) for job in self._in_flight)

    def _pump(self) -> None:
        self._disarm()
        if self._closing:
            return
        now = self._clock.monotonic_s()
        self._answer_all(self._batcher.expired(now))
        if self._hung_since_s is None and now >= self._hangs_at():
            self._give_up(now)
        if self._task is None:
            batch = self._take(now)
            if batch is not None or self._forgotten:
                forgotten, self._forgotten = self._forgotten, []
                self._in_flight = batch.jobs if batch else ()
                self._begun_s = now
                self._task = asyncio.create_task(self._work(batch, forgotten), name="scoring")
                self._task.add_done_callback(self._worked)
        self._arm(now)

    def _take(self, now: float) -> Batch | None:
        """The batch that is due; a window of a file is due at once, for its owner sends no more."""
        due = self._batcher.due_at()
        hasty = any(pending.lossless for pending in self._pending.values())
        return self._batcher.take(max(now, due) if hasty and due is not None else now)

    def _arm(self, now: float) -> None:
        """Wake up when a batch falls due, or, while one is scored, when a window gets too old."""
        due = self._batcher.due_at()
        if self._task is not None:
            due = min(self._next_expiry(), self._hangs_at())
        if due is not None and due != math.inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(due - now, 0.001), self._pump)

    def _next_expiry(self) -> float:
        live = (job for job, pending in self._pending.items() if not pending.lossless)
        waiting = (job.arrived_s for job in live if job not in self._in_flight)
        return min(waiting, default=math.inf) + self._max_age_s

    def _hangs_at(self) -> float:
        """Return when the batch in flight counts as hanging; files may take their time."""
        if self._hung_since_s is not None or all(map(self._is_lossless, self._in_flight)):
            return math.inf
        return self._begun_s + HANG_S + HANG_WINDOW_S * len(self._in_flight)

    def _give_up(self, now: float) -> None:
        """Answer the live windows in flight and in line: the worker does not come back."""
        self._hung_since_s = now
        self._books.hangs += 1
        log.error("the scorer hangs", windows=len(self._in_flight))
        for job in [job for job in self._pending if not self._is_lossless(job)]:
            self._batcher.remove(job)
            self._books.failures["scorer_lost"] += 1
            self._answer(job, "scorer_lost", None)

    def _is_lossless(self, job: Job) -> bool:
        return job in self._pending and self._pending[job].lossless

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _work(self, batch: Batch | None, forgotten: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        started = self._clock.monotonic_s()
        results = await loop.run_in_executor(self._worker, self._score, batch, forgotten)
        self._hung_since_s = None
        if batch is None:
            return
        sick = all(isinstance(result, str) for result in results.values())
        self._books.sick_batches = self._books.sick_batches + 1 if sick else 0
        took = self._clock.monotonic_s() - started
        self._books.batches += 1
        self._books.score_ms.append(took * 1000)
        self._in_flight = ()
        for job in batch.jobs:
            self._books.windows += 1
            self._answer(job, results[job], (started, took))

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._task, self._in_flight = None, ()
        if not task.cancelled():
            task.result()
            self._pump()

    def _score(self, batch: Batch | None, forgotten: Sequence[str]) -> dict[Job, Result]:
        """Run on the worker thread; a batch that raises is tried again window by window."""
        try:
            self._scorer.forget(forgotten)
            return _by_job(batch, self._scorer.score(batch)) if batch else {}
        except Exception:
            self._books.lost_batches += 1
            log.exception("scoring a batch failed")
        return {job: self._score_alone(job) for job in (batch.jobs if batch else ())}

    def _score_alone(self, job: Job) -> Result:
        """Give a window of a batch that failed its second and last chance."""
        pending = self._pending.get(job)
        stale = self._clock.monotonic_s() > job.arrived_s + self._max_age_s
        if pending is None or (stale and not pending.lossless):
            return "scorer_lost"
        batch = Batch((job,))
        try:
            return _by_job(batch, self._scorer.score(batch))[job]
        except Exception:
            log.exception("scoring a window alone failed")
            return "poison"

    def _answer_all(self, skips: Sequence[tuple[Job, SkipReason]]) -> None:
        for job, reason in skips:
            self._answer(job, reason, None)

    def _answer(self, job: Job, result: Result, scored: tuple[float, float] | None) -> None:
        """Call ``done``; ``scored`` is when the batch began and how long it took, in seconds."""
        pending = self._pending.pop(job, None)
        if pending is None:
            self._books.late_outcomes += scored is not None
            return
        if not pending.lossless:
            now = self._clock.monotonic_s()
            self.waits.add(now, (now if scored is None else scored[0]) - job.cut_s)
        if scored is not None and isinstance(result, str):
            self._books.failures[result] += 1
        try:
            pending.done(job, result, self._timing(job, scored))
        except Exception:
            self._books.callback_errors += 1
            log.exception("taking a scored window failed")

    def _timing(self, job: Job, scored: tuple[float, float] | None) -> Timing:
        now = self._clock.monotonic_s()
        started, took = scored or (now, 0.0)
        return Timing(
            age_ms=_ms(now - job.arrived_s), queue_ms=_ms(started - job.cut_s), score_ms=_ms(took)
        )


def _ms(seconds: float) -> int:
    return max(round(seconds * 1000), 0)


def _by_job(batch: Batch, outcomes: Sequence[Outcome]) -> dict[Job, Result]:
    """Match outcomes, in any order, to their jobs."""
    found = {(outcome.session_id, outcome.index): outcome for outcome in outcomes}
    results: dict[Job, Result] = {}
    for job in batch.jobs:
        outcome = found.get((job.session_id, job.window.index))
        sound = outcome is not None and (outcome.failure is not None or finite(outcome))
        results[job] = outcome.failure or outcome if outcome is not None and sound else "bad_output"
    return results
