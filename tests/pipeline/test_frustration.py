"""Frustration: what raises it, how it follows, and when an alert comes and goes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.frustration import (
    HOP_MS,
    Cleared,
    Frustration,
    FrustrationSettings,
    Raised,
    evidence,
)
from tests.pipeline.readings import answer

SETTINGS = FrustrationSettings()


class Drive:
    """Feeds one window a hop."""

    def __init__(self, settings=SETTINGS):
        self.frustration = Frustration(settings)
        self.index = -1
        self.changes = []

    @property
    def end_ms(self):
        return 2_000 + self.index * HOP_MS

    def __call__(self, raw, seconds, confidence=0.9, weight=1.0, own=True):
        for _ in range(round(seconds * 1000 / HOP_MS)):
            self.index += 1
            reading, changes = self.frustration.step(
                raw,
                confidence=confidence,
                weight=weight,
                own=own,
                index=self.index,
                end_ms=self.end_ms,
            )
            self.changes += changes
        return reading

    def nothing(self, seconds):
        for _ in range(round(seconds * 1000 / HOP_MS)):
            self.index += 1
            self.changes += self.frustration.absent(self.end_ms)


def reading_of(label, p=0.9, arousal=None):
    values = answer(label, p).astype(np.float64)
    return evidence(
        values, {"angry": 0.5}.get(label, 0.0) if arousal is None else arousal, SETTINGS
    )


def test_what_raises_it_and_what_does_not():
    assert reading_of("angry") > 0.75
    assert reading_of("disgust") > 0.55
    assert reading_of("sad", arousal=0.6) > reading_of("sad", arousal=-0.3) + 0.2
    assert max(reading_of(label) for label in ("neutral", "happy", "surprise")) < 0.1


def test_a_mixture_like_the_one_in_the_protocol_is_near_the_alert_level():
    mixed = np.array([0.22, 0.0, 0.11, 0.58, 0.01, 0.08, 0.0])
    assert 0.6 < evidence(mixed, 0.61, SETTINGS) < 0.8


@given(arrays(np.float64, 7, elements=st.floats(0.001, 1)), st.floats(-1, 1))
def test_evidence_stays_in_range(raw, arousal):
    assert 0 <= evidence(raw / raw.sum(), arousal, SETTINGS) <= 1


def test_it_rises_fast_and_falls_slowly():
    drive = Drive()
    assert drive(0.8, 3).value == pytest.approx(0.6, abs=0.01)
    drive(0.8, 30)
    assert drive(0.0, 4).value == pytest.approx(0.4, abs=0.01)


def test_the_band_holds_the_value_and_tells_how_sure():
    steady = Drive()(0.5, 30)
    assert steady.low < steady.value < steady.high
    assert steady.high - steady.low < 0.1
    early = Drive()(0.5, 30, own=False)
    thin = Drive()(0.5, 30, weight=0.1)
    assert early.high - early.low > steady.high - steady.low
    assert thin.high - thin.low > early.high - early.low
    jumpy = Drive()
    for _ in range(30):
        jumpy(0.2, 0.5)
        noisy = jumpy(0.8, 0.5)
    assert noisy.high - noisy.low > 2 * (steady.high - steady.low)


def test_the_trend_has_a_since_and_ends():
    drive = Drive()
    assert drive(0.2, 40).trend == "steady"
    began_ms = drive.end_ms
    rising = drive(0.9, 3)
    assert rising.trend == "rising"
    assert began_ms < rising.since_ms <= began_ms + 1_000
    assert drive(0.9, 60).trend == "steady"
    assert drive(0.1, 3).trend == "falling"


def test_watch_is_a_state_without_an_alert():
    drive = Drive()
    drive(0.6, 2)
    assert drive.frustration.state == "calm"
    drive(0.6, 6)
    assert drive.frustration.state == "watch"
    drive(0.0, 8)
    assert drive.frustration.state == "calm"
    assert drive.changes == []


def test_high_needs_eight_seconds_and_names_its_windows():
    drive = Drive()
    drive(0.95, 12)
    (raised,) = drive.changes
    assert isinstance(raised, Raised)
    assert len(raised.windows) == 16
    assert raised.reading.value >= 0.7
    first_end_ms = 2_000 + raised.windows[0] * HOP_MS
    assert raised.since_ms == first_end_ms - HOP_MS
    assert drive.frustration.state == "high"
    assert drive.frustration.alerting


def test_high_needs_confidence():
    drive = Drive()
    drive(0.95, 60, confidence=0.49)
    assert drive.changes == []
    assert drive.frustration.state == "watch"


def test_recovery_clears_after_ten_seconds_then_the_cool_down_holds():
    drive = Drive()
    drive(0.95, 20)
    drive(0.0, 18)
    cleared = drive.changes[1]
    assert isinstance(cleared, Cleared)
    assert cleared.cause == "recovered"
    assert 10_000 <= cleared.duration_ms < 30_000
    assert cleared.peak > 0.9
    assert drive.frustration.state != "high"
    drive(0.95, 25)
    assert len(drive.changes) == 2
    drive(0.95, 15)
    assert isinstance(drive.changes[2], Raised)


def test_no_evidence_freezes_the_dwell():
    drive = Drive()
    drive(0.95, 6)
    before = list(drive.changes)
    drive.nothing(59)
    assert drive.changes == before == []
    drive(0.95, 2)
    assert drive.changes == []
    drive(0.95, 6)
    assert len(drive.changes) == 1


def test_no_evidence_keeps_an_alert_for_a_minute_then_loses_it():
    drive = Drive()
    drive(0.95, 20)
    drive.nothing(59.5)
    assert len(drive.changes) == 1
    drive.nothing(0.5)
    assert drive.changes[1].cause == "evidence_lost"
    assert drive.frustration.state == "calm"
    drive.nothing(120)
    assert len(drive.changes) == 2
    assert drive(0.95, 0.5).value < 0.3


def test_a_lost_minute_is_noticed_by_the_next_window_too():
    drive = Drive()
    drive(0.95, 20)
    drive.index += 121
    drive(0.95, 0.5)
    assert [type(change) for change in drive.changes] == [Raised, Cleared]


def test_losing_evidence_without_an_alert_says_nothing():
    drive = Drive()
    drive(0.6, 10)
    drive.nothing(61)
    assert drive.changes == []
    assert drive.frustration.state == "calm"
    drive(0.95, 12)
    assert len(drive.changes) == 1, "no cool-down without an alert"


def test_the_end_clears_what_is_up():
    drive = Drive()
    assert drive.frustration.finish(0) == []
    drive(0.95, 20)
    (cleared,) = drive.frustration.finish(drive.end_ms)
    assert cleared.cause == "session_ended"


def test_thresholds_are_settings():
    low = replace(SETTINGS.high, enter=0.3, leave=0.2, enter_ms=1_000)
    drive = Drive(replace(SETTINGS, high=low))
    drive(0.5, 4)
    assert isinstance(drive.changes[0], Raised)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.integers(0, 130)),
        max_size=150,
    )
)
def test_whatever_comes_alerts_alternate_and_numbers_stay_in_range(steps):
    drive = Drive()
    for raw, confidence, weight, hole in steps:
        drive.nothing(hole * HOP_MS / 1000)
        reading = drive(raw, 0.5, confidence=confidence, weight=weight)
        assert 0 <= reading.low <= reading.value <= reading.high <= 1
        assert reading.since_ms <= drive.end_ms
    drive.changes += drive.frustration.finish(drive.end_ms)
    kinds = [type(change) for change in drive.changes]
    assert kinds == [Raised, Cleared] * (len(kinds) // 2)
    for raised, cleared in zip(drive.changes[::2], drive.changes[1::2], strict=True):
        assert cleared.peak >= raised.reading.value
