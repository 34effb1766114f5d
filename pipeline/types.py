"""Values that cross the rooms of one process: media, windows, readings, outcomes.

Media time is an integer number of **ticks** (1/16000 s) since the session's first media sample:
an audio row index *is* a tick, and nothing is ever added up in floating point. A **slot** is one
hop (0.5 s); windows start on slot boundaries, and work on a slot's audio or on one sampled frame
is done once, however many windows it lies in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

TICKS_PER_S = 16_000
TICKS_PER_MS = 16
SLOT_TICKS = 8_000
"""One hop: 0.5 s."""
WINDOW_SLOTS = 4
WINDOW_TICKS = SLOT_TICKS * WINDOW_SLOTS
"""One window: 2.0 s."""
LEAD_TICKS = 2_400
"""Audio before the window's start that travels with it: left context of the models, 150 ms."""
FRAME_CELL_TICKS = 4_000
"""At most one frame is sampled in each cell of this length: 4 frames a second."""
MAX_WIDTH_PX = 320
"""Sampled frames are scaled to at most this width on every path."""

Kind = Literal["audio", "video"]
GapCause = Literal["packet_loss", "muted", "hold", "publisher_reconnect", "clock_jump", "no_media"]
SkipReason = Literal[
    "superseded",
    "stale",
    "overload",
    "late",
    "low_coverage",
    "scorer_lost",
    "poison",
    "bad_output",
    "unanswered",
    "decoder_crash",
    "draining",
    "scoring_off",
    "consent_withdrawn",
    "no_evidence",
]
"""Why a window was not scored; the fine list of counters (the wire has a shorter one)."""


@dataclass(frozen=True, slots=True, eq=False)
class AudioChunk:
    """Decoded sound of one track, resampled to 16 kHz mono."""

    start: int
    """Tick of the first sample; may overlap or leave holes against earlier chunks."""
    samples: NDArray[np.int16]
    """Shape ``(n,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class VideoFrame:
    """One decoded picture, scaled to at most :data:`MAX_WIDTH_PX`."""

    at: int
    """Tick at which it is shown."""
    rgb: NDArray[np.uint8]
    """Shape ``(height, width, 3)``, RGB."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of media time in which a track had nothing to score."""

    start: int
    end: int
    tracks: tuple[Kind, ...]
    cause: GapCause


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What the models see at once. Arrays are read-only and shared between overlapping windows."""

    index: int
    """Counts hops from the session's start; ``start == index * SLOT_TICKS``."""
    audio: NDArray[np.int16] | None
    """Shape ``(LEAD_TICKS + WINDOW_TICKS,)``: the left context, then the span; zeros where nothing
    arrived. ``None`` when the session has no audio track."""
    audio_coverage: tuple[float, ...]
    """Share of each of the window's slots that really arrived, in [0, 1]; empty without audio."""
    frames: tuple[VideoFrame, ...] | None
    """Sampled frames of the span, oldest first; empty when none arrived, ``None`` when the session
    has no video track."""

    @property
    def start(self) -> int:
        """First tick of the span."""
        return self.index * SLOT_TICKS

    @property
    def end(self) -> int:
        """First tick after the span."""
        return self.start + WINDOW_TICKS


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face found in one sampled frame."""

    box: tuple[float, float, float, float]
    """x, y, width, height as fractions of the frame, clipped to it."""
    score: float
    """Detector's objectness in [0, 1]."""
    probabilities: NDArray[np.float32]
    """Shape ``(7,)``, wire order, calibrated, sums to 1."""
    brow_gap: float | None
    """Mean distance brow to eye over the distance between the eyes: small = brows lowered."""
    mouth_open: float | None
    """Gap between the inner lips over the distance between the eyes."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameReading:
    """All that was measured on one sampled frame; measured once."""

    at: int
    luma: float
    """Mean brightness, 0..255."""
    sharpness: float
    """Variance of the Laplacian of the luma plane at fixed size."""
    motion: float | None
    """Mean absolute luma difference to the sampled frame before, 0..255; None for the first."""
    faces: tuple[Face, ...]


@dataclass(frozen=True, slots=True)
class SlotReading:
    """All that was measured on half a second of sound; measured once."""

    index: int
    """Slot number: covers ticks ``[index * SLOT_TICKS, (index + 1) * SLOT_TICKS)``."""
    coverage: float
    """Share of the slot that arrived, [0, 1]."""
    speech: float
    """Share of the slot with speech by the voice activity model, [0, 1]."""
    loudness_dbfs: float
    """RMS level of the whole slot; -120 for digital silence."""
    pitch_hz: float | None
    """Median fundamental frequency of the voiced part; None when too little is voiced."""
    syllable_rate_hz: float | None
    """Energy peaks a second in the speech part; None without speech."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What the scorer measured for one window; carries no state between windows."""

    session_id: str
    index: int
    frames: tuple[FrameReading, ...] | None
    """None when the session has no video track."""
    slots: tuple[SlotReading, ...] | None
    """None when the session has no audio track."""
    voice: NDArray[np.float32] | None
    """Calibrated probabilities of the voice model, shape ``(7,)``; None without speech."""
    failure: SkipReason | None = None
    """Set when the window could not be scored (``bad_output``, ``poison``); the rest is None."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One window on its way to the scorer."""

    session_id: str
    window: Window
    arrived_s: float
    """Caller's monotonic clock when the window's last media arrived; the start of its age."""
    cut_s: float
    """Caller's monotonic clock when the window was cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Jobs of any number of sessions, scored together; at most one per session."""

    jobs: tuple[Job, ...]


class Scorer(Protocol):
    """The seam to scoring backends: synchronous, called on one worker thread, stateless."""

    def score(self, batch: Batch) -> list[Outcome]:
        """Return one outcome per job, in any order; never raises for a bad window."""

    def forget(self, session_ids: Sequence[str]) -> None:
        """Drop whatever is cached for sessions that ended."""
