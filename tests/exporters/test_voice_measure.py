"""Figures against values worked out by hand."""

import numpy as np
import pytest

from exporters.voice.measure import (
    calibration_error,
    figures,
    fit_offset,
    fit_temperature,
    softmax,
)


def test_recalls() -> None:
    logits = np.array([[2.0, 1, 0], [0, 2, 1], [0, 2, 1], [1, 0, 0]])
    labels = np.array([0, 0, 1, 0])
    found = figures(logits, labels)
    assert (found.war, found.uar, found.clips) == (0.75, pytest.approx((2 / 3 + 1) / 2), 4)


def test_arg_max_goes_over_the_labels_that_occur() -> None:
    logits = np.array([[0.0, 1, 9], [1, 0, 9]])
    assert figures(logits, np.array([1, 0])).war == 1.0
    assert figures(logits, np.array([1, 0]), (0, 1, 2)).war == 0.0


def test_temperature_undoes_scaling() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (4000, 7))
    drawn = softmax(logits).cumsum(axis=1) > rng.random((4000, 1))
    labels = drawn.argmax(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(1.0, abs=0.1)
    assert fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, abs=0.25)
    assert calibration_error(softmax(logits), labels) < 0.05
    assert calibration_error(softmax(4.0 * logits), labels) > 0.1


def test_offset_takes_back_a_habit_that_all_voices_share() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(0, 1.5, (3000, 7))
    labels = (softmax(true).cumsum(axis=1) > rng.random((3000, 1))).argmax(axis=1)
    speakers = np.array(["a", "b", "c"])[np.arange(3000) % 3]
    readily = true + np.eye(7)[4]  # the fifth label is named too often
    offset = fit_offset(readily, labels, speakers)
    assert offset.argmin() == 4
    assert -1.0 < offset[4] - np.delete(offset, 4).mean() < -0.3  # shrunk on purpose
    before, after = (figures(logits, labels).uar for logits in (readily, readily + offset))
    assert after > before


def test_one_voice_alone_gets_no_offset() -> None:
    logits, labels = np.eye(7)[[4, 4, 4]], np.array([0, 1, 2])
    assert not fit_offset(logits, labels, np.array(["a", "a", "a"])).any()
    assert fit_offset(logits, labels, np.array(["a", "a", "b"])).any()
