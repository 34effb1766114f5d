"""Pictures as the explain model saw them in training: eight of a stretch, 224 px, in [-1, 1].

Sources: frame choice of HumanOmni's ``process_video``; SigLIP's image processor (bicubic with
antialiasing, mean and deviation 0.5).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Aspect = Literal["squash", "pad"]
"""Published inference squashes pictures to a square; training padded them with grey."""
PAD_LEVEL: Final = 127
_SUPPORT: Final = 2.0
_A: Final = -0.5
"""Parameter of Keys' cubic kernel, as Pillow has it."""

Rgb = NDArray[np.uint8]


def chosen(available: int, wanted: int) -> tuple[int, ...]:
    """Return which of ``available`` frames are looked at: the middles of ``wanted`` stretches.

    With fewer frames than wanted all are taken; the caller appends black ones.
    """
    if available <= wanted:
        return tuple(range(available))
    stretch = (available - 1) / wanted
    return tuple(round(stretch * (place + 0.5) + 1e-6) for place in range(wanted))


def pixels(
    frames: Sequence[Rgb], wanted: int, side: int, aspect: Aspect = "squash"
) -> NDArray[np.float32]:
    """Return ``(wanted, 3, side, side)`` in [-1, 1] out of ``(height, width, 3)`` RGB pictures.

    Raises :class:`ValueError` without any frame.
    """
    if not frames:
        raise ValueError("there is no frame to look at")
    picked = [frames[index] for index in chosen(len(frames), wanted)]
    black = np.zeros_like(picked[0])
    squares = [square(each, side, aspect) for each in picked]
    squares += [square(black, side, aspect)] * (wanted - len(picked))
    stacked = np.stack(squares).astype(np.float32)
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)) / np.float32(127.5) - np.float32(1)


def square(picture: Rgb, side: int, aspect: Aspect) -> Rgb:
    """Return ``(side, side, 3)``: the whole picture, squashed or padded to a square first."""
    height, width, _ = picture.shape
    if aspect == "pad" and height != width:
        longer = max(height, width)
        padded = np.full((longer, longer, 3), PAD_LEVEL, np.uint8)
        top, left = (longer - height) // 2, (longer - width) // 2
        padded[top : top + height, left : left + width] = picture
        picture = padded
    narrow = _along(picture, side, axis=1)
    return _along(narrow, side, axis=0)


def _along(picture: Rgb, size: int, *, axis: int) -> Rgb:
    """Resize one axis; rounded to whole levels after each, as Pillow does."""
    if picture.shape[axis] == size:
        return picture
    weights = _weights(picture.shape[axis], size)
    moved = np.moveaxis(picture, axis, 0)
    summed = np.tensordot(weights, moved.astype(np.float64), 1)
    whole = np.clip(np.floor(summed + 0.5), 0, 255).astype(np.uint8)
    return np.moveaxis(whole, 0, axis)


@lru_cache(maxsize=32)
def _weights(before: int, after: int) -> NDArray[np.float64]:
    """Return ``(after, before)``: how much each old row counts in each new one."""
    scale = before / after
    stretch = max(scale, 1.0)  # shrinking widens the kernel: that is the antialiasing
    centres = (np.arange(after) + 0.5) * scale
    weights = np.zeros((after, before))
    for row, centre in enumerate(centres):
        first = max(int(centre - _SUPPORT * stretch + 0.5), 0)
        last = min(int(centre + _SUPPORT * stretch + 0.5), before)
        taps = _cubic((np.arange(first, last) - centre + 0.5) / stretch)
        weights[row, first:last] = taps / taps.sum()
    return weights


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel (IEEE TASSP 29(6), 1981)."""
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return np.where(x < 1, near, np.where(x < _SUPPORT, far, 0.0))
