"""A second, independent reading of the package's weights in plain numpy, to prove the graphs by.

Written after the package's TypeScript and TensorFlow's definitions, not after our torch modules:
NHWC layout, HWIO filters, a convolution as nine shifted products, TensorFlow's rule for 'same', the
whole letterboxed square for the detector, a crop made of explicit samples. Slow and plain.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from exporters.face.weights import Weights

Floats = NDArray[np.float64]
Frame = NDArray[np.uint8]

_ANCHORS = np.array(
    [
        [1.603231, 2.094468],
        [6.041143, 7.080126],
        [2.882459, 3.518061],
        [4.266906, 5.178857],
        [9.041765, 10.66308],
    ]
)


def detect(weights: Weights, frame: Frame, side: int = 320) -> tuple[Floats, Floats]:
    """Return boxes (rows, columns, 5, 4) and scores (rows, columns, 5) of the whole square grid."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    tall, wide = max(1, _half_up(height * scale)), max(1, _half_up(width * scale))
    square = np.zeros((side, side, 3))
    square[:tall, :wide] = _resize(frame.astype(np.float64), tall, wide)
    x = (square - np.array([117.001, 114.697, 97.404])) / 256.0
    x = _leaky(_convolve(x, weights["conv0/filters"]) + weights["conv0/bias"])
    for index in range(1, 6):
        x = _max_pool(x, stride=2)
        x = _leaky(_separable(x, weights, f"conv{index}", stride=1))
    x = _max_pool(x, stride=1)
    grid = _convolve(x, weights["conv8/filters"]) + weights["conv8/bias"]
    cells = grid.shape[0]
    grid = grid.reshape(cells, cells, 5, 5)
    column, row = np.meshgrid(np.arange(cells), np.arange(cells))
    corner = np.stack((column, row), axis=-1)[:, :, None, :]
    # Fractions of the square; the frame is its top left part.
    stretch = np.array([max(height, width) / width, max(height, width) / height])
    centre = (corner + _sigmoid(grid[..., 0:2])) / cells * stretch
    size = np.exp(grid[..., 2:4]) * _ANCHORS / cells * stretch
    return np.concatenate((centre - size / 2, size), axis=-1), _sigmoid(grid[..., 4])


def express(weights: Weights, frame: Frame, box: Floats) -> Floats:
    """Return seven logits for the face in ``box`` (x, y, w, h as fractions)."""
    return _face_net(weights, crop(frame, box)[0], blocks=4, convolutions=4)


def landmarks(weights: Weights, frame: Frame, box: Floats) -> Floats:
    """Return 68 points (x, y) as fractions of the frame."""
    face, origin, side = crop(frame, box)
    points = _face_net(weights, face, blocks=3, convolutions=3).reshape(68, 2)
    placed: Floats = (origin + points * side) / np.array([frame.shape[1], frame.shape[0]])
    return placed


def crop(frame: Frame, box: Floats, size: int = 112) -> tuple[Floats, Floats, float]:
    """Return the face on its black square (size, size, 3), the square's origin and side in px."""
    height, width = frame.shape[:2]
    left, top = max(box[0], 0.0) * width, max(box[1], 0.0) * height
    left, top = min(left, width - 1.0), min(top, height - 1.0)
    right = max(min((box[0] + box[2]) * width, width), left + 1)
    bottom = max(min((box[1] + box[3]) * height, height), top + 1)
    side = max(right - left, bottom - top)
    origin = np.array([(left + right - side) / 2, (top + bottom - side) / 2])
    step = side / size
    samples = max(1, ceil(np.float32(step)))
    face = np.zeros((size, size, 3))
    for row in range(samples):
        for column in range(samples):
            x = origin[0] + (np.arange(size) + (column + 0.5) / samples) * step - 0.5
            y = origin[1] + (np.arange(size) + (row + 0.5) / samples) * step - 0.5
            on_frame = _near(y, height)[:, None] & _near(x, width)[None, :]
            face += _sample(frame.astype(np.float64), y, x) * on_frame[:, :, None]
    on_x = _covered(origin[0], step, left, right, size)
    on_y = _covered(origin[1], step, top, bottom, size)
    return face / samples**2 * on_y[:, None, None] * on_x[None, :, None], origin, side


def _near(at: Floats, length: int) -> NDArray[np.bool_]:
    """Whether samples lie on the frame or less than a pixel beside it; the others are black."""
    return (at >= -1) & (at <= length)


def _covered(origin: float, step: float, low: float, high: float, size: int) -> Floats:
    """Share of each of ``size`` cells that lies between ``low`` and ``high``."""
    edges = np.clip(origin + np.arange(size + 1) * step, low, high)
    share: Floats = np.diff(edges) / step
    return share


