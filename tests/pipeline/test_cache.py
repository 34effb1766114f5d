"""The scorer's cache: bounds, order of leaving, counters."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cache import SessionCache


def test_what_was_put_is_found_and_counted():
    cache = SessionCache(per_session=2, sessions=2)
    assert cache.get("a", 1) is None
    cache.put("a", 1, "x")
    assert cache.get("a", 1) == "x"
    assert cache.get("a", 2) is None
    assert cache.statistics() == {
        "sessions": 1, "entries": 1, "hits": 1, "misses": 2,
        "entries_dropped": 0, "sessions_dropped": 0,
    }  # fmt: skip


def test_the_oldest_entry_of_a_session_leaves_first():
    cache = SessionCache(per_session=2, sessions=1)
    for key in (1, 2, 3):
        cache.put("a", key, key)
    assert [cache.get("a", key) for key in (1, 2, 3)] == [None, 2, 3]
    assert cache.counters.entries_dropped == 1


def test_the_session_longest_unused_leaves_first():
    cache = SessionCache(per_session=1, sessions=2)
    cache.put("a", 0, "a")
    cache.put("b", 0, "b")
    cache.get("a", 0)
    cache.put("c", 0, "c")
    assert [cache.get(name, 0) for name in "abc"] == ["a", None, "c"]
    assert cache.counters.sessions_dropped == 1


def test_a_forgotten_session_leaves_nothing_behind():
    cache = SessionCache(per_session=4, sessions=4)
    cache.put("a", 0, "a")
    cache.put("b", 0, "b")
    cache.forget(["a", "unknown"])
    assert cache.get("a", 0) is None
    assert len(cache) == 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=80))
def test_bounds_hold_and_every_entry_is_accounted_for(puts):
    cache = SessionCache(per_session=3, sessions=2)
    for session_id, key in puts:
        cache.put(session_id, key, (session_id, key))
        assert cache.get(session_id, key) == (session_id, key)
    statistics = cache.statistics()
    assert statistics["sessions"] <= 2
    assert statistics["entries"] <= 6
    assert statistics["hits"] == len(puts)
