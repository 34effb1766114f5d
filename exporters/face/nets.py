"""The three face networks as torch modules, NCHW float32, without pre- and postprocessing.

Structure and constants follow the package's own TypeScript sources (``tinyYolov2``,
``faceFeatureExtractor``, ``faceProcessor``). Weights come in as the package names them; every
module takes the tensors below its own prefix.
"""

from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.face.weights import Weights

LEAK = 0.1
"""Slope of the detector's leaky ReLU below zero."""
FINE = 2
"""Separable convolutions of the detector up to its map of a quarter of the size."""


class Separable(nn.Module):
    """A 3x3 depthwise convolution, then a 1x1 one with bias; no activation."""

    def __init__(self, weights: Weights, prefix: str, *, stride: int = 1) -> None:
        super().__init__()
        depthwise = weights[f"{prefix}/depthwise_filter"]
        self.stride = stride
        self.depthwise = _parameter(depthwise.transpose(2, 3, 0, 1))
        self.pointwise = _parameter(_oihw(weights[f"{prefix}/pointwise_filter"]))
        self.bias = _parameter(weights[f"{prefix}/bias"])

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C', H', W') of ``x`` (N, C, H, W)."""
        channels = self.depthwise.shape[0]
        if self.stride == 1:
            x = F.conv2d(x, self.depthwise, padding=1, groups=channels)
        else:
            x = F.conv2d(pad_same(x), self.depthwise, stride=2, groups=channels)
        return F.conv2d(x, self.pointwise, self.bias)


class Full(nn.Module):
    """A full 3x3 convolution of stride 2 with bias."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.weight = _parameter(_oihw(weights[f"{prefix}/filters"]))
        self.bias = _parameter(weights[f"{prefix}/bias"])

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C', H/2, W/2) of ``x`` (N, C, H, W), both even."""
        return F.conv2d(pad_same(x), self.weight, self.bias, stride=2)


class Dense(nn.Module):
    """A densely connected block: each convolution sees the sum of all before it."""

    def __init__(self, weights: Weights, prefix: str, *, convolutions: int, first: bool) -> None:
        super().__init__()
        self.entry: nn.Module = (
            Full(weights, f"{prefix}/conv0")
            if first
            else Separable(weights, f"{prefix}/conv0", stride=2)
        )
        self.rest = nn.ModuleList(
            Separable(weights, f"{prefix}/conv{index}") for index in range(1, convolutions)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C', H/2, W/2) of ``x`` (N, C, H, W)."""
        total = F.relu(cast("Tensor", self.entry(x)))
        seen = total
        for convolution in self.rest:
            total = total + convolution(seen)
            seen = F.relu(total)
        return seen


class FaceNet(nn.Module):
    """Dense blocks, a mean over the whole map and one linear layer: expression and landmarks."""

    def __init__(self, weights: Weights, *, blocks: int, convolutions: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                Dense(weights, f"dense{index}", convolutions=convolutions, first=index == 0)
                for index in range(blocks)
            )
        )
        self.weight = _parameter(weights["fc/weights"].T)
        self.bias = _parameter(weights["fc/bias"])

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K) of ``x`` (N, 3, 112, 112), normalised."""
        return F.linear(self.blocks(x).mean(dim=(2, 3)), self.weight, self.bias)


class Detector(nn.Module):
    """The tiny YOLO v2: (N, 3, H, W), H and W multiples of 32, to (N, 25, H/32, W/32)."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weight = _parameter(_oihw(weights["conv0/filters"]))
        self.bias = _parameter(weights["conv0/bias"])
        self.convolutions = nn.ModuleList(
            Separable(weights, f"conv{index}") for index in range(1, 6)
        )
        self.head = _parameter(_oihw(weights["conv8/filters"]))
        self.head_bias = _parameter(weights["conv8/bias"])

    def forward(self, x: Tensor) -> Tensor:
        """Return the raw grid; see :func:`exporters.face.graphs.decode` for its meaning."""
        return self.coarse(self.fine(x))

    def fine(self, x: Tensor) -> Tensor:
        """Return the map (N, 64, H/4, W/4) of the layers that cost the most."""
        x = F.leaky_relu(F.conv2d(x, self.weight, self.bias), LEAK)
        return self._pooled(x, self.convolutions[:FINE])

    def coarse(self, x: Tensor) -> Tensor:
        """Return the raw grid of the map that :meth:`fine` gave."""
        x = self._pooled(x, self.convolutions[FINE:])
        # Padded on both sides and cut at the front: 'same' of stride 1 pads right and bottom only.
        x = F.max_pool2d(x, 2, 1, padding=1)[:, :, 1:, 1:]
        return F.conv2d(x, self.head, self.head_bias)

    def _pooled(self, x: Tensor, convolutions: Iterable[nn.Module]) -> Tensor:
        for convolution in convolutions:
            # TensorFlow's 'same' pools an odd edge alone; so does ceil_mode.
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            x = F.leaky_relu(convolution(x), LEAK)
        return x


def pad_same(x: Tensor) -> Tensor:
    """Pad right and bottom by one: TensorFlow's 'same' for a 3x3 of stride 2 on even sizes."""
    return F.pad(x, (0, 1, 0, 1))


def _oihw(filters: NDArray[np.float32]) -> NDArray[np.float32]:
    return filters.transpose(3, 2, 0, 1)


def _parameter(values: NDArray[np.float32]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(values.copy()), requires_grad=False)