def _face_net(weights: Weights, face: Floats, *, blocks: int, convolutions: int) -> Floats:
    x = (face - np.array([122.782, 117.001, 104.298])) / 255.0
    for block in range(blocks):
        outs: list[Floats] = []
        for index in range(convolutions):
            prefix = f"dense{block}/conv{index}"
            if index == 0 and block == 0:
                out = _convolve(_pad_same(x, 3, 2), weights[f"{prefix}/filters"], stride=2)
                out = _relu(out + weights[f"{prefix}/bias"])
            elif index == 0:
                out = _relu(_separable(x, weights, prefix, stride=2))
            else:
                total = np.sum(outs, axis=0)
                out = _separable(outs[0] if index == 1 else _relu(total), weights, prefix, stride=1)
            outs.append(out)
        x = _relu(np.sum(outs, axis=0))
    pooled: Floats = x.mean(axis=(0, 1)) @ weights["fc/weights"] + weights["fc/bias"]
    return pooled


def _separable(x: Floats, weights: Weights, prefix: str, *, stride: int) -> Floats:
    depthwise = weights[f"{prefix}/depthwise_filter"]
    padded = _pad_same(x, 3, stride)
    rows = (padded.shape[0] - 3) // stride + 1
    columns = (padded.shape[1] - 3) // stride + 1
    out = np.zeros((rows, columns, x.shape[2]))
    for i in range(3):
        for j in range(3):
            out += _shifted(padded, (i, j), (rows, columns), stride) * depthwise[i, j, :, 0]
    answer: Floats = out @ weights[f"{prefix}/pointwise_filter"][0, 0] + weights[f"{prefix}/bias"]
    return answer


def _convolve(x: Floats, filters: NDArray[np.float32], stride: int = 1) -> Floats:
    size = filters.shape[0]
    rows, columns = (x.shape[0] - size) // stride + 1, (x.shape[1] - size) // stride + 1
    out = np.zeros((rows, columns, filters.shape[3]))
    for i in range(size):
        for j in range(size):
            out += _shifted(x, (i, j), (rows, columns), stride) @ filters[i, j]
    return out


def _shifted(x: Floats, at: tuple[int, int], size: tuple[int, int], stride: int) -> Floats:
    (i, j), (rows, columns) = at, size
    return x[i : i + rows * stride : stride, j : j + columns * stride : stride][:rows, :columns]


def _pad_same(x: Floats, size: int, stride: int, value: float = 0.0) -> Floats:
    """TensorFlow's 'same': as many zeros as needed, the odd one right and bottom."""
    pads = []
    for length in x.shape[:2]:
        total = max((ceil(length / stride) - 1) * stride + size - length, 0)
        pads.append((total // 2, total - total // 2))
    return np.pad(x, [*pads, (0, 0)], constant_values=value)


def _max_pool(x: Floats, *, stride: int) -> Floats:
    rows, columns = ceil(x.shape[0] / stride), ceil(x.shape[1] / stride)
    padded = _pad_same(x, 2, stride, -np.inf)
    views = [_shifted(padded, (i, j), (rows, columns), stride) for i in (0, 1) for j in (0, 1)]
    return np.max(views, axis=0)  # type: ignore[no-any-return]


def _resize(pixels: Floats, tall: int, wide: int) -> Floats:
    """Bilinear, pixel centres aligned."""
    y = (np.arange(tall) + 0.5) * pixels.shape[0] / tall - 0.5
    x = (np.arange(wide) + 0.5) * pixels.shape[1] / wide - 0.5
    return _sample(pixels, y, x)


def _sample(pixels: Floats, y: Floats, x: Floats) -> Floats:
    """Bilinear samples on the lattice ``y`` by ``x``; beyond the edge the edge's pixel counts."""
    y, x = np.clip(y, 0, pixels.shape[0] - 1), np.clip(x, 0, pixels.shape[1] - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below = np.minimum(top + 1, pixels.shape[0] - 1)
    right = np.minimum(left + 1, pixels.shape[1] - 1)
    down, across = (y - top)[:, None, None], (x - left)[None, :, None]
    upper = pixels[top][:, left] * (1 - across) + pixels[top][:, right] * across
    lower = pixels[below][:, left] * (1 - across) + pixels[below][:, right] * across
    sampled: Floats = upper * (1 - down) + lower * down
    return sampled


def _leaky(x: Floats) -> Floats:
    low = x * 0.10000000149011612
    return _relu(x - low) + low


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0.0)


def _sigmoid(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


def _half_up(value: float) -> int:
    return int(value + 0.5)
