"""The explain tier as the service holds it: one process, one bounded queue, one question in hand.

It never delays a score: it is fed copies, runs in a process of its own at a lower priority, and
when it cannot keep up questions are replaced or refused, and counted.
"""

import asyncio
import contextlib
import sys
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import msgspec
import structlog

from pipeline.errors import ModelRefused
from services.bus.backoff import Backoff
from services.explain import wire
from services.explain.options import Options
from services.queues import Registry
from services.tasks import cancelled

QUEUE: Final = 4
"""Questions that may wait, one a session; the process has one more in hand."""
OPEN_S: Final = 300.0
"""How long a model may take to be proven and opened."""
ANSWER_S: Final = 300.0
"""A process that has not answered after this long is ended and started again."""
MINUTE_S: Final = 60.0

Trigger = Literal["alert", "request", "interval"]
RANK: Final[dict[Trigger, int]] = {"interval": 0, "request": 1, "alert": 2}
"""What goes before what."""
_BROKEN: Final = (EOFError, TimeoutError, OSError, msgspec.MsgspecError)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A moment of a session to be explained."""

    session_id: str
    trigger: Trigger
    about_seq: int
    alert_id: str | None
    pictures: list[wire.Picture]
    sound: bytes | None
    asked_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be asked."""

    per_min: int
    """Questions a minute that are no alert's. Requests use it up and are never refused by it (the
    gateway holds each tenant to it), so the clock's questions give way to them; alerts are bounded
    by the queue alone."""
    queue: int = QUEUE


Deliver = Callable[[Question, wire.Answer], None]


