"""Which face is which from frame to frame, which one counts, and which one speaks.

Frame readings come in, in order of media time; the same faces go out with identities, the face
that counts first. One session is one person: other faces are bystanders, and whoever keeps the
place in the picture, or speaks, is taken for the person. Faces are never recognised: an identity
means "near where it was a moment ago" and is not used again in the session.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pipeline.types import (
    FRAME_CELL_TICKS,
    SLOT_TICKS,
    TICKS_PER_S,
    Face,
    FrameReading,
    SlotReading,
)

MAX_FACES = 8
"""Faces of one frame that get an identity: the largest."""
MISS_TICKS = TICKS_PER_S + FRAME_CELL_TICKS
"""A face that comes back within this time of its last sight keeps its identity: a second of
misses, at four frames a second."""
MIN_IOU = 0.2
"""Overlap with the last box from which on a face may be the same. A head that moves by half its
width between two samples, 250 ms apart, still has 0.33."""
CHALLENGE = 1.5
"""How much more prominent, or more busily moving its mouth, another face must be to take over."""
MOUTH_MOTION = 0.04
"""Mean change of the mouth's opening from sample to sample, in eye distances, of someone who
speaks. Landmarks of 130 still faces wander by 0.01 at most at the median under noise, changes of
light and shifts of 3 px, by 0.035 at the 90th percentile; openings spread from 0.02 to 0.29."""
SPEECH_SHARE = 0.3
"""Share of a slot with speech from which on mouths are watched."""

Identified = tuple[tuple[int, Face], ...]

_NEW_FACE = 0.25
"""Share of its area with which a new face begins: steadiness has to be earned."""
_HALF_LIFE_TICKS = 8_000
_MOUTHS = 16
"""Mouth samples kept of a face: four seconds."""
_REMEMBERED = 16
"""Frames whose answer is kept."""
_MIN_STEPS = 3
"""Changes of the mouth below which nothing is said about speaking."""


@dataclass(slots=True)
class _Track:
    face_id: int
    box: tuple[float, float, float, float]
    at: int
    prominence: float
    """Area as a share of the frame, averaged over time with 0 where the face was missed."""
    mouths: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_MOUTHS))

    def blend(self, area: float, ticks: int) -> None:
        kept = 0.5 ** (ticks / _HALF_LIFE_TICKS)
        self.prominence = kept * self.prominence + (1 - kept) * area


class FaceTracker:
    """The faces of one session."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._next_id = 0
        self._at = -1
        self._main: int | None = None
        self._answers: dict[int, Identified] = {}

    def update(self, reading: FrameReading) -> Identified:
        """Return the frame's faces (at most :data:`MAX_FACES`) with ids, the one that counts first.

        The face that counts stays until it is gone, another one is clearly larger and steadier,
        or :meth:`speaking` found another one speaking; the rest follow by prominence. A frame
        that was seen before gets the same answer and changes nothing; an older one that was never
        seen gets none.
        """
        if reading.at <= self._at:
            return self._answers.get(reading.at, ())
        ticks = reading.at - self._at if self._tracks else 0
        self._at = reading.at
        self._tracks = [t for t in self._tracks if reading.at - t.at <= MISS_TICKS]
        largest = sorted(reading.faces, key=_area, reverse=True)[:MAX_FACES]
        pairs = _match(self._tracks, largest)
        matched = {id(track) for track, _ in pairs}
        for track in self._tracks:
            if id(track) not in matched:
                track.blend(0.0, ticks)
        for track, face in pairs:
            track.blend(_area(face), ticks)
            track.box, track.at = face.box, reading.at
        known = {id(face) for _, face in pairs}
        pairs += [(self._begin(face), face) for face in largest if id(face) not in known]
        for track, face in pairs:
            if face.mouth_open is not None:
                track.mouths.append((reading.at, face.mouth_open))
        return self._remember(self._ordered(pairs))

    def speaking(self, slots: Sequence[SlotReading]) -> dict[int, bool | None]:
        """Tell for each face still in sight whether it moved its mouth during the slots' speech.

        None: too little speech, too few samples, or no landmarks. At most one face speaks. When
        it does so far more busily than all others, it is the face that counts from now on.
        """
        heard = {slot.index for slot in slots if slot.speech >= SPEECH_SHARE}
        moved = {track.face_id: _mouth_motion(track, heard) for track in self._tracks}
        order = sorted(
            ((motion, face_id) for face_id, motion in moved.items() if motion is not None),
            reverse=True,
        )
        speaker: int | None = None
        if order and order[0][0] >= MOUTH_MOTION:
            speaker = order[0][1]
            if len(order) == 1 or order[0][0] >= CHALLENGE * order[1][0]:
                self._main = speaker
        return {
            face_id: None if motion is None else face_id == speaker
            for face_id, motion in moved.items()
        }

    def _begin(self, face: Face) -> _Track:
        track = _Track(self._next_id, face.box, self._at, _NEW_FACE * _area(face))
        self._next_id += 1
        self._tracks.append(track)
        return track

    def _ordered(self, pairs: list[tuple[_Track, Face]]) -> Identified:
        pairs.sort(key=lambda pair: (-pair[0].prominence, pair[0].face_id))
        if pairs:
            self._elect(pairs[0][0])
        first = [pair for pair in pairs if pair[0].face_id == self._main]
        rest = [pair for pair in pairs if pair[0].face_id != self._main]
        return tuple((track.face_id, face) for track, face in first + rest)

    def _elect(self, best: _Track) -> None:
        """Let ``best`` be the face that counts unless the one that does is still good enough."""
        held = next((track for track in self._tracks if track.face_id == self._main), None)
        if held is None or best.prominence > CHALLENGE * held.prominence:
            self._main = best.face_id

    def _remember(self, answer: Identified) -> Identified:
        self._answers[self._at] = answer
        if len(self._answers) > _REMEMBERED:
            del self._answers[min(self._answers)]
        return answer


def _match(tracks: Sequence[_Track], faces: Sequence[Face]) -> list[tuple[_Track, Face]]:
    """Pair tracks with faces, greatest overlap first; who overlaps too little stays alone."""
    overlaps = sorted(
        (
            (_iou(track.box, face.box), -track.face_id, row, track)
            for track in tracks
            for row, face in enumerate(faces)
        ),
        key=lambda entry: entry[:3],
        reverse=True,
    )
    taken: set[int] = set()
    pairs: dict[int, tuple[_Track, Face]] = {}
    for overlap, _, row, track in overlaps:
        if overlap >= MIN_IOU and row not in taken and track.face_id not in pairs:
            taken.add(row)
            pairs[track.face_id] = track, faces[row]
    return list(pairs.values())


def _mouth_motion(track: _Track, heard: set[int]) -> float | None:
    """Return the mean change of the mouth's opening between samples in the slots ``heard``."""
    steps = [
        abs(opening - before)
        for (earlier, before), (later, opening) in pairwise(track.mouths)
        if later // SLOT_TICKS in heard and later - earlier <= SLOT_TICKS
    ]
    return sum(steps) / len(steps) if len(steps) >= _MIN_STEPS else None


def _area(face: Face) -> float:
    return face.box[2] * face.box[3]


def _iou(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Return intersection over union of two boxes; 0 when both are empty."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared / union if union > 0 else 0.0
