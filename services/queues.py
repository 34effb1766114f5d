"""The registry of queues: everything that can fill up says how full it is and what it dropped.

A room that owns a bounded queue registers it under a label; many sessions share one label. The
registry adds them up for gauges and keeps the drop counts of queues that are gone, so a counter
never falls.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

Rule = Literal["drop_oldest", "drop_newest", "latest_wins", "reject", "block", "overwrite"]
"""What happens to an item for which there is no room."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What all queues of one label have in common."""

    name: str
    bound: int
    """Largest depth of one queue."""
    unit: str
    """What is counted: ``frames``, ``events``, ``packets``, ``bytes``."""
    rule: Rule


@dataclass(frozen=True, slots=True)
class Statistics:
    """All queues of one label, added up."""

    kind: Kind
    instances: int
    depth: int
    dropped: dict[str, int]
    """Items dropped since the process began, by reason."""


@dataclass(eq=False, slots=True)
class Registered:
    """One queue in the registry; its owner closes it when the queue is gone."""

    kind: Kind
    depth: Callable[[], int]
    dropped: Callable[[], Mapping[str, int]]
    _registry: "Registry"

    def close(self) -> None:
        """Take the queue out; what it dropped stays counted. May be called twice."""
        self._registry._remove(self)  # noqa: SLF001 - the two classes are one mechanism

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(eq=False, slots=True)
class Registry:
    """All queues of one process; used from one event loop."""

    _kinds: dict[str, Kind] = field(default_factory=dict)
    _open: dict[str, list[Registered]] = field(default_factory=dict)
    _gone: dict[str, Counter[str]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        *,
        bound: int,
        unit: str,
        rule: Rule,
        depth: Callable[[], int],
        dropped: Callable[[], Mapping[str, int]] = dict,
    ) -> Registered:
        """Register one queue. Raises :class:`ValueError` when ``name`` means another kind."""
        kind = Kind(name, bound, unit, rule)
        if bound < 1:
            raise ValueError(f"queue '{name}' needs a bound of at least 1, got {bound}")
        if self._kinds.setdefault(name, kind) != kind:
            raise ValueError(f"queue '{name}' is registered as {self._kinds[name]}, not {kind}")
        queue = Registered(kind, depth, dropped, self)
        self._open.setdefault(name, []).append(queue)
        return queue

    def statistics(self) -> list[Statistics]:
        """Return one entry per label, by name; labels stay after their last queue has gone."""
        return [self._sum(self._kinds[name]) for name in sorted(self._kinds)]

    def _sum(self, kind: Kind) -> Statistics:
        queues = self._open.get(kind.name, [])
        dropped = Counter(self._gone.get(kind.name, Counter[str]()))
        for queue in queues:
            dropped.update(queue.dropped())
        return Statistics(kind, len(queues), sum(queue.depth() for queue in queues), dict(dropped))

    def _remove(self, queue: Registered) -> None:
        queues = self._open.get(queue.kind.name, [])
        if queue in queues:
            queues.remove(queue)
            self._gone.setdefault(queue.kind.name, Counter()).update(queue.dropped())