class Tier:
    """Runs the explain process while open; entering waits until its model is open.

    Raises :class:`ModelRefused` when the model cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        options: Options,
        limits: Limits,
        *,
        deliver: Deliver,
        queues: Registry,
        command: tuple[str, ...] = (sys.executable, "-m", "services.explain.child"),
    ) -> None:
        """``deliver`` is called on the event loop with each answer; ``command`` is the process."""
        self.counts: Counter[str] = Counter()
        self.identity = ""
        self._folder = folder
        self._options = options
        self._limits = limits
        self._deliver = deliver
        self._command = command
        self._waiting: dict[str, Question] = {}
        self._in_hand: Question | None = None
        self._number = 0
        self._spent: deque[float] = deque(maxlen=max(1, limits.per_min))
        self._news = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._dropped: Counter[str] = Counter()
        self._queue = queues.add(
            "explain",
            bound=limits.queue,
            unit="questions",
            rule="latest_wins",
            depth=lambda: len(self._waiting),
            dropped=lambda: self._dropped,
        )

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._end()
            self._queue.close()
            raise
        self._task = asyncio.create_task(self._run(), name="explain")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await cancelled(self._task)
        await self._end()
        self._waiting.clear()
        self._queue.close()

    @property
    def running(self) -> bool:
        """Whether questions are still answered."""
        return self._task is not None and not self._task.done()

    @property
    def pid(self) -> int | None:
        """Process id of the explain process."""
        return self._process.pid if self._process is not None else None

    def submit(self, question: Question) -> bool:
        """Take a question, or refuse it and count why. Never blocks.

        A newer question of a session replaces the one that waits unless that is more urgent, and
        calls off the one in hand if that is less urgent. So a model that is slower than the clock's
        questions still answers some of them.
        """
        replaced = self._waiting.get(question.session_id)
        why_not = self._why_not(question, replaced)
        if why_not is not None:
            self._dropped[why_not] += 1
            return False
        if replaced is not None:
            self._dropped["superseded"] += 1
        self._waiting[question.session_id] = question
        self._call_off(question)
        self._news.set()
        return True

    def forget(self, session_id: str) -> None:
        """A session is over: its question in the queue goes, its answer is not wanted."""
        if self._waiting.pop(session_id, None) is not None:
            self._dropped["session_over"] += 1
        in_hand = self._in_hand
        if in_hand is not None and in_hand.session_id == session_id:
            self._write(wire.Cancel(self._number))

    def statistics(self) -> dict[str, float]:
        """Return gauges and counters for ``/metrics``."""
        return {
            "running": float(self.running),
            "waiting": len(self._waiting),
            **{
                f"{name}_total": self.counts[name]
                for name in ("asked", "answered", "failed", "called_off", "lost", "restarts")
            },
        }

    def _why_not(self, question: Question, replaced: Question | None) -> str | None:
        if replaced is not None and RANK[replaced.trigger] > RANK[question.trigger]:
            return "more_urgent_waits"
        if replaced is None and len(self._waiting) >= self._limits.queue:
            return "full"
        if question.trigger != "alert" and not self._afford(question):
            return "over_budget"
        return None

    def _afford(self, question: Question) -> bool:
        while self._spent and question.asked_s - self._spent[0] >= MINUTE_S:
            self._spent.popleft()
        if question.trigger == "interval" and len(self._spent) >= self._limits.per_min:
            return False
        self._spent.append(question.asked_s)
        return True

    def _call_off(self, newer: Question) -> None:
        in_hand = self._in_hand
        if in_hand is None or in_hand.session_id != newer.session_id:
            return
        if RANK[newer.trigger] > RANK[in_hand.trigger]:
            self._write(wire.Cancel(self._number))

    async def _run(self) -> None:
        while True:
            try:
                await self._serve()
            except _BROKEN as error:
                _log.warning("the explain process ended", kind=type(error).__name__)
            if self._in_hand is not None:
                self._in_hand = None
                self.counts["lost"] += 1
            await self._restart()
            self.counts["restarts"] += 1

    async def _restart(self) -> None:
        """Start the process again, as often as it takes; questions wait meanwhile."""
        backoff = Backoff(first_s=0.5, cap_s=30.0)
        while True:
            await self._end()
            await asyncio.sleep(backoff.next_s())
            try:
                await self._start()
            except (ModelRefused, *_BROKEN) as error:
                _log.warning("the explain process does not start", kind=type(error).__name__)
            else:
                return

    async def _serve(self) -> None:
        while True:
            while not self._waiting:
                self._news.clear()
                await self._news.wait()
                self._check_alive()
            self._check_alive()
            question = self._waiting.pop(self._most_urgent())
            self._in_hand = question
            await self._ask(question)
            self._in_hand = None

    def _check_alive(self) -> None:
        """Raise :class:`EOFError` when the process has ended, before a question is lost on it."""
        if self._process is None or self._process.returncode is not None:
            raise EOFError

    def _most_urgent(self) -> str:
        """Alerts first, then the oldest."""
        order = sorted(self._waiting.values(), key=lambda q: (q.trigger != "alert", q.asked_s))
        return order[0].session_id

    async def _ask(self, question: Question) -> None:
        self._number += 1
        self.counts["asked"] += 1
        self._write(wire.Ask(self._number, question.pictures, question.sound))
        async with asyncio.timeout(ANSWER_S):
            answer = await self._answer()
        if isinstance(answer, wire.Failed):
            self.counts["failed"] += 1
        elif isinstance(answer, wire.Answer):
            if answer.thinking is None:
                self.counts["called_off"] += 1
            else:
                self.counts["answered"] += 1
                self._deliver(question, answer)

    async def _start(self) -> None:
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            str(self._folder),
            msgspec.json.encode(self._options).decode(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._watch = asyncio.create_task(self._watch_over(process), name="explain-watch")
        async with asyncio.timeout(OPEN_S):
            hello = await self._answer()
        if isinstance(hello, wire.Refused):
            raise ModelRefused(hello.message)
        if isinstance(hello, wire.Hello):
            self.identity = hello.identity

    async def _watch_over(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        self._news.set()

    async def _answer(self) -> wire.FromChild:
        """Read one message. Raises :class:`EOFError` when the process has ended."""
        pipe = self._process.stdout if self._process is not None else None
        if pipe is None:
            raise EOFError
        size = int.from_bytes(await pipe.readexactly(wire.LENGTH_BYTES), "big")
        if size > wire.MAX_ANSWER_BYTES:
            raise EOFError
        return wire.answers.decode(await pipe.readexactly(size))

    def _write(self, message: wire.ToChild) -> None:
        pipe = self._process.stdin if self._process is not None else None
        if pipe is not None and not pipe.is_closing():
            pipe.write(wire.framed(message))

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await cancelled(self._watch)
