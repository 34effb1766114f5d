"""The built-in scorer: windows of any sessions in, one outcome each out.

A batch is taken apart into what has not been measured yet: frames by ``(session, tick)``, slots of
sound by ``(session, slot)``. Each is measured once, in runs shared by all sessions, and kept for
the windows that overlap it. The window's own work is one run of the voice net. An outcome depends
on its window alone: cache and company change the cost, never the answer.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline import graphs, hearing, modelfile, models, quality
from pipeline.cache import SessionCache
from pipeline.errors import ModelRefused, ScoreError, UsageError
from pipeline.events import LoadedModel
from pipeline.graphs import Floats
from pipeline.hearing import SLOT_PCM, Heard, Hearing
from pipeline.session import Device, Session, open_session
from pipeline.spec import Kind
from pipeline.types import (
    LEAD_TICKS,
    SLOT_TICKS,
    WINDOW_SLOTS,
    WINDOW_TICKS,
    Batch,
    FrameReading,
    Job,
    Outcome,
    SlotReading,
    VideoFrame,
    Window,
)
from pipeline.vision import Seen, Vision

NAME = "demeanor-tiny"
FRAMES_KEPT = 16
"""Frames remembered per session: those of two windows."""
SLOTS_KEPT = 8
SESSIONS_KEPT = 256
MAX_FRAME_PX = 4096
ITEMS_A_RUN: Mapping[Device, int] = {"cpu": 2, "cuda": 32}
"""Frames in one run of a net; twice as many slots of sound. On a CPU more gains no time (1.0 x)
and costs memory: 8 sessions of the sample call took 411 MB at 8, 277 at 4, 205 at 2."""
GOLDEN_TOLERANCE = 1e-3
"""Relative and absolute."""

_KINDS: tuple[Kind, ...] = (
    "face-detector",
    "face-expression",
    "face-landmarks",
    "vad",
    "voice-features",
    "voice-emotion",
)
Value = TypeVar("Value")
Place = tuple[str, int]
"""Session and the tick of a frame, or session and slot number."""


@dataclass(slots=True)
class ScorerCounters:
    """What a scorer did since it was opened."""

    windows: int = 0
    frames: int = 0
    """Frames measured, each once."""
    slots: int = 0
    voices: int = 0
    bad_output: int = 0
    """Windows that could not be scored."""


class OrtScorer:
    """Scores on ONNX Runtime in this process; implements :class:`pipeline.types.Scorer`.

    One thread at a time: it belongs to the thread that calls :meth:`score`.
    """

    def __init__(
        self,
        sessions: dict[Kind, Session],
        loaded: LoadedModel,
        *,
        built_in: frozenset[Kind],
        items_a_run: int,
    ) -> None:
        """Use ``sessions``, one of each kind; ``built_in`` are those with golden answers."""
        self.loaded = loaded
        self._sessions = sessions
        self._built_in = built_in
        self.vision = Vision(
            sessions["face-detector"],
            sessions["face-expression"],
            sessions["face-landmarks"],
            most=items_a_run,
        )
        self.hearing = Hearing(
            sessions["vad"],
            sessions["voice-features"],
            sessions["voice-emotion"],
            most=2 * items_a_run,
        )
        self.counters = ScorerCounters()
        self._frames: SessionCache[Seen] = SessionCache(
            per_session=FRAMES_KEPT, sessions=SESSIONS_KEPT
        )
        self._slots: SessionCache[Heard] = SessionCache(
            per_session=SLOTS_KEPT, sessions=SESSIONS_KEPT
        )

    @classmethod
    def open(cls, device: Device = "cpu", replacements: Sequence[Path] = ()) -> "OrtScorer":
        """Load the built-in models, each replaced by the file of its kind in ``replacements``.

        Every graph is run once. Raises :class:`ModelRefused`, :class:`SpecError` or
        :class:`ProviderMissing` as :mod:`pipeline.session` does, :class:`SpecError` for a graph
        that the scorer cannot use and :class:`UsageError` for two files of one kind.
        """
        given = _replacements(device, replacements)
        parts: list[bytes] = []
        sessions: dict[Kind, Session] = {}
        for kind in _KINDS:
            if kind in given:
                sessions[kind], model = given[kind]
            else:
                model = models.verified_bytes(kind)
                sessions[kind] = open_session(model, device=device, file=f"{kind}.onnx")
            graphs.check(sessions[kind].spec, sessions[kind].file)
            parts.append(hashlib.sha256(model).digest())
        scorer = cls(
            sessions,
            _loaded(sessions, parts, device),
            built_in=frozenset(_KINDS) - set(given),
            items_a_run=ITEMS_A_RUN[device],
        )
        scorer.prove()
        return scorer

    def prove(self) -> None:
        """Run every graph once; raises :class:`ModelRefused` when one does not answer soundly."""
        frame = np.zeros((180, 320, 3), np.uint8)
        slot = np.zeros(SLOT_PCM, np.int16)
        try:
            self.vision.measure([frame])
            self.vision.look([frame], np.array([[0.0, 0.0, 1.0, 1.0]], np.float32))
            self.hearing.judge([self.hearing.measure([slot] * WINDOW_SLOTS)])
        except ScoreError as error:
            raise ModelRefused(f"{error}: this model cannot be used") from None

    def golden(self) -> bool:
        """Ask every built-in model that is loaded for its golden answers.

        Raises :class:`ModelRefused`, naming the file, when one differs by more than
        :data:`GOLDEN_TOLERANCE`: the runtime does not compute here what it computed there.
        """
        for kind, session in self._sessions.items():
            if kind in self._built_in:
                _compare(session, models.golden(kind))
        return True

    def score(self, batch: Batch) -> list[Outcome]:
        """Return one outcome per job, in order; a window that cannot be scored says so alone."""
        sound = [job for job in batch.jobs if _sound(job.window)]
        seen = self._see(sound)
        heard = self._hear(sound)
        voices = self._judge(sound, heard)
        outcomes = [_outcome(job, seen, heard, voices) for job in batch.jobs]
        self.counters.windows += len(outcomes)
        self.counters.bad_output += sum(outcome.failure is not None for outcome in outcomes)
        return outcomes

    def forget(self, session_ids: Sequence[str]) -> None:
        """Drop the readings of sessions that ended."""
        self._frames.forget(session_ids)
        self._slots.forget(session_ids)

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return counters and the two caches' sizes."""
        return {
            "scorer": asdict(self.counters),
            "frames": self._frames.statistics(),
            "slots": self._slots.statistics(),
        }

    def _see(self, jobs: Sequence[Job]) -> dict[Place, Seen | None]:
        wanted = {
            (job.session_id, frame.at): frame.rgb
            for job in jobs
            for frame in job.window.frames or ()
        }
        found, missing = _known(self._frames, wanted)
        self.counters.frames += len(missing)
        readings = self.vision.read([wanted[place] for place in missing])
        return found | _remember(self._frames, missing, readings)

    def _hear(self, jobs: Sequence[Job]) -> dict[Place, Heard | None]:
        wanted = {
            (job.session_id, job.window.index + slot): _slot_pcm(job.window.audio, slot)
            for job in jobs
            if job.window.audio is not None
            for slot in range(WINDOW_SLOTS)
        }
        found, missing = _known(self._slots, wanted)
        self.counters.slots += len(missing)
        readings = self.hearing.read([wanted[place] for place in missing])
        return found | _remember(self._slots, missing, readings)

    def _judge(
        self, jobs: Sequence[Job], heard: Mapping[Place, Heard | None]
    ) -> dict[Place, Floats | None]:
        windows = {
            (job.session_id, job.window.index): _slots(job, heard)
            for job in jobs
            if job.window.audio is not None
        }
        spoken = {at: slots for at, slots in windows.items() if slots and hearing.speech(slots)}
        self.counters.voices += len(spoken)
        voices = self.hearing.voices(list(spoken.values()))
        return dict(zip(spoken, voices, strict=True))


