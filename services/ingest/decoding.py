"""The one decoder of an ingest process, in a process of its own that may die.

Encoded batches go to the child in fair order, a piece at a time; pictures and sound come back. A
crash, a hang or a lie loses the batch in hand and nothing else: the child is started again at once,
every session asks for a key frame, and a session whose batches did it twice is told to end.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

import structlog

from pipeline.errors import MediaError
from pipeline.types import Kind
from services.bus.backoff import Backoff
from services.ingest.collector import Encoded
from services.ingest.confined.child import WORKER, Child, Lost
from services.ingest.decoder import Decoded
from services.ingest.turns import Turns
from services.queues import Registry
from services.settings import Settings
from services.tasks import cancelled

PIECE_FRAMES: Final = 16
"""Pictures after which others have their turn: half a second at 30 a second is one piece."""
DEADLINE_S: Final = 2.0
"""How long the child may take for a piece, and …"""
FRAME_DEADLINE_S: Final = 0.02
"""… how much longer for each frame in it."""
START_S: Final = 10.0
"""A child that is not ready this long after its start is started anew."""
ABSENCE_S: Final = 5.0
"""A batch waits this long for a child; then it is lost."""
SPARE_AFTER_S: Final = 2.0
"""When a child has lasted this long, the next is made ready beside it: to load the libraries takes
0.2 s, on a busy machine three times as long."""
MAX_STRIKES: Final = 2
"""Batches of one session that may end the child; then the session ends."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of the decoder's process."""

    running: bool
    restarts: int
    ends: dict[str, int]
    """Processes that ended, by cause: ``crashed``, ``killed``, ``late`` (past its deadline and
    killed), ``lied`` (an answer that cannot be true)."""
    lost_batches: int


