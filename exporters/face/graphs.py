"""What goes into the ONNX files: a face network with everything around it inside the graph.

Comes in: RGB frames as uint8 (batch, height, width, 3). The detector answers boxes and scores; the
two face networks also take boxes, crop, and answer probabilities or points. All coordinates are
fractions of the frame as given, origin at its top left.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.face.crop import roi_align
from exporters.face.nets import Detector, FaceNet

DETECTOR_PX = 320
FACE_PX = 112
DETECTOR_MEAN = (117.001, 114.697, 97.404)
DETECTOR_SCALE = 256.0
FACE_MEAN = (122.782, 117.001, 104.298)
FACE_SCALE = 255.0
STRIDE_PX = 32
FINE_PX = 4
"""Pixels of the resized frame to a line of the map of :meth:`Detector.fine`."""
BEFORE_PX = 6
ANCHORS = (
    (1.603231, 2.094468),
    (6.041143, 7.080126),
    (2.882459, 3.518061),
    (4.266906, 5.178857),
    (9.041765, 10.66308),
)
"""Width and height of the five anchors, in cells of :data:`STRIDE_PX`."""


class DetectorGraph(nn.Module):
    """Frames to ``boxes`` (batch, anchors, 4: x, y, w, h) and ``scores`` (batch, anchors).

    The network sees the letterboxed square, but rows and columns of black that no cell on the frame
    can see are left out, and the first layers look at few of the others, for black looks the same
    everywhere: a 320 by 180 frame costs 200 rows there and 288 in the later layers, and answers 300
    anchors, each equal to the square's.
    """

    def __init__(self, net: Detector) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("anchors", torch.tensor(ANCHORS))
        fold_normalisation(net)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes, not clipped and before non-maximum suppression, and their scores."""
        resized = fit(planes(frames), DETECTOR_PX)
        height, width = resized.shape[2], resized.shape[3]
        rows, columns = _cells(height), _cells(width)
        given_rows, kept_rows, black_rows = _looked_at(height)
        given_columns, kept_columns, black_columns = _looked_at(width)
        given = F.pad(resized, (0, given_columns - width, 0, given_rows - height))
        fine = self.net.fine(given)[:, :, :kept_rows, :kept_columns]
        whole = F.pad(fine, (0, black_columns, 0, black_rows), mode="replicate")
        grid = self.net.coarse(whole)[:, :, :rows, :columns]
        return decode(grid, cast("Tensor", self.anchors), frames.shape[1], frames.shape[2])


class ExpressionGraph(nn.Module):
    """Frames, boxes and frame indices to ``probabilities`` (faces, 7) in wire order."""

    def __init__(self, net: FaceNet, temperature: float) -> None:
        super().__init__()
        self.net = net
        self.temperature = temperature
        self.register_buffer("mean", torch.tensor(FACE_MEAN).view(1, 3, 1, 1))

    def forward(self, frames: Tensor, boxes: Tensor, frame_index: Tensor) -> Tensor:
        """Return one softmax a face; the package's label order is the wire order."""
        crops, _ = crop(frames, boxes, frame_index)
        logits = self.net((crops - cast("Tensor", self.mean)) / FACE_SCALE)
        return F.softmax(logits / self.temperature, dim=1)


class LandmarkGraph(nn.Module):
    """Frames, boxes and frame indices to ``points`` (faces, 68, 2: x, y)."""

    def __init__(self, net: FaceNet) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(FACE_MEAN).view(1, 3, 1, 1))

    def forward(self, frames: Tensor, boxes: Tensor, frame_index: Tensor) -> Tensor:
        """Return the 68 points of the iBUG scheme as fractions of the frame."""
        crops, squares = crop(frames, boxes, frame_index)
        inside = self.net((crops - cast("Tensor", self.mean)) / FACE_SCALE).reshape(-1, 68, 2)
        origin, side = squares[:, None, 0:2], squares[:, None, 2:3] - squares[:, None, 0:1]
        placed: Tensor = (origin + inside * side) / _extent(frames)
        return placed


def planes(frames: Tensor) -> Tensor:
    """Turn uint8 (N, H, W, 3) into float32 (N, 3, H, W), 0..255."""
    return frames.permute(0, 3, 1, 2).float()


def fold_normalisation(net: Detector) -> None:
    """Put (pixel - mean) / scale into the first convolution: exact, for it has no padding."""
    mean = torch.tensor(DETECTOR_MEAN).view(1, 3, 1, 1)
    weight = net.weight / DETECTOR_SCALE
    net.bias = nn.Parameter(net.bias - (weight * mean).sum(dim=(1, 2, 3)), requires_grad=False)
    net.weight = nn.Parameter(weight, requires_grad=False)


