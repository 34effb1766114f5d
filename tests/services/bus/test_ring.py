"""What a writer keeps over an outage."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import events
from services.bus.ring import LANE_BOUND, Ring
from services.bus.types import LOG_RECORDS
from tests.services.events import alert, scored, seqs, skipped, started

KINDS = {"scored": scored, "skipped": skipped, "alert": alert}


def filled(kinds, now_s=0.0):
    ring = Ring("ses_1", 1000, "self")
    for seq, kind in enumerate(kinds):
        ring.put(KINDS[kind](seq), now_s)
    return ring


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=700))
def test_oldest_windows_go_first_and_alerts_never(kinds):
    ring = filled(kinds)
    left = seqs(ring.held())
    assert left == sorted(left)
    alerts = [seq for seq, kind in enumerate(kinds) if kind == "alert"]
    assert set(alerts) <= set(left)
    assert len(left) <= max(LOG_RECORDS, len(alerts))
    gone = set(range(len(kinds))) - set(left)
    assert ring.dropped == {"window": len(gone), "lane": 0}
    windows_left = [seq for seq in left if kinds[seq] != "alert"]
    assert not gone or not windows_left or max(gone) < min(windows_left)


def test_the_lane_is_bounded_too():
    ring = filled(["alert"] * (LANE_BOUND + 5))
    assert len(ring) == LANE_BOUND
    assert ring.dropped["lane"] == 5


def test_written_events_go_before_unwritten_ones():
    ring = filled(["alert"] * 10 + ["scored"] * (LOG_RECORDS - 10))
    ring.written(ring.held()[:20])
    for seq in range(LOG_RECORDS, LOG_RECORDS + 20):
        ring.put(scored(seq), 0.0)
    assert ring.dropped == {"window": 0, "lane": 0}
    assert seqs(ring.unwritten(0.0, 1000)) == list(range(20, LOG_RECORDS + 20))


def test_unwritten_is_in_order_and_limited():
    ring = filled(["scored"] * 9)
    first = ring.unwritten(0.0, 4)
    assert seqs(first) == [0, 1, 2, 3]
    ring.written(first)
    assert (ring.top, ring.pending) == (3, 5)
    assert seqs(ring.unwritten(0.0, 4)) == [4, 5, 6, 7]
    ring.forget_from(1)
    assert seqs(ring.unwritten(0.0, 4)) == [2, 3, 4, 5]
    assert seqs(ring.held()) == list(range(9))


def test_a_window_that_waited_says_so_once():
    ring = Ring("ses_1", 1000, "self")
    for event in (scored(0), skipped(1), alert(2)):
        ring.put(event, 10.0)
    ring.put(scored(3), 12.0)
    for _ in range(2):
        held = [events.decode(item.data) for item in ring.unwritten(13.5, 9)]
    assert [getattr(event, "degraded", None) for event in held] == [["late"], None, None, []]
    assert held[2] == alert(2)


def test_header_tells_what_a_gateway_must_know():
    ring = Ring("ses_1", 1000, "customer")
    ring.put(started(), 0.0)
    (record,) = ring.held()
    assert (record.header.type, record.header.role) == ("session.started", "customer")
    assert (record.header.epoch, record.header.seq) == (1000, 0)
    assert events.decode(record.data) == started()


def test_an_event_without_seq_has_no_place_in_the_log():
    ring = Ring("ses_1", 1000, "self")
    with pytest.raises(ValueError, match="seq"):
        ring.put(events.Gap(**gap()), 0.0)


def gap():
    return {
        "id": "evt_1",
        "session_id": "ses_1",
        "seq": None,
        "ts": "2026-01-01T00:00:00.000Z",
        "participant_id": None,
        "kind": "delivery",
        "from_seq": 1,
        "to_seq": 2,
        "cause": "slow_reader",
    }
