"""The queue registry adds queues of one label up and never forgets a drop."""

from collections import Counter

import pytest

from services.queues import Kind, Registry


def _add(registry, items, dropped, name="frames", bound=4):
    return registry.add(
        name,
        bound=bound,
        unit="frames",
        rule="drop_oldest",
        depth=lambda: len(items),
        dropped=lambda: dropped,
    )


def test_queues_of_one_label_are_added_up():
    registry = Registry()
    _add(registry, [1, 2], Counter(full=3))
    _add(registry, [1], Counter(full=1, late=2))
    (statistics,) = registry.statistics()
    assert statistics.kind == Kind("frames", 4, "frames", "drop_oldest")
    assert (statistics.instances, statistics.depth) == (2, 3)
    assert statistics.dropped == {"full": 4, "late": 2}


def test_a_closed_queue_leaves_its_drops_behind():
    registry = Registry()
    with _add(registry, [1], Counter(full=3)) as queue:
        pass
    queue.close()
    (statistics,) = registry.statistics()
    assert (statistics.instances, statistics.depth, statistics.dropped) == (0, 0, {"full": 3})


def test_one_label_has_one_bound():
    registry = Registry()
    _add(registry, [], {})
    with pytest.raises(ValueError, match="registered as"):
        _add(registry, [], {}, bound=5)


def test_no_queue_without_a_bound():
    with pytest.raises(ValueError, match="at least 1"):
        _add(Registry(), [], {}, bound=0)
