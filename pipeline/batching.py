"""Batches across sessions, by deadline arithmetic only.

Jobs come in with the caller's time, batches and skips go out. There is no event loop, clock or
thread in here: the shell asks :meth:`Batcher.due_at`, waits, calls :meth:`Batcher.expired` and
:meth:`Batcher.take`, and scores what it got.

Every job that was added leaves exactly once: in a batch, or beside the reason why not.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.types import Batch, Job, SkipReason

Skip = tuple[Job, SkipReason]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    job: Job
    added_s: float
    lossless: bool
    expires_s: float
    """Last moment at which the job may be scored; infinite for a lossless one."""


class Batcher:
    """Collects the jobs of all sessions into batches of at most ``max_batch``.

    A batch is due when ``max_batch`` sessions wait, when the oldest job has waited
    ``max_delay_s``, or when a job is about to get too old. Latest wins: at most ``per_session``
    jobs of a live session wait, and a job whose media arrived more than ``max_age_s`` ago is
    stale. Sessions take turns: one that was served goes to the end of the line.

    All times are seconds of one steady clock, that of ``Job.arrived_s``.
    """

    def __init__(
        self, max_batch: int, max_delay_s: float, max_age_s: float, per_session: int = 2
    ) -> None:
        self.skipped: dict[SkipReason, int] = {"superseded": 0, "stale": 0, "draining": 0}
        """Jobs that left without a batch, by reason."""
        self.per_session = per_session
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._max_age_s = max_age_s
        self._lines: OrderedDict[str, deque[_Waiting]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return sum(map(len, self._lines.values()))

    def longest(self) -> int:
        """Return how many jobs wait of the session that has most of them."""
        return max(map(len, self._lines.values()), default=0)

    def remove(self, job: Job) -> None:
        """Take one job out, if it waits; its caller has answered it."""
        for waiting in self._lines.get(job.session_id, ()):
            if waiting.job is job:
                self._remove(waiting)
                return

    def add(self, job: Job, now: float, *, lossless: bool = False) -> list[Skip]:
        """Let ``job`` wait; return the jobs that leave for it: superseded ones, or a stale itself.

        A ``lossless`` job (of a file) is never superseded and never too old; its caller keeps
        few of them waiting.
        """
        expires_s = float("inf") if lossless else job.arrived_s + self._max_age_s
        if now > expires_s:
            return self._skip([job], "stale")
        line = self._lines.setdefault(job.session_id, deque())
        line.append(_Waiting(job, now, lossless, expires_s))
        live = [waiting for waiting in line if not waiting.lossless]
        if len(live) <= self.per_session:
            return []
        line.remove(live[0])
        return self._skip([live[0].job], "superseded")

    def due_at(self) -> float | None:
        """Return when to call :meth:`expired` and :meth:`take`; None while nothing waits.

        A time that has passed means now.
        """
        if not self._lines:
            return None
        due = min(
            min(waiting.added_s + self._max_delay_s, waiting.expires_s)
            for waiting in self._waiting()
        )
        if len(self._lines) < self._max_batch:
            return due
        return min(due, max(line[0].added_s for line in self._lines.values()))

    def expired(self, now: float) -> list[Skip]:
        """Remove and return the jobs that are too old at ``now``; call it before :meth:`take`."""
        stale = [waiting for waiting in self._waiting() if now > waiting.expires_s]
        for waiting in stale:
            self._remove(waiting)
        return self._skip([waiting.job for waiting in stale], "stale")

    def take(self, now: float) -> Batch | None:
        """Return the batch that is due at ``now``, or None. Never blocks, never raises.

        Holds the oldest job of each session in turn, none of them too old. Jobs that are stay
        until :meth:`expired` fetches them.
        """
        due = self.due_at()
        if due is None or due > now:
            return None
        chosen: list[_Waiting] = []
        for line in self._lines.values():
            fresh = next((waiting for waiting in line if now <= waiting.expires_s), None)
            if fresh is not None:
                chosen.append(fresh)
            if len(chosen) == self._max_batch:
                break
        for waiting in chosen:
            self._remove(waiting)
            if waiting.job.session_id in self._lines:
                self._lines.move_to_end(waiting.job.session_id)
        return Batch(tuple(waiting.job for waiting in chosen)) if chosen else None

    def forget(self, session_id: str) -> list[Skip]:
        """Remove and return what waits for a session that ended."""
        line = self._lines.pop(session_id, ())
        return self._skip([waiting.job for waiting in line], "draining")

    def _waiting(self) -> Iterator[_Waiting]:
        for line in self._lines.values():
            yield from line

    def _remove(self, waiting: _Waiting) -> None:
        line = self._lines[waiting.job.session_id]
        line.remove(waiting)
        if not line:
            del self._lines[waiting.job.session_id]

    def _skip(self, jobs: list[Job], reason: SkipReason) -> list[Skip]:
        self.skipped[reason] += len(jobs)
        return [(job, reason) for job in jobs]
