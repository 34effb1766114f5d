"""The three face models as ONNX files, each with its contract."""

from dataclasses import dataclass

import torch
from torch import Tensor as Values
from torch import nn

from exporters import torchscript
from exporters.face import weights
from exporters.face.graphs import (
    DETECTOR_PX,
    FACE_PX,
    DetectorGraph,
    ExpressionGraph,
    LandmarkGraph,
)
from exporters.face.nets import Detector, FaceNet
from pipeline.spec import LABELS, ModelSpec, Tensor

VERSION = "1.0.0"
TEMPERATURE = 4.15
"""Fitted by ``python -m exporters face --faces``."""
FLOOR = 0.35
"""Below this, only one answer in three was right on the same faces."""
VALIDATION = (
    "1758 in-the-wild faces of muxspace/facial_expressions that the temperature was not fitted on, "
    "seven classes: WAR 0.622, UAR 0.481, ECE 0.036"
)
MAX_WIDTH_PX = 320
FRAMES_PER_S = 4
_SOURCE = f"npm {weights.PACKAGE}@{weights.VERSION}"

FRAMES = Tensor("frames", "uint8", ("batch", "height", "width", 3))
BOXES = Tensor("boxes", "float32", ("faces", 4))
FRAME_INDEX = Tensor("frame_index", "int64", ("faces",))


@dataclass(frozen=True, slots=True)
class FaceModel:
    """One model to export."""

    name: str
    graph: nn.Module
    spec: ModelSpec

    @property
    def example(self) -> tuple[Values, ...]:
        """Inputs to trace on: two frames, three faces."""
        frames = torch.randint(0, 256, (2, 180, 320, 3), dtype=torch.uint8)
        if len(self.spec.inputs) == 1:
            return (frames,)
        boxes = torch.tensor([[0.1, 0.2, 0.2, 0.3], [0.5, -0.1, 0.3, 0.5], [0.0, 0.0, 1.0, 1.0]])
        return frames, boxes, torch.tensor([0, 1, 1])

    def onnx(self) -> bytes:
        """Return the file's bytes."""
        return torchscript.export(self.graph, self.example, self.spec)


def face_models(package: weights.Package, *, temperature: float = TEMPERATURE) -> list[FaceModel]:
    """Build detector, expression and landmark models from the package's weights."""
    return [
        _detector(package.weights(weights.DETECTOR)),
        _expression(package.weights(weights.EXPRESSION), temperature),
        _landmarks(package.weights(weights.LANDMARKS)),
    ]


def _detector(values: weights.Weights) -> FaceModel:
    spec = ModelSpec(
        name="demeanor-tiny/face-detector",
        version=VERSION,
        kind="face-detector",
        inputs=(FRAMES,),
        outputs=(
            Tensor("boxes", "float32", ("batch", "anchors", 4)),
            Tensor("scores", "float32", ("batch", "anchors")),
        ),
        licence="MIT",
        source=f"{_SOURCE}, {weights.DETECTOR}",
        size_px=DETECTOR_PX,
        frames_per_s=FRAMES_PER_S,
        max_width_px=MAX_WIDTH_PX,
    )
    return FaceModel("face-detector", DetectorGraph(Detector(values)), spec)


def _expression(values: weights.Weights, temperature: float) -> FaceModel:
    net = FaceNet(values, blocks=4, convolutions=4)
    spec = ModelSpec(
        name="demeanor-tiny/face-expression",
        version=VERSION,
        kind="face-expression",
        inputs=(FRAMES, BOXES, FRAME_INDEX),
        outputs=(Tensor("probabilities", "float32", ("faces", len(LABELS))),),
        licence="MIT",
        source=f"{_SOURCE}, {weights.EXPRESSION}",
        labels=LABELS,
        size_px=FACE_PX,
        frames_per_s=FRAMES_PER_S,
        max_width_px=MAX_WIDTH_PX,
        temperature=temperature,
        floor=FLOOR,
        validation=VALIDATION if temperature == TEMPERATURE else None,
    )
    return FaceModel("face-expression", ExpressionGraph(net, temperature), spec)


def _landmarks(values: weights.Weights) -> FaceModel:
    net = FaceNet(values, blocks=3, convolutions=3)
    spec = ModelSpec(
        name="demeanor-tiny/face-landmarks",
        version=VERSION,
        kind="face-landmarks",
        inputs=(FRAMES, BOXES, FRAME_INDEX),
        outputs=(Tensor("points", "float32", ("faces", 68, 2)),),
        licence="MIT",
        source=f"{_SOURCE}, {weights.LANDMARKS}",
        size_px=FACE_PX,
        frames_per_s=FRAMES_PER_S,
        max_width_px=MAX_WIDTH_PX,
    )
    return FaceModel("face-landmarks", LandmarkGraph(net), spec)
