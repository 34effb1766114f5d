"""Figures on whole clips: recalls, calibration, temperature, offset. No framework but numpy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_PULL = 0.05
"""Penalty on the squares of an offset: a handful of speakers must not bend the answers far."""
_STEPS = 300


@dataclass(frozen=True, slots=True)
class Figures:
    """War and uar in 0..1; ``recalls`` by label index, absent labels left out."""

    war: float
    uar: float
    recalls: dict[int, float]
    clips: int

    def __str__(self) -> str:
        return f"WAR {self.war:.3f}  UAR {self.uar:.3f}  ({self.clips} clips)"


def figures(
    logits: Floats, labels: NDArray[np.int64], among: tuple[int, ...] | None = None
) -> Figures:
    """Judge arg-max over the labels ``among`` (default: those that occur in ``labels``)."""
    columns = np.array(sorted(among or set(labels.tolist())))
    kept = np.isin(labels, columns)
    answer = columns[logits[kept][:, columns].argmax(axis=1)]
    truth = labels[kept]
    recalls = {
        int(c): float((answer[truth == c] == c).mean()) for c in columns if (truth == c).any()
    }
    uar = float(np.mean(list(recalls.values())))
    return Figures(float((answer == truth).mean()), uar, recalls, int(kept.sum()))


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Rows of probabilities."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    out: Floats = powers / powers.sum(axis=1, keepdims=True)
    return out


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Return the temperature of least negative log likelihood, two decimals (arXiv:1706.04599)."""

    def loss(temperature: float) -> float:
        chosen = softmax(logits, temperature)[np.arange(labels.size), labels]
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    return float(min((round(0.3 + 0.01 * k, 2) for k in range(471)), key=loss))


def fit_offset(logits: Floats, labels: NDArray[np.int64], speakers: NDArray[np.str_]) -> Floats:
    """Return what to add to ``logits`` (rows of classes) so that no class is named too readily.

    Least negative log likelihood with every label of every speaker weighing the same, two decimals.
    One speaker alone gets zeros: the habits of one voice are no rule.
    """
    offset: Floats = np.zeros(logits.shape[1])
    if len(set(speakers.tolist())) < 2:
        return offset
    pairs = list(zip(speakers.tolist(), labels.tolist(), strict=True))
    weights = np.array([1.0 / pairs.count(pair) for pair in pairs])
    weights /= weights.sum()
    truth = np.eye(logits.shape[1])[labels]
    for _ in range(_STEPS):
        slope = weights @ (softmax(logits + offset) - truth) + 2.0 * _PULL * offset
        offset = offset - slope
    return offset.round(2)


def calibration_error(probabilities: Floats, labels: NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error of the top answer, equal bins of confidence."""
    top = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.minimum((top * bins).astype(int), bins - 1)
    gaps = [
        abs(right[place == k].mean() - top[place == k].mean()) * (place == k).mean()
        for k in range(bins)
        if (place == k).any()
    ]
    return float(sum(gaps))