def _replacements(device: Device, paths: Sequence[Path]) -> dict[Kind, tuple[Session, bytes]]:
    given: dict[Kind, tuple[Session, bytes]] = {}
    for path in paths:
        model = modelfile.read(path)
        session = open_session(model, device=device, file=path.name)
        kind = session.spec.kind
        if kind in given:
            raise UsageError(
                f"{given[kind][0].file} and {path.name} are both {kind} models: give one of them"
            )
        given[kind] = session, model
    return given


def _compare(session: Session, golden: models.Golden) -> None:
    try:
        answers = session.run(list(golden.outputs), golden.inputs)
    except ScoreError as error:
        raise ModelRefused(f"{error}: this model cannot be used") from None
    for name, answer in zip(golden.outputs, answers, strict=True):
        wanted = golden.outputs[name]
        if answer.shape != wanted.shape or not np.allclose(
            answer, wanted, rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE
        ):
            raise ModelRefused(
                f"{session.file} does not give its golden answer '{name}' on this machine: "
                "reinstall demeanor and ONNX Runtime"
            )


def _loaded(
    sessions: Mapping[Kind, Session], digests: Sequence[bytes], device: Device
) -> LoadedModel:
    judges = (sessions[kind].spec.version for kind in ("face-expression", "voice-emotion"))
    return LoadedModel(
        id=NAME,
        version="+".join(dict.fromkeys(judges)),
        digest="sha256:" + hashlib.sha256(b"".join(digests)).hexdigest(),
        providers=[device.upper()],
    )


