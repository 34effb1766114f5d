"""How good a set of answers is: confusion, WAR, UAR, recall per label, calibration error.

Arrays in, numbers out. Probabilities are judged over the labels that occur in the truth: a model
with seven answers is not blamed for naming one that the data cannot contain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.spec import LABELS

ECE_BINS = 15
"""Equal-width bins of the top probability over (0, 1] (Guo et al. 2017, arXiv:1706.04599)."""


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """What :func:`measure` found."""

    labels: tuple[str, ...]
    """The labels that occur in the truth, wire order; the axes of :attr:`confusion`."""
    confusion: NDArray[np.int64]
    """``confusion[truth, answer]``."""
    ece: float
    """Expected calibration error in [0, 1]."""

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.confusion.sum())

    @property
    def recalls(self) -> NDArray[np.float64]:
        """Share of each label's samples that were named right."""
        share: NDArray[np.float64] = self.confusion.diagonal() / self.confusion.sum(axis=1)
        return share

    @property
    def war(self) -> float:
        """Weighted average recall: the share of all samples named right."""
        return float(self.confusion.trace() / self.n)

    @property
    def uar(self) -> float:
        """Unweighted average recall: the mean of the labels' recalls."""
        return float(self.recalls.mean())

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, rounded to four places."""
        counts = self.confusion.sum(axis=1)
        return {
            "n": self.n,
            "war": round(self.war, 4),
            "uar": round(self.uar, 4),
            "ece": round(self.ece, 4),
            "labels": list(self.labels),
            "per_class": {
                label: {"recall": round(float(recall), 4), "n": int(count)}
                for label, recall, count in zip(self.labels, self.recalls, counts, strict=True)
            },
            "confusion": self.confusion.tolist(),
        }


def measure(truth: Sequence[str], probabilities: NDArray[np.floating[Any]]) -> Metrics:
    """Judge ``probabilities`` (n, 7), wire order, against ``truth``, n labels of the wire.

    Columns of labels that never occur in ``truth`` are left out and the rest is rescaled to sum to
    one. Raises :class:`ValueError` for no samples or shapes that do not fit.
    """
    if not truth or probabilities.shape != (len(truth), len(LABELS)):
        raise ValueError(f"{len(truth)} labels for probabilities {probabilities.shape}")
    present = [index for index, label in enumerate(LABELS) if label in set(truth)]
    kept = probabilities[:, present].astype(np.float64) + 1e-12
    kept /= kept.sum(axis=1, keepdims=True)
    wanted = np.array([present.index(LABELS.index(label)) for label in truth])
    answers = kept.argmax(axis=1)
    confusion = np.zeros((len(present), len(present)), np.int64)
    np.add.at(confusion, (wanted, answers), 1)
    return Metrics(
        labels=tuple(LABELS[index] for index in present),
        confusion=confusion,
        ece=calibration_error(kept.max(axis=1), answers == wanted),
    )


def calibration_error(
    confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_], bins: int = ECE_BINS
) -> float:
    """Return the mean gap between confidence and share right, weighted by the bins' sizes.

    ``confidence`` (n,) in [0, 1]; a bin is ``(low, high]``, the first one holds 0 too.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    sure = np.bincount(place, weights=confidence, minlength=bins)
    hit = np.bincount(place, weights=right.astype(np.float64), minlength=bins)
    return float(np.abs(sure - hit).sum() / confidence.size)
