"""Guessing tokens is slow: an address that failed too often is not even checked."""

import pytest

from services import brake
from services.brake import ADDRESSES, FAILURES, WINDOW_S, Brake, Braked, sender
from services.queues import Registry


def failed(times, address="192.0.2.1", at_s=0.0, gauge=None):
    gauge = gauge or Brake()
    for _ in range(times):
        gauge.check(address, at_s)
        gauge.failed(address, at_s)
    return gauge


def test_ten_failures_in_ten_seconds_and_no_more():
    gauge = failed(FAILURES)
    with pytest.raises(Braked) as braked:
        gauge.check("192.0.2.1", 1.5)
    assert braked.value.wait_s == 9
    gauge.check("192.0.2.2", 1.5)
    gauge.check("192.0.2.1", WINDOW_S)
    assert gauge.braked == 1


def test_slow_failures_never_add_up():
    gauge = Brake()
    for second in range(100):
        gauge.check("192.0.2.1", second * 1.2)
        gauge.failed("192.0.2.1", second * 1.2)
    assert gauge.braked == 0


def test_being_turned_away_does_not_make_it_longer():
    gauge = failed(FAILURES)
    for tenth in range(99):
        with pytest.raises(Braked):
            gauge.check("192.0.2.1", tenth / 10)
    gauge.check("192.0.2.1", WINDOW_S)


def test_the_table_is_bounded_and_forgets_whom_it_heard_of_longest_ago(monkeypatch):
    monkeypatch.setattr(brake, "ADDRESSES", 3)
    queues, gauge = Registry(), Brake()
    with gauge.registered(queues, "brake"):
        for number in range(3):
            gauge.failed(f"192.0.2.{number}", 0.0)
        failed(FAILURES - 1, "192.0.2.0", 0.0, gauge)
        gauge.failed("192.0.2.9", 0.0)
        (state,) = queues.statistics()
        assert (state.depth, state.dropped) == (3, {"table_full": 1})
        with pytest.raises(Braked):
            gauge.check("192.0.2.0", 0.0)
    assert ADDRESSES == 4096


@pytest.mark.parametrize(
    ("peer", "headers", "told"),
    [
        ("192.0.2.1", {}, "192.0.2.1"),
        ("192.0.2.1", {"X-Forwarded-For": "203.0.113.9"}, "192.0.2.1"),
        ("127.0.0.1", {}, "127.0.0.1"),
        ("127.0.0.1", {"x-forwarded-for": "198.51.100.1, 203.0.113.9"}, "203.0.113.9"),
        ("127.0.0.1", {"X-Forwarded-For": "rubbish"}, "127.0.0.1"),
        ("127.0.0.1", {"X-Forwarded-For": ""}, "127.0.0.1"),
        ("2001:db8:1:2:3::1", {}, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", {}, "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", {}, "192.0.2.7"),
        ("fe80::1%eth0", {}, "fe80::/64"),
        (None, {}, ""),
    ],
)
def test_who_sent_it(peer, headers, told):
    assert sender(peer, headers) == told
