"""The softmax temperature of the expression model, and how good it is, on labelled faces.

Comes in: a folder with ``labels.csv`` (``file,emotion``) and ``expressions/``, each image a face.
Even rows of the table fit the temperature, odd rows are the ones reported on.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from exporters.face import export, weights
from pipeline.errors import UsageError
from pipeline.layouts import label_of
from pipeline.metrics import Metrics, measure
from pipeline.session import Session, open_session
from pipeline.spec import LABELS

Floats = NDArray[np.float64]
_CANDIDATES = np.round(np.arange(0.5, 8.0, 0.05), 2)


def fitted(package: weights.Package, folder: Path) -> float:
    """Return the temperature fitted on half of ``folder``; print the figures of the other half."""
    model = next(
        model
        for model in export.face_models(package, temperature=1.0)
        if model.name == "face-expression"
    )
    labels, files = table(folder)
    plain = predict(open_session(model.onnx(), file=model.name), files)
    fit, held = np.arange(len(labels)) % 2 == 0, np.arange(len(labels)) % 2 == 1
    truth = np.array([LABELS.index(label) for label in labels])
    temperature = best_temperature(plain[fit], truth[fit])
    kept = [label for label, keep in zip(labels, held, strict=True) if keep]
    print(f"temperature {temperature:.2f}, fitted on {fit.sum()} faces; on the other {held.sum()}:")
    print(f"  before: {_figures(measure(kept, plain[held]))}")
    print(f"  after:  {_figures(measure(kept, cooled(plain[held], temperature)))}")
    return temperature


def table(folder: Path) -> tuple[list[str], list[Path]]:
    """Return wire labels and image files; rows with a label we do not know are left out."""
    try:
        with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
            rows = [(label_of(row["emotion"]), row["file"]) for row in csv.DictReader(file)]
    except (OSError, KeyError) as error:
        raise UsageError(
            f"{folder} needs a labels.csv with columns file,emotion: {error}"
        ) from None
    known = [(label, folder / "expressions" / name) for label, name in rows if label is not None]
    return [label for label, _ in known], [file for _, file in known]


def predict(session: Session, files: list[Path]) -> Floats:
    """Return probabilities (n, 7) of whole images, each taken as one face."""
    box, first = np.array([[0, 0, 1, 1]], np.float32), np.zeros(1, np.int64)
    answers = []
    for file in files:
        with Image.open(file) as image:
            frame = np.asarray(image.convert("RGB"))
        feeds = {"frames": frame[None], "boxes": box, "frame_index": first}
        answers.append(session.run(["probabilities"], feeds)[0][0])
    return np.array(answers, np.float64)


def best_temperature(probabilities: Floats, truth: NDArray[np.int64]) -> float:
    """Return the temperature of least negative log likelihood (arXiv:1706.04599)."""
    rows = np.arange(len(truth))

    def loss(temperature: float) -> float:
        chosen = cooled(probabilities, temperature)[rows, truth]
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    return float(min(_CANDIDATES, key=loss))


def cooled(probabilities: Floats, temperature: float) -> Floats:
    """Apply a temperature to the softmax of temperature 1 that gave ``probabilities``."""
    logits = np.log(np.maximum(probabilities, 1e-30)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: Floats = powers / powers.sum(axis=1, keepdims=True)
    return scaled


def _figures(metrics: Metrics) -> str:
    recalls = zip(metrics.labels, metrics.recalls, strict=True)
    each = ", ".join(f"{label} {recall:.2f}" for label, recall in recalls)
    return f"WAR {metrics.war:.4f} UAR {metrics.uar:.4f} ECE {metrics.ece:.4f} ({each})"
