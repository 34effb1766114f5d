"""Metrics against hand-worked cases and against the definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics import calibration_error, measure
from pipeline.spec import LABELS


def one_hot(labels, sure=1.0):
    rows = np.full((len(labels), len(LABELS)), (1 - sure) / 6)
    rows[np.arange(len(labels)), [LABELS.index(label) for label in labels]] = sure
    return rows


def test_a_hand_worked_case():
    truth = ["happy"] * 3 + ["sad"]
    found = measure(truth, one_hot(["happy", "happy", "sad", "sad"]))
    assert found.labels == ("happy", "sad")
    assert found.confusion.tolist() == [[2, 1], [0, 1]]
    assert found.war == 0.75
    assert found.uar == pytest.approx((2 / 3 + 1) / 2)
    assert found.as_dict()["per_class"] == {
        "happy": {"recall": 0.6667, "n": 3},
        "sad": {"recall": 1.0, "n": 1},
    }
    assert found.as_dict()["n"] == 4


def test_the_arg_max_is_taken_over_labels_that_occur():
    rows = np.array([[0.5, 0.3, 0.2, 0, 0, 0, 0], [0.9, 0.0, 0.1, 0, 0, 0, 0]])
    found = measure(["happy", "sad"], rows)
    assert found.war == 1.0  # 'neutral' leads both rows but occurs in no truth


def test_rows_that_give_nothing_to_the_labels_that_occur_still_count():
    found = measure(["happy", "sad"], np.eye(7)[[0, 0]])
    assert found.n == 2
    assert np.isfinite(found.ece)


@pytest.mark.parametrize(("truth", "shape"), [([], (0, 7)), (["sad"], (2, 7)), (["sad"], (1, 6))])
def test_shapes_that_do_not_fit_are_refused(truth, shape):
    with pytest.raises(ValueError, match="labels for probabilities"):
        measure(truth, np.zeros(shape))


def test_calibration_error_by_hand():
    confidence = np.array([0.9, 0.9, 0.6, 0.6])
    right = np.array([True, True, True, False])
    # bin of 0.9: |0.9 - 1.0|, bin of 0.6: |0.6 - 0.5|, half of the samples each
    assert calibration_error(confidence, right) == pytest.approx(0.1)


def test_calibration_of_the_edges():
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0.0


@given(st.data())
def test_agrees_with_the_definitions(data):
    truth = data.draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=30))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    rows = rng.dirichlet(np.ones(7), len(truth))
    found = measure(truth, rows)
    present = [label for label in LABELS if label in truth]
    answers = [max(present, key=lambda label, r=row: r[LABELS.index(label)]) for row in rows]
    right = [a == t for a, t in zip(answers, truth, strict=True)]
    assert found.war == pytest.approx(np.mean(right))
    recalls = [np.mean([r for r, t in zip(right, truth, strict=True) if t == p]) for p in present]
    assert found.uar == pytest.approx(np.mean(recalls))
    assert 0 <= found.ece <= 1
    assert found.n == len(truth)
