"""Proof that the face graphs compute what the package's weights say.

Three answers to the same frames must agree: the ONNX file through the product's own session, the
torch module it was traced from, and :mod:`exporters.face.reading`, which shares no code with it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from exporters import verify
from exporters.face import export, reading, weights
from pipeline import models, spec
from pipeline.session import Array, Session, open_session

TORCH_TOLERANCE = 1e-4
READING_TOLERANCE = 3e-4
BOXES = np.array(
    [[0.2, 0.1, 0.3, 0.5], [0.6, -0.1, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0], [0.9, 0.9, 0.3, 0.05]],
    np.float32,
)
"""Inside, over two edges, the whole frame, and a sliver over the corner."""


def frames() -> list[NDArray[np.uint8]]:
    """Return made-up frames, landscape, portrait and tiny, each (height, width, 3)."""
    random = np.random.default_rng(7)
    made = []
    for height, width in ((180, 320), (360, 270), (48, 48)):
        rows, columns = np.mgrid[:height, :width]
        shade = (
            128 + 90 * np.sin(rows / height * 7)[..., None] * np.cos(columns / width * 9)[..., None]
        )
        noise = random.integers(-30, 31, (height, width, 3))
        made.append(np.clip(shade + noise, 0, 255).astype(np.uint8))
    return made


def prove(model: export.FaceModel, onnx: bytes, package: weights.Package) -> None:
    """Compare all three; raises :class:`pipeline.errors.ParityError` when they differ."""
    verify.report(comparisons(model, open_session(onnx, file=model.name), package))


def built_in(archive: bytes) -> Iterator[verify.Comparison]:
    """Hold the built-in files against the weights of ``archive``, the npm package."""
    package = weights.open_package(archive)
    sessions = {
        name: open_session(models.verified_bytes(name), file=name)
        for name in ("face-detector", "face-expression", "face-landmarks")
    }
    temperature = sessions["face-expression"].spec.temperature or 1.0
    for model in export.face_models(package, temperature=temperature):
        yield from comparisons(model, sessions[model.name], package)


def comparisons(
    model: export.FaceModel, session: Session, package: weights.Package
) -> Iterator[verify.Comparison]:
    """Yield one comparison a frame, an output and a witness."""
    for frame in frames():
        feeds = _feeds(session.spec, frame)
        got = session.run(None, feeds)
        witnesses = {
            "torch": (_torch(model, feeds), TORCH_TOLERANCE),
            "reading": (_reading(model, package, frame), READING_TOLERANCE),
        }
        for witness, (wanted, tolerance) in witnesses.items():
            for output, answer, array in zip(session.spec.outputs, wanted, got, strict=True):
                size = f"{frame.shape[1]}x{frame.shape[0]}"
                name = f"{model.name}/{output.name} {size} {witness}"
                yield verify.compare(name, answer, array, tolerance)


def _feeds(contract: spec.ModelSpec, frame: NDArray[np.uint8]) -> dict[str, Array]:
    feeds: dict[str, Array] = {"frames": frame[None]}
    if len(contract.inputs) > 1:
        feeds |= {"boxes": BOXES, "frame_index": np.zeros(len(BOXES), np.int64)}
    return feeds


def _torch(model: export.FaceModel, feeds: dict[str, Array]) -> list[Array]:
    with torch.no_grad():
        answer = model.graph(*(torch.from_numpy(array) for array in feeds.values()))
    tensors = answer if isinstance(answer, tuple) else (answer,)
    return [tensor.numpy() for tensor in tensors]


def _reading(
    model: export.FaceModel, package: weights.Package, frame: NDArray[np.uint8]
) -> list[Array]:
    boxes = BOXES.astype(np.float64)
    if model.name == "face-detector":
        all_boxes, scores = reading.detect(package.weights(weights.DETECTOR), frame)
        longer = max(frame.shape[:2])
        rows, columns = (-(-round(length * 320 / longer) // 32) for length in frame.shape[:2])
        return [
            all_boxes[:rows, :columns].reshape(1, -1, 4),
            scores[:rows, :columns].reshape(1, -1),
        ]
    if model.name == "face-landmarks":
        values = package.weights(weights.LANDMARKS)
        return [np.stack([reading.landmarks(values, frame, box) for box in boxes])]
    values = package.weights(weights.EXPRESSION)
    logits = np.stack([reading.express(values, frame, box) for box in boxes])
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / (model.spec.temperature or 1.0))
    return [powers / powers.sum(axis=1, keepdims=True)]
