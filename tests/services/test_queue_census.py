"""No queue without a bound, a rule, a gauge and a drop count: a walk over all modules.

Whatever can hold items is in the census below, under the label by which ``/metrics`` shows it or
with the reason why it is no queue. A new one fails here until somebody decides.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOLDERS = {
    "deque",
    "Queue",
    "LifoQueue",
    "PriorityQueue",
    "SimpleQueue",
    "JoinableQueue",
    "Semaphore",
    "BoundedSemaphore",
    "Condition",
}
REGISTERED = {
    ("services/audit/log.py", "AuditLog", "Queue"): "audit_out",
    ("services/bus/channels.py", "Channels", "deque"): "bus_feed",
    ("services/bus/memory.py", "Feed", "deque"): "bus_feed",
    ("services/explain/child.py", "_Inbox", "Queue"): "explain",
    ("services/gateway/feed.py", "Feed", "deque"): "gw_cache",
    ("services/gateway/hub.py", "Hub", "Queue"): "gw_newcomers",
    ("services/gateway/outbox.py", "Outbox", "deque"): "gw_out",
    ("services/ingest/ice.py", "ReceiveQueue", "Queue"): "ice_rx",
    ("services/ingest/retention.py", "Retention", "deque"): "retention",
    ("services/scorer/loop.py", "ScoringLoop", "Semaphore"): "files_to_score",
    ("pipeline/batching.py", "Batcher", "deque"): "windows_stream",
}
BOUNDED_BY_ITS_OWNER = {
    # Held to `per_session` windows, or as many as files have room for, in `add`.
    ("pipeline/batching.py", "Batcher", "deque"),
    # Each place in a feed stands here once (`Member.queued`): at most one for each session.
    ("services/gateway/outbox.py", "Outbox", "deque"),
    # `put_nowait` drops at RECEIVE_PACKETS; the end mark must never be dropped.
    ("services/ingest/ice.py", "ReceiveQueue", "Queue"),
    # `MAX_LEAD_TICKS` of media and MAX_ITEMS: a file of `demeanor run`, read no further meanwhile.
    ("services/ingest/merging.py", "Merger", "deque"),
}
NO_QUEUE = {
    # The last so many of something, for a figure or a picture; nothing is waited for.
    ("pipeline/tracking.py", "_Track", "deque"),
    ("services/brake.py", "Brake", "deque"),
    ("services/cli/tally.py", "Tally", "deque"),
    ("services/explain/recorder.py", "Recorder", "deque"),
    ("services/explain/tier.py", "Tier", "deque"),
    ("services/load.py", "Sliding", "deque"),
    ("services/scorer/loop.py", "_Books", "deque"),
    # The log itself, trimmed as Redis trims it.
    ("services/bus/memory.py", "_Log", "deque"),
    ("services/bus/memory.py", "MemoryBus", "deque"),
    # Taken out by the same call that put them in (`Windower.take` after every `feed`).
    ("pipeline/windowing.py", "Windower", "deque"),
    # Held back only while the decoder of a file runs ahead; no server does that.
    ("services/ingest/merging.py", "Merger", "deque"),
    # Nobody waits in line: all are woken.
    ("services/gateway/hub.py", "Hub", "Condition"),
}
Place = tuple[str, str, str]


class Holders(ast.NodeVisitor):
    """Finds what is made of a class that holds items, with the class it is made in."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, bool]] = []
        self.lists: list[tuple[str, int]] = []
        self._class = ["module"]

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._class.append(node.name)
        for base in node.bases:
            kind = _name(base.value if isinstance(base, ast.Subscript) else base)
            if kind in HOLDERS:
                self.found.append((node.name, kind, False))
        self.generic_visit(node)
        self._class.pop()

    def visit_Call(self, node: ast.Call) -> None:
        kind = _name(node.func)
        if kind in HOLDERS:
            self.found.append((self._class[-1], kind, _is_bounded(kind, node)))
        takes_first = kind == "pop" and node.args and _is_zero(node.args[0])
        if takes_first and isinstance(node.func, ast.Attribute):
            self.lists.append((self._class[-1], node.lineno))
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if isinstance(target, ast.Subscript) and _is_head(target.slice):
                self.lists.append((self._class[-1], node.lineno))


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_zero(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == 0


def _is_head(piece: ast.expr) -> bool:
    return _is_zero(piece) or (
        isinstance(piece, ast.Slice) and piece.lower is None and piece.upper is not None
    )


def _is_bounded(kind: str, node: ast.Call) -> bool:
    if kind == "deque":
        return len(node.args) > 1 or any(word.arg == "maxlen" for word in node.keywords)
    if kind == "SimpleQueue":
        return False
    sizes = [*node.args, *(word.value for word in node.keywords)]
    return kind == "Condition" or any(not _is_zero(size) for size in sizes)


def modules() -> Iterator[Path]:
    for room in ("pipeline", "services"):
        yield from sorted((ROOT / room).rglob("*.py"))


def census() -> dict[Place, bool]:
    """Return every place and whether all that is made there is bounded."""
    found: dict[Place, bool] = {}
    for path in modules():
        holders = Holders()
        holders.visit(ast.parse(path.read_text(encoding="utf-8")))
        for owner, kind, bounded in holders.found:
            place = (str(path.relative_to(ROOT)), owner, kind)
            found[place] = found.get(place, True) and bounded
    return found


def test_every_queue_is_known() -> None:
    assert set(census()) == set(REGISTERED) | NO_QUEUE


def test_every_queue_is_bounded() -> None:
    unbounded = {place for place, bounded in census().items() if not bounded}
    assert unbounded == BOUNDED_BY_ITS_OWNER


def test_every_label_is_registered_somewhere() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in modules())
    missing = {label for label in REGISTERED.values() if f'"{label}"' not in source}
    assert not missing


def test_no_list_is_used_as_a_queue() -> None:
    """Taking the first of a list is what makes it a queue; these know their bound."""
    known = {
        "services/bus/ring.py": "the writer's ring, `writer_ring`",
    }
    found: Counter[str] = Counter()
    for path in modules():
        holders = Holders()
        holders.visit(ast.parse(path.read_text(encoding="utf-8")))
        found[str(path.relative_to(ROOT))] += len(holders.lists)
    assert set(+found) <= set(known), +found


@pytest.mark.parametrize(
    ("code", "bounded"),
    [
        ("deque()", False),
        ("deque(maxlen=3)", True),
        ("asyncio.Queue()", False),
        ("asyncio.Queue(maxsize=0)", False),
        ("queue.Queue(5)", True),
        ("queue.SimpleQueue()", False),
        ("class Inbox(asyncio.Queue[int]): pass", False),
    ],
)
def test_the_walk_sees_it(code: str, bounded: bool) -> None:
    holders = Holders()
    holders.visit(ast.parse(code))
    assert [each[2] for each in holders.found] == [bounded]
