"""The envelope of a session's events: dense ``seq``, derived id, time, whom it is about."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from pipeline import events, ids
from pipeline.fusion import TrackedFrame
from pipeline.spec import LABELS
from pipeline.types import TICKS_PER_MS

DIGITS = 4
"""Decimals of probabilities on the wire; seven of them still sum to 1 within 0.001."""


class Stamp(TypedDict):
    """The envelope fields of one event."""

    id: str
    session_id: str
    seq: int
    ts: str
    participant_id: str | None
    policy: str | None


class Envelopes:
    """Hands out the envelopes of one session, each ``seq`` once and without a hole."""

    def __init__(self, session_id: str, policy: str | None = None) -> None:
        self._session_id = session_id
        self._policy = policy
        self.next_seq = 0

    def stamp(self, wall_ms: int, participant_id: str | None) -> Stamp:
        """Return the next envelope; what takes it must leave for the bus."""
        seq, self.next_seq = self.next_seq, self.next_seq + 1
        return Stamp(
            id=ids.derived("evt_", wall_ms, self._session_id, seq),
            session_id=self._session_id,
            seq=seq,
            ts=events.timestamp(wall_ms),
            participant_id=participant_id,
            policy=self._policy,
        )


def emotions(probabilities: list[float]) -> dict[str, float]:
    """Return seven probabilities in wire order as the map on the wire."""
    return {label: round(value, DIGITS) for label, value in zip(LABELS, probabilities, strict=True)}


def bands(intervals: list[list[float]]) -> dict[str, tuple[float, float]]:
    """Return seven intervals in wire order as the map on the wire."""
    return {
        label: (round(low, DIGITS), round(high, DIGITS))
        for label, (low, high) in zip(LABELS, intervals, strict=True)
    }


def faces(
    frames: Sequence[TrackedFrame] | None, speaking: Mapping[int, bool | None], most: int
) -> list[events.FaceBox] | None:
    """Return the faces of the newest frame, the one that counts first; None without video."""
    if frames is None:
        return None
    return [
        events.FaceBox(
            face_id=face_id,
            box=_rounded(face.box),
            at_ms=frame.reading.at // TICKS_PER_MS,
            score=round(face.score, 3),
            speaking=speaking.get(face_id),
            emotions=emotions(face.probabilities.tolist()),
        )
        for frame in frames[-1:]
        for face_id, face in frame.faces[:most]
    ]


def _rounded(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return round(x, DIGITS), round(y, DIGITS), round(width, DIGITS), round(height, DIGITS)
