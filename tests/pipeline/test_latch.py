"""A rule with hysteresis: its table is total, and dwell counts only evidence."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.latch import TABLE, Latch, Phase, RuleSettings, Signal

RULE = RuleSettings(
    "test",
    enter=0.7,
    enter_ms=2_000,
    leave=0.5,
    leave_ms=3_000,
    min_confidence=0.5,
    cool_down_ms=10_000,
)
HOP_MS = 500


@pytest.mark.parametrize(("enter", "leave"), [(0.5, 0.5), (0.4, 0.6), (1.1, 0.5), (0.5, -0.1)])
def test_thresholds_that_cannot_work_are_refused(enter, leave):
    with pytest.raises(UsageError, match="must be below enter"):
        RuleSettings("test", enter=enter, enter_ms=1, leave=leave, leave_ms=1)


class Drive:
    """Feeds a latch one window a hop."""

    def __init__(self, rule=RULE):
        self.latch = Latch(rule)
        self.index = -1

    def __call__(self, value, times=1, confidence=0.9, skip=0):
        self.index += skip
        for _ in range(times):
            self.index += 1
            changed = self.latch.step(
                value,
                confidence,
                index=self.index,
                now_ms=(self.index + 1) * HOP_MS,
                dt_ms=HOP_MS,
            )
        return changed


def test_the_table_is_total():
    assert set(TABLE) == set(itertools.product(Phase, Signal))


def test_it_latches_after_the_dwell_and_names_the_windows_that_counted():
    drive = Drive()
    drive(0.1, 3)
    assert not drive(0.8, 3)
    assert drive(0.75)
    assert drive.latch.on
    assert drive.latch.windows == [3, 4, 5, 6]
    assert (drive.latch.since_ms, drive.latch.latched_ms) == (1_500, 3_500)
    assert drive.latch.peak == 0.8


@pytest.mark.parametrize("value", [0.69, 0.5, 0.1])
def test_a_dip_starts_the_dwell_again(value):
    drive = Drive()
    drive(0.8, 3)
    drive(value)
    assert drive.latch.phase is Phase.IDLE
    assert not drive(0.8, 3)
    assert drive(0.8)


def test_an_unsure_window_freezes_the_dwell():
    drive = Drive()
    drive(0.8, 3)
    assert not drive(0.9, 20, confidence=0.49)
    assert drive.latch.phase is Phase.RISING
    assert drive(0.8)
    assert drive.latch.windows == [0, 1, 2, 23]
    assert not Drive()(0.9, 20, confidence=0.49)


def test_it_leaves_only_after_its_own_dwell():
    drive = Drive()
    drive(0.8, 4)
    drive(0.5, 5)
    drive(0.51)
    assert drive.latch.phase is Phase.LATCHED
    assert not drive(0.5, 5)
    assert drive(0.2)
    assert drive.latch.phase is Phase.COOLING


def test_the_cool_down_holds_it_back():
    drive = Drive()
    drive(0.8, 4)
    drive(0.1, 6)
    assert not drive(0.9, 19)
    assert drive.latch.phase is Phase.COOLING
    assert drive(0.9, 4)


def test_holes_count_for_no_dwell():
    drive = Drive()
    drive(0.8, 2)
    drive(0.8, skip=40)
    assert not drive.latch.on
    assert drive(0.8)


def test_release_clears_and_cools_only_what_held():
    drive = Drive()
    assert not drive.latch.release(0)
    assert drive.latch.phase is Phase.IDLE
    drive(0.8, 3)
    assert not drive.latch.release(2_000)
    assert drive(0.8, 4)
    assert drive.latch.release(9_000)
    assert drive.latch.phase is Phase.COOLING


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 30)), max_size=200),
)
def test_on_and_off_need_their_dwell_whatever_comes(steps):
    drive = Drive()
    was_on, above_ms, below_ms = False, 0, 0
    for value, confidence, skip in steps:
        changed = drive(value, confidence=confidence, skip=skip)
        latch = drive.latch
        assert changed == (latch.on != was_on)
        if value < RULE.enter:
            above_ms = 0
        elif confidence >= RULE.min_confidence:
            above_ms += HOP_MS
        below_ms = below_ms + HOP_MS if value <= RULE.leave else 0
        if latch.on and not was_on:
            assert above_ms >= RULE.enter_ms
            assert len(latch.windows) == RULE.enter_ms // HOP_MS
        if was_on and not latch.on:
            assert below_ms >= RULE.leave_ms
        was_on = latch.on
