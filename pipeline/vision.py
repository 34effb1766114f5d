"""Everything that is measured on one sampled frame: light, faces, expression, landmarks.

Comes in: RGB frames of any sizes and sessions. Goes out: one :class:`Seen` a frame, each frame
independent of the others; equal sizes share one run of every net. Frames that a net cannot answer
come back as ``None`` and harm no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import faces, quality
from pipeline.graphs import Array, Floats, Graph, expect, isolated, wire_order
from pipeline.types import Face

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One frame's measurements, except for motion, which takes two frames."""

    luma: Floats
    """Small brightness plane of the frame: what motion is measured on."""
    brightness: float
    sharpness: float
    faces: tuple[Face, ...]
    """Largest first."""


class Vision:
    """The three face nets as one reader of frames."""

    def __init__(
        self, detector: Graph, expression: Graph, landmarks: Graph, *, most: int = 2
    ) -> None:
        """``most`` frames go into one run of the nets."""
        self._most = most
        self._detector = detector
        self._expression = expression
        self._landmarks = landmarks

    def read(self, frames: Sequence[Rgb]) -> list[Seen | None]:
        """Return one reading a frame, in order."""
        readings: list[Seen | None] = [None] * len(frames)
        for rows in _by_shape(frames).values():
            found = isolated([frames[row] for row in rows], self.measure, most=self._most)
            for row, reading in zip(rows, found, strict=True):
                readings[row] = reading
        return readings

    def measure(self, frames: Sequence[Rgb]) -> list[Seen]:
        """Read frames of one shape; raises :class:`ScoreError` when a net has no sound answer."""
        stack = np.stack(frames)
        boxes, scores = self._detect(stack)
        picked = [faces.pick(boxes[at], scores[at], stack.shape[1]) for at in range(len(frames))]
        index = np.array([at for at, kept in enumerate(picked) for _ in kept], np.int64)
        crops = np.concatenate([boxes[at, kept] for at, kept in enumerate(picked)])
        strong = np.concatenate([scores[at, kept] for at, kept in enumerate(picked)])
        made = self._examine(stack, crops, strong, index)
        return [
            _seen(frame, tuple(made[row] for row in np.flatnonzero(index == at)))
            for at, frame in enumerate(frames)
        ]

    def look(self, frames: Sequence[Rgb], boxes: Floats) -> list[Face]:
        """Read one given face on each frame: frames of one shape, boxes (n, 4).

        Raises :class:`ScoreError` when a net has no sound answer.
        """
        index = np.arange(len(frames), dtype=np.int64)
        return self._examine(np.stack(frames), boxes, np.ones(len(frames), np.float32), index)

    def _detect(self, stack: Rgb) -> tuple[Floats, Floats]:
        boxes, scores = self._detector.run(["boxes", "scores"], {"frames": stack})
        expect(boxes, (len(stack), -1, 4), self._detector.spec)
        expect(scores, boxes.shape[:2], self._detector.spec)
        return boxes, scores

    def _examine(
        self, stack: Rgb, boxes: Floats, scores: Floats, index: NDArray[np.int64]
    ) -> list[Face]:
        """Read the faces in ``boxes`` (n, 4), each on frame ``index`` (n,) of the stack."""
        if not len(index):
            return []
        feeds: dict[str, Array] = {"frames": stack, "boxes": boxes, "frame_index": index}
        (answers,) = self._expression.run(["probabilities"], feeds)
        shown = wire_order(self._expression.spec, answers, len(index))
        shown.setflags(write=False)
        (points,) = self._landmarks.run(["points"], feeds)
        expect(points, (len(index), 68, 2), self._landmarks.spec)
        height, width = stack.shape[1:3]
        return [
            Face(
                faces.clipped(boxes[row]),
                float(scores[row]),
                shown[row],
                *faces.cues(points[row], width, height),
            )
            for row in range(len(index))
        ]


def _seen(frame: Rgb, found: tuple[Face, ...]) -> Seen:
    luma = quality.luma_plane(frame)
    return Seen(luma, quality.brightness(luma), quality.sharpness(luma), found)


def _by_shape(frames: Sequence[NDArray[Any]]) -> dict[tuple[int, ...], list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, frame in enumerate(frames):
        groups.setdefault(frame.shape, []).append(row)
    return groups
