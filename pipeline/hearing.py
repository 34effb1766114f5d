"""Everything that is measured on half a second of sound, and the voice of a whole window.

Comes in: one slot's samples with the sound before them (:data:`SLOT_PCM` samples). Goes out: one
:class:`Heard` a slot, whose speech decision and features depend on those samples alone, so it does
not matter which window brought them. A window's voice is judged on the features of its slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipeline import prosody
from pipeline.graphs import Floats, Graph, expect, isolated, wire_order
from pipeline.types import LEAD_TICKS, SLOT_TICKS

SLOT_PCM = LEAD_TICKS + SLOT_TICKS
"""Samples that a slot is read from: its own 8,000 and the 2,400 before."""
FRAME_SAMPLES = 160
SLOT_FRAMES = SLOT_TICKS // FRAME_SAMPLES
SPEECH_FLOOR = 0.5
"""Probability above which a VAD chunk is speech (the recommendation of Silero VAD)."""
LISTEN_FLOOR = 0.25
"""The same for what the emotion model hears: on actors it never heard, being generous with faint
syllables gave 2 % more right answers than 0.5, while noise alone stays below both."""
MARGIN_FRAMES = 10
"""Frames either side that the emotion model hears too: 100 ms of onset and decay."""
MIN_SPEECH_FRAMES = 20
"""Frames of speech below which a window has no voice: 200 ms, about one syllable."""

_CHUNK = 512
_CHUNK_SAMPLES = 64 + _CHUNK
"""What the VAD hears of a chunk: the end of the one before, then its own."""
_STEPS = 20
"""VAD chunks a slot: the 16 that end with it, after 4 that let its memory settle."""
_STARTS = np.arange(_STEPS) * _CHUNK + SLOT_PCM - _STEPS * _CHUNK - (_CHUNK_SAMPLES - _CHUNK)
_CHUNK_OF_FRAME = (
    np.arange(SLOT_FRAMES) * FRAME_SAMPLES + FRAME_SAMPLES // 2 + _STEPS * _CHUNK - SLOT_TICKS
) // _CHUNK


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """One slot's measurements."""

    chances: Floats
    """Probability of speech in each of the 50 frames of 10 ms."""
    features: Floats
    """Rows of the voice front end, shape ``(50, F)``."""
    loudness_dbfs: float
    pitch_hz: float | None
    syllable_rate_hz: float | None

    @property
    def speech(self) -> NDArray[np.bool_]:
        """Whether each frame is speech."""
        spoken: NDArray[np.bool_] = self.chances >= SPEECH_FLOOR
        return spoken


class Hearing:
    """Voice activity, the front end and the emotion net as one reader of sound."""

    def __init__(self, vad: Graph, features: Graph, emotion: Graph, *, most: int = 4) -> None:
        """``most`` slots or windows go into one run of a graph."""
        self._most = most
        self._vad = vad
        self._features = features
        self._emotion = emotion
        self._masked = any(port.name == "mask" for port in emotion.spec.inputs)
        self._context = features.spec.context_samples or 0

    def read(self, pcm: Sequence[NDArray[np.int16]]) -> list[Heard | None]:
        """Return one reading a slot, in order; ``pcm`` holds arrays of :data:`SLOT_PCM`."""
        return isolated(pcm, self.measure, most=self._most)

    def voices(self, windows: Sequence[Sequence[Heard]]) -> list[Floats | None]:
        """Return probabilities (7,) for each window of slots (equal numbers of slots).

        All must contain :func:`speech`; ``None`` stands for a window the net cannot answer.
        """
        return isolated(windows, self.judge, most=self._most)

    def measure(self, pcm: Sequence[NDArray[np.int16]]) -> list[Heard]:
        """Read slots; raises :class:`ScoreError` when a model has no sound answer."""
        samples = np.stack(pcm).astype(np.float32) / np.float32(32768)
        chances = self._chances(samples)
        (rows,) = self._features.run(
            ["features"], {"pcm": samples[:, LEAD_TICKS - self._context :]}
        )
        expect(rows, (len(pcm), SLOT_FRAMES, -1), self._features.spec)
        return [
            Heard(chances[at], rows[at], *prosody.measure(slot, chances[at] >= SPEECH_FLOOR))
            for at, slot in enumerate(pcm)
        ]

    def _chances(self, samples: Floats) -> Floats:
        """Return (slots, 50): the VAD run over each slot from an empty memory."""
        chunks = np.ascontiguousarray(sliding_window_view(samples, _CHUNK_SAMPLES, 1)[:, _STARTS])
        (chances,) = self._vad.run(["speech"], {"chunks": chunks})
        expect(chances, (len(samples), _STEPS), self._vad.spec)
        framed: Floats = chances[:, _CHUNK_OF_FRAME]
        return framed

    def judge(self, windows: Sequence[Sequence[Heard]]) -> list[Floats]:
        """Return probabilities (7,) for each window of slots, speech or not; raises as above."""
        feeds = {"features": np.stack([np.concatenate([s.features for s in w]) for w in windows])}
        if self._masked:
            feeds["mask"] = np.stack([listened(w) for w in windows])
        (answers,) = self._emotion.run(["probabilities"], feeds)
        ordered = wire_order(self._emotion.spec, answers, len(windows))
        ordered.setflags(write=False)
        return list(ordered)


def speech(slots: Sequence[Heard]) -> bool:
    """Return whether the slots hold enough speech for the voice to be judged."""
    return sum(int(slot.speech.sum()) for slot in slots) >= MIN_SPEECH_FRAMES


def listened(slots: Sequence[Heard]) -> Floats:
    """Return 1 for each frame that the emotion model shall hear, 0 for the others.

    That is one stretch, as in training: from the first speech to the last, with its margins; all
    frames where none is speech.
    """
    likely = np.flatnonzero(np.concatenate([slot.chances for slot in slots]) >= LISTEN_FLOOR)
    heard = np.zeros(SLOT_FRAMES * len(slots), np.float32)
    first, last = (likely[0], likely[-1]) if likely.size else (0, heard.size)
    heard[max(first - MARGIN_FRAMES, 0) : last + MARGIN_FRAMES + 1] = 1.0
    return heard
