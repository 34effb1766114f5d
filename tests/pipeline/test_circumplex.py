"""Valence and arousal: where single labels lie, and that mixtures lie between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.circumplex import COORDINATES, project
from pipeline.spec import LABELS


@pytest.mark.parametrize("label", LABELS)
def test_a_pure_label_lies_on_its_rating(label):
    assert project(np.eye(7)[LABELS.index(label)]) == pytest.approx(COORDINATES[label])


def test_signs_are_those_of_the_words():
    for label in ("sad", "angry", "fear", "disgust"):
        assert COORDINATES[label][0] < 0 < COORDINATES["happy"][0]
    for label in ("happy", "angry", "fear", "surprise"):
        assert COORDINATES["sad"][1] < 0 < COORDINATES[label][1]
    assert COORDINATES["neutral"] == (0, 0)


@given(arrays(np.float64, 7, elements=st.floats(0.001, 1)))
def test_mixtures_stay_inside_the_circle_of_the_labels(raw):
    valence, arousal = project(raw / raw.sum())
    assert -0.64 <= valence <= 0.81
    assert -0.27 <= arousal <= 0.67
