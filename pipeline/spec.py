"""The contract that every ONNX file carries in its own metadata.

A model file without a :class:`ModelSpec` does not load. The contract is one JSON object under the
metadata key ``demeanor.spec``, so there is no side file to drift away from the weights.
"""

from typing import Literal

import msgspec

from pipeline.errors import SpecError

METADATA_KEY = "demeanor.spec"

LABELS = ("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise")
"""The label set on the wire, in wire order."""

Kind = Literal[
    "face-detector",
    "face-expression",
    "face-landmarks",
    "voice-features",
    "voice-emotion",
    "vad",
    "explain-vision",
    "explain-audio",
    "explain-gate",
    "explain-decoder",
]


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graph input or output."""

    name: str
    dtype: Literal["float32", "float16", "uint8", "int16", "int32", "int64"]
    shape: tuple[int | str, ...]
    """Sizes; a string names a free axis."""


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model file expects, answers, and where it comes from."""

    name: str
    """``demeanor-tiny/voice-emotion`` and the like."""
    version: str
    kind: Kind
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    licence: str
    """Licence of the weights, SPDX where one exists."""
    source: str
    """Where the weights come from: package and version, or recipe and data."""
    labels: tuple[str, ...] = ()
    """Meaning of the last axis of the scores, in graph order; a subset or permutation of LABELS."""
    sample_rate_hz: int | None = None
    size_px: int | None = None
    """Side of the square the graph works on."""
    window_ms: int | None = None
    hop_ms: int | None = None
    frames_per_s: int | None = None
    max_width_px: int | None = None
    """Widest frame the pipeline hands to the graph."""
    context_samples: int | None = None
    """Left context, in samples, that the graph wants before the new samples."""
    temperature: float | None = None
    """Softmax temperature already applied inside the graph (fitted on held-out people)."""
    floor: float | None = None
    """Confidence below which an answer counts as an abstention."""
    validation: str | None = None
    """One sentence: on whom it was validated and with what result."""


def encode(spec: ModelSpec) -> dict[str, str]:
    """Return the metadata entry for ``spec``, ready for ``onnx.helper.set_model_props``."""
    return {METADATA_KEY: msgspec.json.encode(spec).decode()}


def decode(metadata: dict[str, str], *, file: str) -> ModelSpec:
    """Read the contract out of an ONNX file's ``metadata_props``.

    Raises :class:`SpecError`, naming ``file``, when the entry is missing, malformed or declares a
    label outside :data:`LABELS`.
    """
    try:
        text = metadata[METADATA_KEY]
    except KeyError:
        raise SpecError(
            f"{file} carries no '{METADATA_KEY}' metadata: export it with python -m exporters"
        ) from None
    try:
        spec = msgspec.json.decode(text, type=ModelSpec)
    except msgspec.ValidationError as error:
        raise SpecError(f"{file}: metadata '{METADATA_KEY}' is malformed: {error}") from None
    except msgspec.DecodeError as error:
        raise SpecError(f"{file}: metadata '{METADATA_KEY}' is not JSON: {error}") from None
    unknown = sorted(set(spec.labels) - set(LABELS))
    if unknown:
        raise SpecError(f"{file}: unknown labels {', '.join(unknown)}; known: {', '.join(LABELS)}")
    return spec