class Decoding:
    """Runs :class:`~services.ingest.decoder.Decoder` in a confined child process.

    Each session has at most one batch here, so the queue is bounded by the number of sessions.
    Enter it from the main thread: the child dies with the thread that started it.
    """

    def __init__(
        self,
        queues: Registry,
        max_sessions: int,
        *,
        memory_mb: int = 1024,
        program: str = WORKER,
    ) -> None:
        """``memory_mb`` bounds the child's address space; ``program`` is its module."""
        self._memory_mb = memory_mb
        self._program = program
        self._turns = Turns()
        self._child: Child | None = None
        self._spare: Child | None = None
        self._held: list[Child] = []
        """Every child that was started and not yet freed."""
        self._there = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._watchers: dict[str, Callable[[], None]] = {}
        self._strikes: Counter[str] = Counter()
        self._ends: Counter[str] = Counter()
        self._restarts = 0
        self._lost = 0
        self._waiting = 0
        self._told = False
        self._queue = queues.add(
            "decoder_batches",
            bound=max_sessions + 1,
            unit="batches",
            rule="block",
            depth=lambda: self._waiting,
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, queues: Registry) -> AsyncIterator[Self]:
        """Run a decoder that is ready to decode. Raises :class:`~pipeline.errors.MediaError`."""
        memory_mb = settings.decoder_memory_mb
        async with cls(queues, settings.max_streams, memory_mb=memory_mb) as decoding:
            await decoding.ready()
            yield decoding

    async def __aenter__(self) -> Self:
        self._supervisor = asyncio.create_task(self._supervise(), name="decoder-supervisor")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.close()
        await cancelled(self._supervisor)
        await self._freed(*self._held)

    @property
    def running(self) -> bool:
        """Whether a child that ends is still replaced."""
        return self._supervisor is not None and not self._supervisor.done()

    @property
    def pid(self) -> int | None:
        """Process id of the child that decodes now."""
        return None if self._child is None else self._child.pid

    async def ready(self) -> None:
        """Wait until the child decodes. Raises :class:`~pipeline.errors.MediaError`."""
        try:
            async with asyncio.timeout(START_S):
                await self._there.wait()
        except TimeoutError:
            raise MediaError(
                "the decoder's process does not start: "
                f"raise decoder_memory_mb ({self._memory_mb}); the log says how it ended"
            ) from None

    def watch(self, session_key: str, renewed: Callable[[], None]) -> None:
        """Call ``renewed`` whenever the codecs of a session were lost, until it is forgotten."""
        self._watchers[session_key] = renewed

    async def decode(self, session_key: str, batch: Sequence[Encoded]) -> Decoded:
        """Decode one batch; await it before the session's next. Never raises for bad media.

        What could not be decoded because the child ended is named in :attr:`Decoded.lost`.
        """
        self._waiting += 1
        whole = Decoded(())
        pieces = list(_pieces(batch))
        try:
            for number, piece in enumerate(pieces):
                async with self._turns.turn(session_key):
                    whole = _joined(whole, await self._decode(session_key, piece))
                if whole.lost:
                    return replace(whole, lost=_spans(pieces[number:]))
        finally:
            self._waiting -= 1
        return whole

    async def forget(self, session_key: str) -> None:
        """Free the codecs of a session that ended."""
        self._watchers.pop(session_key, None)
        self._strikes.pop(session_key, None)
        self._turns.forget(session_key)
        if self._child is not None:
            self._child.forget(session_key)

    def statistics(self) -> Statistics:
        """Return the counters as they stand."""
        return Statistics(self._there.is_set(), self._restarts, dict(self._ends), self._lost)

    async def _decode(self, session_key: str, piece: Sequence[Encoded]) -> Decoded:
        if self._strikes[session_key] >= MAX_STRIKES:
            return Decoded((), lost=_spans([piece]), hostile=True)
        if (child := await self._present()) is None:
            self._lost += 1
            return Decoded((), lost=_spans([piece]))
        patience_s = DEADLINE_S + FRAME_DEADLINE_S * len(piece)
        try:
            return await child.decode(session_key, piece, patience_s)
        except Lost as lost:
            self._gone(child)
            self._lost += 1
            self._strikes[session_key] += lost.to_blame
            hostile = self._strikes[session_key] >= MAX_STRIKES
            return Decoded((), lost=_spans([piece]), hostile=hostile)

    async def _present(self) -> Child | None:
        """Return the child, once there is one; None when there is none for too long."""
        try:
            async with asyncio.timeout(ABSENCE_S):
                await self._there.wait()
        except TimeoutError:
            return None
        return self._child

    async def _supervise(self) -> None:
        child = await self._started()
        while True:
            self._child = child
            self._there.set()
            await self._served(child)
            self._gone(child)
            for renewed in list(self._watchers.values()):
                renewed()
            await self._freed(child)
            self._ends[child.cause] += 1
            self._restarts += 1
            _log.warning("the decoder ended and is started again", cause=child.cause)
            child, self._spare = self._spare or await self._started(), None

    async def _served(self, child: Child) -> None:
        """Wait for the end of a child; while it lasts, make the next one ready."""
        try:
            async with asyncio.timeout(SPARE_AFTER_S):
                await child.gone.wait()
        except TimeoutError:
            self._spare = await self._started()
            await child.gone.wait()
        if self._spare is not None and self._spare.gone.is_set():
            await self._freed(self._spare)
            self._spare = None

    async def _started(self) -> Child:
        """Return a child that is ready; try until there is one."""
        backoff = Backoff()
        while True:
            child: Child | None = None
            try:
                child = Child.start(self._memory_mb * 2**20, self._program)
                self._held.append(child)
                self._note((await child.greeting(START_S)).filtered)
            except (OSError, Lost) as error:
                _log.warning("the decoder did not start", error=str(error))
                if child is not None:
                    await self._freed(child)
                await asyncio.sleep(backoff.next_s())
            else:
                return child

    def _gone(self, child: Child) -> None:
        if self._child is child:
            self._there.clear()
            self._child = None

    def _note(self, filtered: bool) -> None:
        if not filtered and not self._told:
            self._told = True
            _log.info("the decoder's system calls cannot be filtered on this machine")

    async def _freed(self, *children: Child) -> None:
        for child in children:
            await child.end()
            self._held.remove(child)


def _pieces(batch: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Yield the sound with the first pictures, then the other pictures."""
    sound = [frame for frame in batch if frame.kind == "audio"]
    pictures = [frame for frame in batch if frame.kind == "video"]
    if batch:
        yield sound + pictures[:PIECE_FRAMES]
    for at in range(PIECE_FRAMES, len(pictures), PIECE_FRAMES):
        yield pictures[at : at + PIECE_FRAMES]


def _joined(one: Decoded, other: Decoded) -> Decoded:
    return Decoded(
        one.items + other.items,
        one.corrupt_audio + other.corrupt_audio,
        one.corrupt_video + other.corrupt_video,
        one.oversized + other.oversized,
        one.crowded + other.crowded,
        other.lost,
        other.hostile,
    )


def _spans(pieces: Sequence[Sequence[Encoded]]) -> dict[Kind, tuple[int, int]]:
    """Return the media time that some frames cover, by track."""
    spans: dict[Kind, tuple[int, int]] = {}
    for frame in (frame for piece in pieces for frame in piece):
        start, end = spans.get(frame.kind, (frame.tick, frame.tick))
        spans[frame.kind] = min(start, frame.tick), max(end, frame.tick + 1)
    return spans
