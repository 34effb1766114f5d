"""Golden answers: a small made-up input for every built-in model, and what it answered.

The inputs are patterns, not media: they exercise every axis of the graph, compress to little, and
show a damaged file, a wrong runtime or a broken kernel at start-up.
"""

from pathlib import Path

import numpy as np

from pipeline import models
from pipeline.session import Array, open_session
from pipeline.spec import ModelSpec, Tensor

_AXES = {"batch": 1, "faces": 2, "height": 36, "width": 64, "steps": 4}
_UNKNOWN_AXIS = 64


def example(spec: ModelSpec) -> dict[str, Array]:
    """Return inputs for ``spec``: free axes small, values a slow wave over the whole range."""
    return {tensor.name: _values(tensor, spec) for tensor in spec.inputs}


def write(folder: Path, names: list[str]) -> None:
    """Ask each model ``names`` in ``folder`` and write ``golden.npz`` beside them."""
    arrays: dict[str, Array] = {}
    for name in names:
        session = open_session(folder / f"{name}.onnx")
        inputs = example(session.spec)
        outputs = [tensor.name for tensor in session.spec.outputs]
        answers = session.run(outputs, inputs)
        arrays |= {f"{name}/in/{key}": value for key, value in inputs.items()}
        arrays |= {f"{name}/out/{key}": value for key, value in zip(outputs, answers, strict=True)}
    with (folder / models.GOLDEN_FILE).open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type] # the stub takes bool first


def _values(tensor: Tensor, spec: ModelSpec) -> Array:
    axes = _AXES | ({"samples": _samples(spec)} if spec.sample_rate_hz else {})
    shape = [
        axes.get(size, _UNKNOWN_AXIS) if isinstance(size, str) else size for size in tensor.shape
    ]
    if tensor.name == "boxes":
        return np.array([[0.2, 0.1, 0.4, 0.7], [0.6, -0.1, 0.6, 0.5]], np.float32)[: shape[0]]
    if tensor.name == "mask":
        return np.ones(shape, np.float32)
    if tensor.dtype == "int64":
        return np.zeros(shape, np.int64)
    wave = np.sin(np.arange(int(np.prod(shape))) * 0.37).reshape(shape)
    middle, swing = {"uint8": (127.5, 127.5), "int16": (0, 16000)}.get(tensor.dtype, (0, 0.5))
    rounded: Array = np.round(middle + swing * wave, 3 if tensor.dtype == "float32" else 0)
    return rounded.astype(tensor.dtype)


def _samples(spec: ModelSpec) -> int:
    """A tenth of a second after the left context."""
    return (spec.context_samples or 0) + (spec.sample_rate_hz or 0) // 10
