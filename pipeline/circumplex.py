"""Valence and arousal as a projection of the label probabilities.

The coordinates are the mean pleasure and arousal ratings, scaled to [-1, 1], of the terms happy,
sad, angry, fearful, disgusted and surprised in Russell & Mehrabian, "Evidence for a three-factor
theory of emotions", Journal of Research in Personality 11 (1977) 273-294, table 4. Neutral is the
origin. What comes out is the expectation of these ratings: a summary of the expressed categories,
not a measurement of its own.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.spec import LABELS

COORDINATES = {
    "neutral": (0.00, 0.00),
    "happy": (0.81, 0.51),
    "sad": (-0.63, -0.27),
    "angry": (-0.51, 0.59),
    "fear": (-0.64, 0.60),
    "disgust": (-0.60, 0.35),
    "surprise": (0.40, 0.67),
}
"""Label → (valence, arousal)."""

_MATRIX = np.array([COORDINATES[label] for label in LABELS])


def project(probabilities: NDArray[np.float64]) -> tuple[float, float]:
    """Return (valence, arousal), each in [-1, 1], of ``(7,)`` probabilities in wire order."""
    valence, arousal = probabilities @ _MATRIX
    return float(valence), float(arousal)
