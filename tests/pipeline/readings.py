"""Made-up measurements for tests of what comes after the scorer."""

import numpy as np

from pipeline import events
from pipeline.fusion import TrackedFrame
from pipeline.spec import LABELS
from pipeline.stream import Facts
from pipeline.types import (
    FRAME_CELL_TICKS,
    LEAD_TICKS,
    SLOT_TICKS,
    WINDOW_SLOTS,
    WINDOW_TICKS,
    Face,
    FrameReading,
    Outcome,
    SlotReading,
    Window,
)

MODEL = events.LoadedModel("demeanor-tiny", "1.0", "sha256:3f9a", ["CPU"])


def answer(label, p=0.9):
    """Probabilities: ``p`` on one label, the rest shared evenly."""
    values = np.full(7, (1 - p) / 6, np.float32)
    values[LABELS.index(label)] = p
    return values


def face(label="neutral", p=0.9, *, score=0.9, brow=0.34, mouth=0.08, x=0.3):
    return Face((x, 0.2, 0.2, 0.4), score, answer(label, p), brow, mouth)


def frame(at=0, *faces, luma=120.0, sharpness=200.0, motion=2.0):
    return FrameReading(at, luma, sharpness, motion, faces)


def tracked(at=0, *faces, **picture):
    return TrackedFrame(frame(at, *faces, **picture), tuple(enumerate(faces, 1)))


def slot(index=0, *, coverage=1.0, speech=0.8, loudness=-26.0, pitch=160.0, rate=4.0):
    return SlotReading(index, coverage, speech, loudness, pitch, rate)


def slots(index=0, **values):
    return tuple(slot(index + at, **values) for at in range(WINDOW_SLOTS))


def outcome(index, voice="neutral", look="neutral", *, p=0.9, faces=1, **sound):
    """A window's outcome: voice or look None means speech or a face was not there."""
    start = index * SLOT_TICKS
    shown = (face(look, p),) * faces if look else ()
    return Outcome(
        "ses_1",
        index,
        tuple(frame(at, *shown) for at in range(start, start + WINDOW_TICKS, FRAME_CELL_TICKS)),
        slots(index, **(sound if voice else {"speech": 0.0, "pitch": None, "rate": None})),
        answer(voice, p) if voice else None,
    )


def window(index, *, audio=True, video=True, coverage=1.0):
    sound = np.zeros(LEAD_TICKS + WINDOW_TICKS, np.int16) if audio else None
    return Window(index, sound, (coverage,) * WINDOW_SLOTS if audio else (), () if video else None)


def facts(**changes):
    values = {
        "session_id": "ses_1",
        "stream": "me",
        "role": "self",
        "scored": True,
        "why_not": None,
        "tracks": ("audio", "video"),
        "source": events.Source("whip"),
        "meta": {"call": "c-1"},
        "model": MODEL,
    }
    return Facts(**(values | changes))
