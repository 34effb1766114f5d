"""How good a picture or a stretch of sound is: light, sharpness, motion, level, and the gates.

Comes in: sampled frames and what was measured on them. Goes out: numbers, and the gates' names of
what is wrong. It finds no faces and decides about no window: a gate lowers or removes evidence,
and fusion weighs it.

Everything about a picture is measured on one small brightness plane of fixed size, so the numbers
do not depend on resolution or aspect.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.types import FrameReading, SlotReading

DARK_LUMA = 16.0
"""A frame no brighter shows nothing. 150 faces 150 px tall, darkened: the built-in detector finds
85 % at luma 98, 34 % at 24, 5 % at 15 and none at 9."""
BLURRED_SHARPNESS = 10.0
"""A frame less sharp is blurred. The same faces, Gaussian blur: the detector finds 79 % at
sharpness 81, 59 % at 24, 16 % at 8 and 3 % at 4; what it still finds is named as well as before."""
FROZEN_MOTION = 0.01
"""Frames that differ by less are copies. A camera's sensor noise survives an encoder as 0.02 and
more (noise of one level, H264) and a face that sits still as tenths; a still image, once the
encoder has settled, gives 0.00 to 0.01, like a frozen track. So frozen is a remark, never a reason
to leave a picture out: a portrait is a picture too."""
FROZEN_FRAMES = 4
"""Steps between frames, all of them still, that make a picture frozen: a second."""
SILENT_DBFS = -60.0
"""Nobody near the microphone when the loudest slot of a window is no louder. The loudest slot of
70 acted sentences, quietly recorded, is -57 dBFS at least; their pauses are at -85 in the
middle."""
MUTED_DBFS = -90.0
"""Digital silence: one unit of 16-bit sound is at -90.3."""

PLANE_HEIGHT_PX, PLANE_WIDTH_PX = 120, 160

Plane = NDArray[np.float32]

_RED, _GREEN, _BLUE = np.float32(0.299), np.float32(0.587), np.float32(0.114)
"""Luma of ITU-R BT.601."""


def luma_plane(rgb: NDArray[np.uint8]) -> Plane:
    """Return the brightness of a frame ``(height, width, 3)`` as ``(120, 160)``, 0..255.

    Each pixel is the mean of its share of the frame; a frame smaller than the plane is repeated.
    """
    height, width = rgb.shape[:2]
    rows, row_counts = _bins(height, PLANE_HEIGHT_PX)
    columns, column_counts = _bins(width, PLANE_WIDTH_PX)
    # Rows first, as integers: a third of the work for the colours, and no BLAS threads.
    low = _summed(rgb.reshape(height, 3 * width), rows, row_counts, np.uint16)
    luma = low[:, 0::3] * _RED
    luma += low[:, 1::3] * _GREEN
    luma += low[:, 2::3] * _BLUE
    sums = _summed(np.ascontiguousarray(luma.T), columns, column_counts, np.float32).T
    plane: Plane = np.divide(sums, row_counts[:, None] * column_counts, order="C")
    return plane


def brightness(plane: Plane) -> float:
    """Return the mean luma, 0..255."""
    return float(plane.mean())


def sharpness(plane: Plane) -> float:
    """Return the variance of the plane's Laplacian.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    inner = plane[1:-1, 1:-1]
    sides = plane[:-2, 1:-1] + plane[2:, 1:-1] + plane[1:-1, :-2] + plane[1:-1, 2:]
    return float((4 * inner - sides).var())


def motion(before: Plane, plane: Plane) -> float:
    """Return the mean absolute difference of two planes, 0..255."""
    return float(np.abs(plane - before).mean())


def is_dark(frame: FrameReading) -> bool:
    """Tell whether a frame has too little light to show anything."""
    return frame.luma <= DARK_LUMA


def is_blurred(frame: FrameReading) -> bool:
    """Tell whether a frame is too blurred for faces to be found reliably.

    Contrast is part of sharpness: ask :func:`is_dark` first.
    """
    return frame.sharpness < BLURRED_SHARPNESS


def is_frozen(frames: Sequence[FrameReading]) -> bool:
    """Tell whether a window's picture stood still from beginning to end, for a second at least."""
    steps = [frame.motion for frame in frames if frame.motion is not None]
    return len(steps) >= FROZEN_FRAMES and max(steps) < FROZEN_MOTION


def is_silent(slots: Sequence[SlotReading]) -> bool:
    """Tell whether a window's sound is too faint for anybody to be there; digital silence too."""
    return all(slot.loudness_dbfs <= SILENT_DBFS for slot in slots)


def is_muted(slots: Sequence[SlotReading]) -> bool:
    """Tell whether a window's sound is digital silence: a muted microphone."""
    return all(slot.loudness_dbfs <= MUTED_DBFS for slot in slots)


@lru_cache(maxsize=64)
def _bins(size: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return where each of ``count`` bins over ``size`` pixels starts, and how many it holds."""
    starts = np.arange(count) * size // count
    counts = np.maximum(np.diff(starts, append=size), 1).astype(np.float32)
    starts.flags.writeable = counts.flags.writeable = False
    return starts, counts


def _summed(
    lines: NDArray[Any], starts: NDArray[np.intp], counts: NDArray[np.float32], dtype: type
) -> NDArray[Any]:
    """Return the sum of each bin's lines; much faster than ``np.add.reduceat``."""
    sums: NDArray[Any] = lines[starts].astype(dtype, copy=False)
    for further in range(1, int(counts.max())):
        more = np.flatnonzero(counts > further)
        sums[more] += lines[starts[more] + further]
    return sums