def _known(
    cache: SessionCache[Value], wanted: Mapping[Place, object]
) -> tuple[dict[Place, Value | None], list[Place]]:
    found: dict[Place, Value | None] = {}
    for place in wanted:
        kept = cache.get(*place)
        if kept is not None:
            found[place] = kept
    return found, [place for place in wanted if place not in found]


def _remember(
    cache: SessionCache[Value], places: Sequence[Place], readings: Sequence[Value | None]
) -> dict[Place, Value | None]:
    for place, reading in zip(places, readings, strict=True):
        if reading is not None:
            cache.put(*place, reading)
    return dict(zip(places, readings, strict=True))


def _sound(window: Window) -> bool:
    """Whether the arrays have the shapes and types that :class:`Window` promises."""
    audio = window.audio
    heard = audio is None or (
        audio.shape == (LEAD_TICKS + WINDOW_TICKS,)
        and audio.dtype == np.int16
        and len(window.audio_coverage) == WINDOW_SLOTS
    )
    return heard and all(_sound_frame(frame.rgb) for frame in window.frames or ())


def _sound_frame(rgb: NDArray[np.uint8]) -> bool:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        return False
    height, width = rgb.shape[:2]
    return bool(0 < height <= MAX_FRAME_PX and 0 < width <= MAX_FRAME_PX)


def _slot_pcm(audio: NDArray[np.int16], slot: int) -> NDArray[np.int16]:
    return audio[slot * SLOT_TICKS : slot * SLOT_TICKS + SLOT_PCM]


def _slots(job: Job, heard: Mapping[Place, Heard | None]) -> list[Heard] | None:
    """The window's slots, oldest first; ``None`` when one could not be measured."""
    first = job.window.index
    slots = [heard[job.session_id, first + slot] for slot in range(WINDOW_SLOTS)]
    measured = [slot for slot in slots if slot is not None]
    return measured if len(measured) == WINDOW_SLOTS else None


def _seen(job: Job, seen: Mapping[Place, Seen | None]) -> list[Seen] | None:
    frames = job.window.frames or ()
    readings = [seen[job.session_id, frame.at] for frame in frames]
    measured = [reading for reading in readings if reading is not None]
    return measured if len(measured) == len(frames) else None


def _outcome(
    job: Job,
    seen: Mapping[Place, Seen | None],
    heard: Mapping[Place, Heard | None],
    voices: Mapping[Place, Floats | None],
) -> Outcome:
    window, place = job.window, (job.session_id, job.window.index)
    if not _sound(window) or voices.get(place, ...) is None:
        return _failed(job)
    frames = _seen(job, seen)
    slots = None if window.audio is None else _slots(job, heard)
    if frames is None or (slots is None) != (window.audio is None):
        return _failed(job)
    return Outcome(
        session_id=job.session_id,
        index=window.index,
        frames=None if window.frames is None else _frame_readings(window.frames, frames),
        slots=None if slots is None else _slot_readings(window, slots),
        voice=voices.get(place),
    )


def _failed(job: Job) -> Outcome:
    return Outcome(job.session_id, job.window.index, None, None, None, failure="bad_output")


def _frame_readings(
    frames: Sequence[VideoFrame], readings: Sequence[Seen]
) -> tuple[FrameReading, ...]:
    """The first frame of a window has no motion: its predecessor belongs to other windows."""
    planes = [None, *(reading.luma for reading in readings)]
    return tuple(
        FrameReading(
            at=frame.at,
            luma=reading.brightness,
            sharpness=reading.sharpness,
            motion=None if before is None else quality.motion(before, reading.luma),
            faces=reading.faces,
        )
        for frame, reading, before in zip(frames, readings, planes, strict=False)
    )


def _slot_readings(window: Window, slots: Sequence[Heard]) -> tuple[SlotReading, ...]:
    return tuple(
        SlotReading(
            index=window.index + number,
            coverage=coverage,
            speech=float(slot.speech.mean()),
            loudness_dbfs=slot.loudness_dbfs,
            pitch_hz=slot.pitch_hz,
            syllable_rate_hz=slot.syllable_rate_hz,
        )
        for number, (slot, coverage) in enumerate(zip(slots, window.audio_coverage, strict=True))
    )
