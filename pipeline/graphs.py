"""What each kind of graph must look like, and how a batch is run when one item is bad.

A model file's own contract (:mod:`pipeline.spec`) says what it has; the table here says what the
scorer needs. Nothing here loads a model: :class:`Graph` is what a session offers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ScoreError, SpecError
from pipeline.spec import LABELS, Kind, ModelSpec, Tensor
from pipeline.types import LEAD_TICKS, TICKS_PER_S

Array = NDArray[Any]
Floats = NDArray[np.float32]
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Port = tuple[str, str, int]
"""Name, dtype and rank of a graph input or output."""


class Graph(Protocol):
    """A loaded model."""

    spec: ModelSpec
    file: str

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the named outputs; raises :class:`ScoreError` when there is no sound answer."""


_FRAMES: Port = ("frames", "uint8", 4)
_CROPS: tuple[Port, ...] = (_FRAMES, ("boxes", "float32", 2), ("frame_index", "int64", 1))
_MASK: Port = ("mask", "float32", 2)
PORTS: Mapping[Kind, tuple[tuple[Port, ...], tuple[Port, ...]]] = {
    "face-detector": ((_FRAMES,), (("boxes", "float32", 3), ("scores", "float32", 2))),
    "face-expression": (_CROPS, (("probabilities", "float32", 2),)),
    "face-landmarks": (_CROPS, (("points", "float32", 3),)),
    "vad": ((("chunks", "float32", 3),), (("speech", "float32", 2),)),
    "voice-features": ((("pcm", "float32", 2),), (("features", "float32", 3),)),
    "voice-emotion": ((("features", "float32", 3),), (("probabilities", "float32", 2),)),
}
"""Inputs and outputs that the scorer feeds and reads, per kind."""
_OPTIONAL: Mapping[Kind, tuple[Port, ...]] = {"voice-emotion": (_MASK,)}
_LABELLED = frozenset({"face-expression", "voice-emotion"})
_HEARING = frozenset({"vad", "voice-features", "voice-emotion"})


def check(spec: ModelSpec, file: str) -> None:
    """Raise :class:`SpecError`, naming ``file`` and what to change, unless we can use it."""
    inputs, outputs = PORTS[spec.kind]
    given = {_port(tensor) for tensor in spec.inputs}
    if not set(inputs) <= given <= {*inputs, *_OPTIONAL.get(spec.kind, ())}:
        raise SpecError(_wanted(file, spec.kind, "inputs", inputs))
    if not set(outputs) <= {_port(tensor) for tensor in spec.outputs}:
        raise SpecError(_wanted(file, spec.kind, "outputs", outputs))
    if spec.kind in _LABELLED and (not spec.labels or len(set(spec.labels)) < len(spec.labels)):
        raise SpecError(f"{file}: a {spec.kind} model must name each of its labels once")
    if spec.kind in _HEARING and spec.sample_rate_hz not in (None, TICKS_PER_S):
        raise SpecError(
            f"{file} wants {spec.sample_rate_hz} Hz, the pipeline hears {TICKS_PER_S} Hz: "
            "export it for that rate"
        )
    if not 0 <= (spec.context_samples or 0) <= LEAD_TICKS:
        raise SpecError(
            f"{file} wants {spec.context_samples} samples of context, a window carries {LEAD_TICKS}"
        )


def wire_order(spec: ModelSpec, answers: Array, rows: int) -> Floats:
    """Return probabilities (rows, 7) in wire order from a graph's ``answers`` (rows, labels).

    Labels that the model does not know get 0. Raises :class:`ScoreError` unless every row is a
    probability distribution (sum within 1e-3).
    """
    expect(answers, (rows, len(spec.labels)), spec)
    if (answers < 0).any() or (np.abs(answers.sum(axis=1) - 1) > 1e-3).any():
        raise ScoreError(f"{spec.name} answered numbers that are no probabilities")
    ordered = np.zeros((rows, len(LABELS)), np.float32)
    ordered[:, [LABELS.index(label) for label in spec.labels]] = answers
    return ordered


def expect(array: Array, shape: tuple[int, ...], spec: ModelSpec) -> None:
    """Raise :class:`ScoreError` unless ``array`` has ``shape``; -1 stands for any size."""
    fits = array.ndim == len(shape) and all(
        wanted in (-1, got) for wanted, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ScoreError(f"{spec.name} answered shape {array.shape}, wanted {shape}")


def isolated(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], Sequence[Answer]],
    *,
    most: int,
) -> list[Answer | None]:
    """Run ``items`` in batches of at most ``most``; ``None`` for those that no model can answer.

    When a batch raises :class:`ScoreError` it is halved until the bad items stand alone.
    """
    if not items:
        return []
    if len(items) > most:
        return isolated(items[:most], run, most=most) + isolated(items[most:], run, most=most)
    try:
        return list(run(items))
    except ScoreError:
        if len(items) == 1:
            return [None]
        half = (len(items) + 1) // 2
        return isolated(items, run, most=half)


def _port(tensor: Tensor) -> Port:
    return tensor.name, tensor.dtype, len(tensor.shape)


def _wanted(file: str, kind: Kind, side: str, ports: Sequence[Port]) -> str:
    listed = ", ".join(f"{name} ({dtype}, {rank} axes)" for name, dtype, rank in ports)
    return f"{file}: a {kind} model needs the {side} {listed}: export it so"
