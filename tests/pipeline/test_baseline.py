"""The own baseline: learned once, in the first minute, then blended in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.baseline import POPULATION, Baseline, BaselineSettings, Norm, deviation
from tests.pipeline.readings import face, slot, tracked

MINUTE_MS = 60_000


def spoken(count, loudness=-30.0, pitch=120.0, rate=3.0, first=0):
    return [slot(first + at, loudness=loudness, pitch=pitch, rate=rate) for at in range(count)]


def test_the_first_minute_is_measured_against_the_population():
    baseline = Baseline()
    baseline.hear(spoken(110))
    baseline.see([tracked(at * 4_000, face()) for at in range(200)])
    for measure, norm in POPULATION.items():
        assert baseline.norm(measure, MINUTE_MS - 1) == norm
    assert baseline.norm("brow_gap", MINUTE_MS - 1) is None
    assert not baseline.own(MINUTE_MS - 1)


def test_then_the_own_values_blend_in_and_the_band_narrows():
    baseline = Baseline()
    baseline.hear(spoken(110))
    loudness = baseline.norm("loudness", MINUTE_MS)
    assert loudness.own
    assert -30 < loudness.mean < -29.5
    assert 2 <= loudness.deviation < POPULATION["loudness"].deviation / 3
    assert baseline.norm("pitch", MINUTE_MS).mean == pytest.approx(122.3, abs=0.5)
    assert baseline.own(MINUTE_MS)


def test_measures_without_a_population_norm_are_purely_own():
    baseline = Baseline()
    baseline.see([tracked(at * 4_000, face(brow=0.30 + 0.1 * (at % 2))) for at in range(100)])
    norm = baseline.norm("brow_gap", MINUTE_MS)
    assert norm == Norm(pytest.approx(0.35), pytest.approx(0.05), own=True)
    baseline.see([tracked(500_000, face(mouth=None))])
    assert baseline.norm("mouth_open", MINUTE_MS).deviation == 0.01


def test_it_stops_learning_after_the_minute():
    baseline = Baseline()
    baseline.hear(spoken(100))
    before = baseline.norm("loudness", MINUTE_MS)
    baseline.hear(spoken(50, loudness=-5.0, first=200))
    assert baseline.norm("loudness", MINUTE_MS * 2) == before


def test_who_speaks_late_is_still_learned_from():
    baseline = Baseline()
    baseline.hear(spoken(19, first=500))
    assert baseline.norm("loudness", 300_000) == POPULATION["loudness"]
    baseline.hear(spoken(50, first=519))
    assert baseline.norm("loudness", 300_000).own
    assert baseline.norm("loudness", 300_000).mean == pytest.approx((20 * -30 + 8 * -26) / 28)


def test_only_speech_counts_and_only_the_face_that_counts():
    baseline = Baseline()
    baseline.hear([slot(at, speech=0.2) for at in range(100)])
    baseline.hear([slot(100 + at, pitch=None) for at in range(19)])
    baseline.see([tracked(at * 4_000) for at in range(100)])
    assert baseline.norm("loudness", 90_000) == POPULATION["loudness"]
    assert baseline.norm("brow_gap", 90_000) is None


@given(st.lists(st.integers(1, 4), min_size=5, max_size=30))
def test_overlap_between_windows_counts_nothing_twice(steps):
    once, often = Baseline(), Baseline()
    made = [slot(at, loudness=-40.0 + at % 7) for at in range(sum(steps) + 4)]
    frames = [tracked(at * 8_000, face(brow=0.3 + at % 5 / 100)) for at in range(len(made))]
    once.hear(made)
    once.see(frames)
    start = 0
    for step in steps:
        often.hear(made[start : start + 4])
        often.see(frames[start : start + 4])
        start += step
    often.hear(made[start:])
    often.see(frames[start:])
    for measure in ("loudness", "brow_gap"):
        assert once.norm(measure, MINUTE_MS) == often.norm(measure, MINUTE_MS)


def test_deviation_is_in_standard_deviations_and_semitones():
    assert deviation("loudness", -16.0, Norm(-26.0, 10.0, own=True)) == 1.0
    assert deviation("pitch", 320.0, Norm(160.0, 6.0, own=True)) == pytest.approx(2.0)
    assert deviation("pitch", None, POPULATION["pitch"]) == 0.0
    assert deviation("brow_gap", 0.3, None) == 0.0


def test_settings_rule():
    baseline = Baseline(BaselineSettings(learn_ms=10_000, min_samples=2, prior_samples=0.0))
    baseline.hear(spoken(2))
    assert baseline.norm("loudness", 10_000) == Norm(-30.0, 2.0, own=True)
