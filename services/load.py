"""How busy this process is, measured without cost: the event loop, the scorer, memory, the bus.

One task samples the loop ten times a second and sums up twice a second; another asks the bus for a
sign of life each second. What the figures mean is decided elsewhere by pure rules
(:mod:`services.ingest.admission`, :mod:`pipeline.degrade`).
"""

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from pipeline.degrade import Ladder, Pressure, Rung
from pipeline.errors import BusError
from services.clock import Clock
from services.tasks import cancelled

SAMPLE_S: Final = 0.1
"""How often the event loop is asked how late it is."""
SUM_S: Final = 0.5
"""How often a :class:`Load` is made."""
LONG_S: Final = 10.0
"""What admission looks back on."""
SHORT_S: Final = 2.0
"""What the ladder looks back on: it must see soon what its last step has changed."""
PING_S: Final = 1.0
PING_LIMIT_S: Final = 0.5
SAMPLES: Final = 4096

HIGH_WAIT_S: Final = 0.3
HIGH_LAG_S: Final = 0.1
"""Beyond these no new stream is accepted; later than that running streams are touched:"""
STEP_WAIT_S: Final = 0.5
"""One hop: from here on windows come faster than they are scored."""
STEP_LAG_S: Final = 0.25
STEP_OLDEST_S: Final = 0.75
EASE_WAIT_S: Final = 0.2
EASE_LAG_S: Final = 0.1
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Sliding:
    """Samples of the last seconds; at most :data:`SAMPLES`, the oldest go first."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, now_s: float, value: float) -> None:
        """Note ``value``."""
        self._samples.append((now_s, value))

    def percentile(self, share: float, now_s: float, span_s: float) -> float:
        """Return the value that ``share`` (0..1) of the last ``span_s`` stayed within; 0: none.

        Nearest rank: of 100 samples the 99th percentile is the second largest.
        """
        while self._samples and self._samples[0][0] < now_s - LONG_S:
            self._samples.popleft()
        values = sorted(value for at_s, value in self._samples if at_s >= now_s - span_s)
        return values[max(math.ceil(share * len(values)), 1) - 1] if values else 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement."""

    lag_p99_s: float = 0.0
    """How late the event loop woke up, over :data:`LONG_S`."""
    recent_lag_s: float = 0.0
    """The same, 95th percentile over :data:`SHORT_S`."""
    wait_p95_s: float = 0.0
    """How long windows waited for the scorer, over :data:`LONG_S`."""
    recent_wait_s: float = 0.0
    """The same over :data:`SHORT_S`."""
    oldest_s: float = 0.0
    """How long the oldest window that still waits has waited."""
    memory_bytes: int = 0
    """Resident memory of this process and its children."""
    memory_limit_bytes: int = 0
    """What they may have; 0: unknown."""
    cpu_share: float = 0.0
    """CPU time of this process, of all cores it may use."""
    bus_away_s: float = 0.0
    """How long the bus has not answered; 0: it does."""

    @property
    def memory_share(self) -> float:
        """Resident memory over its limit."""
        return self.memory_bytes / self.memory_limit_bytes if self.memory_limit_bytes else 0.0


def pressure(load: Load) -> Pressure:
    """Judge a measurement for the ladder."""
    if (
        load.recent_wait_s > STEP_WAIT_S
        or load.recent_lag_s > STEP_LAG_S
        or load.oldest_s > STEP_OLDEST_S
    ):
        return "high"
    easy = load.recent_wait_s < EASE_WAIT_S and load.recent_lag_s < EASE_LAG_S
    return "low" if easy and load.oldest_s < EASE_WAIT_S else "some"


class Scoring(Protocol):
    """What is asked of the scoring loop."""

    waits: Sliding
    """How long windows of live sessions waited."""

    def oldest_wait_s(self) -> float:
        """Return how long the oldest window that waits has waited."""