def fit(pixels: Tensor, side_px: int) -> Tensor:
    """Resize (N, C, H, W) so that the longer side is ``side_px``, bilinear, keeping the shape."""
    height, width = pixels.shape[2], pixels.shape[3]
    longer = torch.maximum(torch.as_tensor(height), torch.as_tensor(width))
    new_height = torch.clamp((height * side_px * 2 + longer) // (longer * 2), min=1)
    new_width = torch.clamp((width * side_px * 2 + longer) // (longer * 2), min=1)
    size = (cast("int", new_height), cast("int", new_width))
    resized: Tensor = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
    return resized


def _cells(length: int) -> int:
    """Cells that a length of the resized frame touches."""
    return (length + STRIDE_PX - 1) // STRIDE_PX


def _looked_at(length: int) -> tuple[int, int, int]:
    """Return how much of one side the fine layers are given, and what becomes of their map.

    Given are pixels; then how much of the map is kept, and how often its last line is repeated, in
    lines of :data:`FINE_PX`. The last cell looks three cells further: the pooling of stride 1 one,
    the convolutions the rest. A line of the map looks :data:`BEFORE_PX` back and about as far on,
    so the first line that sees nothing but black is computed, and stands for all after it; unless
    the square ends so soon that its edge is seen, too.
    """
    seen = torch.as_tensor((_cells(length) + 3) * STRIDE_PX)
    whole = torch.clamp(seen, max=DETECTOR_PX)
    black = torch.as_tensor((length + BEFORE_PX + FINE_PX - 1) // FINE_PX)
    inside = seen <= DETECTOR_PX
    given = torch.where(inside, (black + 3) * FINE_PX, whole)
    kept = torch.where(inside, black + 1, whole // FINE_PX)
    return cast("tuple[int, int, int]", (given, kept, whole // FINE_PX - kept))


def decode(
    grid: Tensor, anchors: Tensor, height: Tensor | int, width: Tensor | int
) -> tuple[Tensor, Tensor]:
    """Turn the detector's grid (N, 25, h, w) into boxes (N, h*w*5, 4) and scores (N, h*w*5).

    A cell holds five anchors of x, y, w, h and objectness, and is STRIDE_PX of the resized frame.
    """
    rows, columns = grid.shape[2], grid.shape[3]
    cells = grid.reshape(-1, 5, 5, rows, columns).permute(0, 3, 4, 1, 2)
    x = torch.arange(columns, dtype=torch.float32).view(1, 1, -1, 1)
    y = torch.arange(rows, dtype=torch.float32).view(1, -1, 1, 1)
    centre = torch.stack((torch.sigmoid(cells[..., 0]) + x, torch.sigmoid(cells[..., 1]) + y), -1)
    size = torch.exp(cells[..., 2:4]) * anchors
    extent = torch.stack((torch.as_tensor(width), torch.as_tensor(height))).float()
    stretch = extent.max() * STRIDE_PX / (DETECTOR_PX * extent)
    boxes = torch.cat(((centre - size / 2) * stretch, size * stretch), -1)
    count = rows * columns * 5
    return boxes.reshape(-1, count, 4), torch.sigmoid(cells[..., 4]).reshape(-1, count)


def crop(frames: Tensor, boxes: Tensor, frame_index: Tensor) -> tuple[Tensor, Tensor]:
    """Cut each box out as the package does: clipped to the frame, centred on a black square.

    Returns the crops (faces, 3, 112, 112), 0..255, and their squares (faces, 4: x0, y0, x1, y1) in
    pixels of the frame. The shape of a face is never distorted.
    """
    extent = _extent(frames)
    low = torch.minimum(torch.clamp(boxes[:, 0:2], min=0) * extent, extent - 1)
    high = torch.minimum((boxes[:, 0:2] + boxes[:, 2:4]) * extent, extent)
    high = torch.maximum(high, low + 1)
    half = (high - low).amax(dim=1, keepdim=True) / 2
    centre = (low + high) / 2
    squares = torch.cat((centre - half, centre + half), 1)
    crops = roi_align(planes(frames), squares, frame_index, FACE_PX)
    covered = _coverage(squares[:, 0:2], 2 * half, low, high)
    return crops * covered[:, 1, None, :, None] * covered[:, 0, None, None, :], squares


def _coverage(origin: Tensor, side: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return how much of each row and column of a crop lies between low and high, (faces, 2, 112).

    A share, not yes or no: an edge on the middle of a cell must not hang on the last bit.
    """
    step = side[:, :, None] / FACE_PX
    start = origin[:, :, None] + torch.arange(FACE_PX, dtype=torch.float32) * step
    end = torch.minimum(start + step, high[:, :, None])
    return torch.clamp((end - torch.maximum(start, low[:, :, None])) / step, 0, 1)


def _extent(frames: Tensor) -> Tensor:
    return torch.stack((torch.as_tensor(frames.shape[2]), torch.as_tensor(frames.shape[1]))).float()
