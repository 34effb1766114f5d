"""Fitting a temperature."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("onnx")

from exporters.face import calibrate
from pipeline.errors import UsageError


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_temperature_that_made_answers_too_sure_is_found_again():
    random = np.random.default_rng(5)
    honest = softmax(random.normal(0, 1.5, (4000, 7)))
    truth = np.array([random.choice(7, p=row) for row in honest])
    boasting = calibrate.cooled(honest, 1 / 3)
    assert calibrate.best_temperature(boasting, truth) == pytest.approx(3, abs=0.25)


@given(st.floats(0.5, 8), st.integers(0, 1000))
def test_a_temperature_never_changes_the_answer(temperature, seed):
    probabilities = softmax(np.random.default_rng(seed).normal(0, 2, (5, 7)))
    cooled = calibrate.cooled(probabilities, temperature)
    assert (cooled.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    np.testing.assert_allclose(cooled.sum(axis=1), 1)


def test_unknown_labels_are_left_out(tmp_path):
    (tmp_path / "labels.csv").write_text("file,emotion\na.jpg,anger\nb.jpg,contempt\n")
    labels, files = calibrate.table(tmp_path)
    assert labels == ["angry"]
    assert [file.name for file in files] == ["a.jpg"]


def test_a_folder_without_labels_says_what_it_needs(tmp_path):
    with pytest.raises(UsageError, match=r"labels\.csv"):
        calibrate.table(tmp_path)