class Meter:
    """Measures while open; an async context manager that owns its two tasks."""

    def __init__(
        self,
        clock: Clock,
        scoring: Scoring,
        ping: Callable[[], Awaitable[object]],
        *,
        memory_limit_mb: int = 0,
        ladder: Ladder | None = None,
    ) -> None:
        self.now = Load(memory_limit_bytes=memory_limit(memory_limit_mb))
        """The last measurement."""
        self.ladder = ladder or Ladder()
        self._clock = clock
        self._scoring = scoring
        self._ping = ping
        self._lags = Sliding()
        self._due_s = math.inf
        self._away_since_s: float | None = None
        self._cpu = _Cpu(clock.monotonic_s())
        self._listeners: list[Callable[[Load], None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        jobs = (self._sample, self._watch_bus)
        self._tasks = [asyncio.create_task(job(), name=f"load{job.__name__}") for job in jobs]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await cancelled(*self._tasks)

    @property
    def running(self) -> bool:
        """Whether both tasks run."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def rung(self) -> Rung:
        """The rung of the ladder that stands."""
        return self.ladder.rung

    def lag_s(self) -> float:
        """Return how late the event loop is right now."""
        return max(0.0, self._clock.monotonic_s() - self._due_s)

    def on_measure(self, listener: Callable[[Load], None]) -> None:
        """Call ``listener`` with every measurement, on the event loop."""
        self._listeners.append(listener)

    def statistics(self) -> dict[str, float]:
        """Return gauges for ``/metrics``."""
        now = self.now
        return {
            "loop_lag_seconds_p99": now.lag_p99_s,
            "scorer_wait_seconds_p95": now.wait_p95_s,
            "oldest_window_seconds": now.oldest_s,
            "memory_bytes": now.memory_bytes,
            "memory_limit_bytes": now.memory_limit_bytes,
            "cpu_share": now.cpu_share,
            "bus_away_seconds": now.bus_away_s,
            "degrade_rung": self.rung,
            "degrade_changes_total": self.ladder.changes,
        }

    async def _sample(self) -> None:
        sum_due_s = 0.0
        while True:
            self._due_s = self._clock.monotonic_s() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            now_s = self._clock.monotonic_s()
            self._lags.add(now_s, max(0.0, now_s - self._due_s))
            if now_s >= sum_due_s:
                sum_due_s = now_s + SUM_S
                self._sum(now_s)

    def _sum(self, now_s: float) -> None:
        waits = self._scoring.waits
        self.now = Load(
            lag_p99_s=self._lags.percentile(0.99, now_s, LONG_S),
            recent_lag_s=self._lags.percentile(0.95, now_s, SHORT_S),
            wait_p95_s=waits.percentile(0.95, now_s, LONG_S),
            recent_wait_s=waits.percentile(0.95, now_s, SHORT_S),
            oldest_s=self._scoring.oldest_wait_s(),
            memory_bytes=resident_bytes(),
            memory_limit_bytes=self.now.memory_limit_bytes,
            cpu_share=self._cpu.share(now_s),
            bus_away_s=0.0 if self._away_since_s is None else now_s - self._away_since_s,
        )
        self.ladder.step(pressure(self.now), now_s)
        for listener in self._listeners:
            listener(self.now)

    async def _watch_bus(self) -> None:
        while True:
            asked_s = self._clock.monotonic_s()
            try:
                async with asyncio.timeout(PING_LIMIT_S):
                    await self._ping()
                self._away_since_s = None
            except (BusError, TimeoutError):
                if self._away_since_s is None:
                    self._away_since_s = asked_s
            await asyncio.sleep(PING_S)


class _Cpu:
    """CPU time over time on the clock, between two calls."""

    def __init__(self, now_s: float) -> None:
        self._cores = cores()
        self._at_s = now_s
        self._spent_s = time.process_time()

    def share(self, now_s: float) -> float:
        spent_s = time.process_time()
        took_s = max(now_s - self._at_s, 1e-3)
        share = (spent_s - self._spent_s) / took_s / self._cores
        self._at_s, self._spent_s = now_s, spent_s
        return min(max(share, 0.0), 1.0)


def cores() -> float:
    """Return how many cores this process may use, by affinity and control group."""
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    words = _read("/sys/fs/cgroup/cpu.max").split()
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal():
        return max(0.01, min(float(usable), int(words[0]) / int(words[1])))
    return float(usable)


def memory_limit(configured_mb: int = 0) -> int:
    """Return how many bytes may be resident: as configured, the control group's, the machine's."""
    if configured_mb:
        return configured_mb << 20
    known = [_pages("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdecimal():
            known.append(int(text))
    return min((size for size in known if size), default=0)


def resident_bytes() -> int:
    """Return the resident memory of this process and of the children of its threads."""
    own = os.getpid()
    return sum(_resident(str(pid)) for pid in (own, *_children(own)))


def _children(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    found = " ".join(_read(f"{thread}/children") for thread in threads)
    return [int(word) for word in found.split()]


def _resident(pid: str) -> int:
    words = _read(f"/proc/{pid}/statm").split()
    return int(words[1]) * _PAGE_BYTES if len(words) > 1 else 0


def _pages(name: str) -> int:
    try:
        return os.sysconf(name) * _PAGE_BYTES
    except (ValueError, OSError):
        return 0


def _read(path: str) -> str:
    """Return a file of the kernel, or nothing where it is missing."""
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - read twice a second
            return file.read(4096)
    except (OSError, UnicodeDecodeError):
        return ""
