"""Smoothing depends on time and evidence, never on how often it is called."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.smoothing import Follower, Smoother, kept

seconds = st.floats(0.01, 20)
weights = st.floats(0.01, 1)
simplex = arrays(np.float64, 7, elements=st.floats(0.001, 1)).map(lambda raw: raw / raw.sum())


def test_half_is_left_after_one_half_life():
    assert kept(3.0, 3.0) == 0.5


@pytest.mark.parametrize("dt_s", [0.0, -1.0])
def test_time_only_moves_forward(dt_s):
    with pytest.raises(ValueError, match="time must move forward"):
        kept(dt_s, 1.0)


@given(simplex, weights, seconds)
def test_the_first_value_stands_alone(values, weight, dt_s):
    assert Smoother(0.6).update(values, weight, dt_s) == pytest.approx(values)


@given(st.lists(st.tuples(simplex, weights, seconds), min_size=1, max_size=20))
def test_a_simplex_stays_a_simplex(inputs):
    smoother = Smoother(0.6)
    for values, weight, dt_s in inputs:
        out = smoother.update(values, weight, dt_s)
        assert out.min() >= 0
        assert out.sum() == pytest.approx(1)


@given(simplex, simplex, weights, weights, st.floats(0.1, 5), st.integers(2, 9))
def test_the_call_rate_does_not_matter(old, new, first, second, span_s, parts):
    once, often = Smoother(0.6), Smoother(0.6)
    once.update(old, first, 1.0)
    often.update(old, first, 1.0)
    at_once = once.update(new, second, span_s)
    for _ in range(parts):
        in_parts = often.update(new, second, span_s / parts)
    assert in_parts == pytest.approx(at_once, abs=1e-9)


def test_thin_evidence_moves_little_and_a_long_hole_forgets():
    old, new = np.eye(7)[0], np.eye(7)[3]
    thin, full, late = Smoother(0.6), Smoother(0.6), Smoother(0.6)
    for smoother in (thin, full, late):
        for _ in range(10):
            smoother.update(old, 1.0, 0.5)
    assert thin.update(new, 0.1, 0.5)[3] < full.update(new, 1.0, 0.5)[3] / 4
    assert late.update(new, 0.1, 600.0)[3] == pytest.approx(1)


def test_a_change_is_followed_within_a_second():
    smoother = Smoother(0.6)
    for _ in range(20):
        smoother.update(np.eye(7)[0], 1.0, 0.5)
    smoother.update(np.eye(7)[3], 1.0, 0.5)
    assert smoother.update(np.eye(7)[3], 1.0, 0.5).argmax() == 3


def test_attack_is_faster_than_release():
    follower = Follower(attack_s=1.0, release_s=4.0)
    assert follower.update(1.0, 1.0) == pytest.approx(0.5)
    assert follower.update(0.0, 4.0) == pytest.approx(0.25)


@given(st.floats(0, 1), st.floats(0, 1), seconds, st.integers(2, 9))
def test_a_follower_does_not_depend_on_the_call_rate(start, target, span_s, parts):
    once = Follower(attack_s=1.5, release_s=4.0, start=start)
    often = Follower(attack_s=1.5, release_s=4.0, start=start)
    at_once = once.update(target, span_s)
    for _ in range(parts):
        often.update(target, span_s / parts)
    assert often.value == pytest.approx(at_once, abs=1e-9)
    assert min(start, target) - 1e-12 <= at_once <= max(start, target) + 1e-12


def test_variance_needs_a_value() -> None:
    with pytest.raises(ValueError, match="nothing was taken"):
        _ = Smoother(1.0).variance


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.1, 1))
def test_variance_is_that_of_the_weighted_values(values: list[float], weight: float) -> None:
    smoother = Smoother(1.0)
    for value in values:
        mean = smoother.update(np.array([value]), weight, 0.5)
    ages = 0.5 * np.arange(len(values))[::-1]
    weights = 0.5**ages
    expected = np.average((np.array(values) - mean) ** 2, weights=weights)
    assert smoother.variance == pytest.approx([expected], abs=1e-9)
