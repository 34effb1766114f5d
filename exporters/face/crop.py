"""Region crops as ONNX ``RoiAlign`` computes them, in torch.

torch has no such operator of its own, so this file gives :func:`roi_align` both a definition by
bilinear sampling and its symbol for the exporter. One sample a cell when a region is enlarged (the
plain bilinear resize), as many as it has pixels a cell when it shrinks, so nothing aliases.
(ONNX operator specification, RoiAlign-16: mode ``avg``, ``sampling_ratio`` 0, ``half_pixel``.)
"""

from math import ceil
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


def roi_align(planes: Tensor, regions: Tensor, indices: Tensor, side_px: int) -> Tensor:
    """Return (R, C, side_px, side_px) of ``planes`` (N, C, H, W).

    ``regions`` (R, 4) holds x0, y0, x1, y1 in pixels, ``indices`` (R,) the plane of each. What lies
    more than a pixel outside the plane counts as 0.
    """
    answer = _RoiAlign.apply(planes, regions, indices, side_px)  # type: ignore[no-untyped-call]
    return cast("Tensor", answer)


class _RoiAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        _context: Any, planes: Tensor, regions: Tensor, indices: Tensor, side: int
    ) -> Tensor:
        crops = [
            _align(planes[int(index)], region.tolist(), side)
            for region, index in zip(regions, indices, strict=True)
        ]
        return torch.stack(crops) if crops else planes.new_zeros(0, planes.shape[1], side, side)

    @staticmethod
    def symbolic(g: Any, planes: Any, regions: Any, indices: Any, side: int) -> Any:
        answer = g.op(
            "RoiAlign",
            planes,
            regions,
            indices,
            coordinate_transformation_mode_s="half_pixel",
            mode_s="avg",
            output_height_i=side,
            output_width_i=side,
            sampling_ratio_i=0,
            spatial_scale_f=1.0,
        )
        return answer.setType(planes.type().with_sizes([None, 3, side, side]))


def _align(plane: Tensor, region: list[float], side: int) -> Tensor:
    x0, y0, x1, y1 = region
    rows = _weights(y0, y1, side, int(plane.shape[1]))
    columns = _weights(x0, x1, side, int(plane.shape[2]))
    return torch.einsum("ih,chw,jw->cij", rows, plane, columns)


def _weights(start: float, end: float, side: int, size: int) -> Tensor:
    """Weight of every pixel of one axis in every output cell, (side, size).

    In numpy, because the exporter records every operation of torch that runs while it traces.
    """
    cell = (end - start) / side
    samples = max(1, ceil(cell))
    at = start - 0.5 + (np.arange(side * samples) + 0.5) * cell / samples
    on_plane = (at >= -1) & (at <= size)
    at = np.clip(at, 0, size - 1)
    low = at.astype(np.int64)
    share = at - low
    weights = np.zeros((side, size), np.float32)
    cells = np.arange(side * samples) // samples
    np.add.at(weights, (cells, low), (1 - share) * on_plane / samples)
    np.add.at(weights, (cells, np.minimum(low + 1, size - 1)), share * on_plane / samples)
    return torch.from_numpy(weights)
