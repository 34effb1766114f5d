"""Write the trained voice model as two ONNX files and prove that they compute what torch computes.

``voice-features.onnx`` turns new sound with its left context into frame features, which a stream
computes once; ``voice-emotion.onnx`` turns the features of a window into probabilities. Both carry
their contract in their metadata.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from exporters import torchscript
from exporters.voice.frontend import CONTEXT, FEATURES, HOP, RATE_HZ, FrontEnd
from exporters.voice.model import Scorer, VoiceNet
from exporters.voice.pack import narrowed, packed
from pipeline.errors import ParityError
from pipeline.session import Session
from pipeline.spec import LABELS, ModelSpec, Tensor

FEATURES_FILE = "voice-features.onnx"
EMOTION_FILE = "voice-emotion.onnx"
VERSION = "1.0.0"
TOLERANCE = 1e-5
LICENCE = "CC-BY-NC-SA-4.0"
"""Inherited from the training data."""
SOURCE = "exporters/voice, trained on RAVDESS (English) and nEMO (Polish) speech"


def features_spec() -> ModelSpec:
    """Contract of the first graph."""
    return ModelSpec(
        name="demeanor-tiny/voice-features",
        version=VERSION,
        kind="voice-features",
        inputs=(Tensor("pcm", "float32", ("batch", "samples")),),
        outputs=(Tensor("features", "float32", ("batch", "frames", FEATURES)),),
        licence="Apache-2.0",
        source="exporters/voice: log-mel and low bands as fixed matrices, nothing learnt",
        sample_rate_hz=RATE_HZ,
        hop_ms=HOP * 1000 // RATE_HZ,
        frames_per_s=RATE_HZ // HOP,
        context_samples=CONTEXT,
    )


def emotion_spec(temperature: float, *, validation: str | None, source: str) -> ModelSpec:
    """Contract of the second graph."""
    return ModelSpec(
        name="demeanor-tiny/voice-emotion",
        version=VERSION,
        kind="voice-emotion",
        inputs=(
            Tensor("features", "float32", ("batch", "frames", FEATURES)),
            Tensor("mask", "float32", ("batch", "frames")),
        ),
        outputs=(Tensor("probabilities", "float32", ("batch", len(LABELS))),),
        licence=LICENCE,
        source=source,
        labels=LABELS,
        sample_rate_hz=RATE_HZ,
        window_ms=2000,
        frames_per_s=RATE_HZ // HOP,
        temperature=temperature,
        validation=validation,
    )


def export(
    nets: Sequence[VoiceNet],
    out: Path,
    *,
    temperature: float,
    offset: Sequence[float] = (),
    validation: str | None = None,
    source: str = SOURCE,
) -> tuple[Path, Path]:
    """Write both files into ``out`` and return their paths.

    The networks vote, and are packed first (:mod:`exporters.voice.pack`).
    Raises :class:`ParityError` before anything is written when the graphs, run in slots by ONNX
    Runtime, differ from torch on whole sound by more than :data:`TOLERANCE`.
    """
    front = FrontEnd().eval()
    scorer = packed(Scorer(nets, temperature, offset))
    pcm = torch.zeros(2, CONTEXT + 24 * HOP)
    features = torch.zeros(2, 24, FEATURES)
    first = narrowed(torchscript.export(front, (pcm,), features_spec()))
    spec = emotion_spec(temperature, validation=validation, source=source)
    second = narrowed(torchscript.export(scorer, (features, torch.ones(2, 24)), spec))
    verify(first, second, front, scorer)
    out.mkdir(parents=True, exist_ok=True)
    paths = out / FEATURES_FILE, out / EMOTION_FILE
    for path, model in zip(paths, (first, second), strict=True):
        path.write_bytes(model)
    return paths


def verify(first: bytes, second: bytes, front: FrontEnd, scorer: Scorer) -> float:
    """Return the largest difference between slots in ONNX Runtime and the whole in torch.

    The sound is made up: harmonics that glide and swell over noise, of several levels and lengths.
    Raises :class:`ParityError` above :data:`TOLERANCE`.
    """
    features = Session(first, file=FEATURES_FILE)
    emotion = Session(second, file=EMOTION_FILE)
    worst = 0.0
    for seed, frames in enumerate((50, 200, 387)):
        pcm = _sound(frames, seed)
        rows = np.concatenate([_run(features, part) for part in _slots(pcm)], axis=1)
        mask = np.ones((1, frames), np.float32)
        (answer,) = emotion.run(None, {"features": rows, "mask": mask})
        with torch.inference_mode():
            wanted = scorer(front(torch.from_numpy(pcm)), torch.from_numpy(mask)).numpy()
        worst = max(worst, float(np.abs(answer - wanted).max()))
    if worst > TOLERANCE:
        raise ParityError("probabilities", worst, TOLERANCE)
    return worst


def _run(session: Session, pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    (rows,) = session.run(None, {"pcm": pcm})
    return rows


def _slots(pcm: NDArray[np.float32], hops: int = 50) -> list[NDArray[np.float32]]:
    """Cut f32[1, CONTEXT + n * HOP] as a stream does: each part with its own left context."""
    ends = range(CONTEXT, pcm.shape[1], hops * HOP)
    return [pcm[:, end - CONTEXT : end + hops * HOP] for end in ends]


def _sound(frames: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    time_s = np.arange(CONTEXT + frames * HOP) / RATE_HZ
    pitch_hz = 150.0 + 60.0 * seed + 40.0 * np.sin(2.0 * np.pi * 1.3 * time_s)
    phase = 2.0 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    swell = 0.5 - 0.5 * np.cos(2.0 * np.pi * 2.1 * time_s)
    pcm = 0.3 * voice * swell + 0.01 * rng.standard_normal(time_s.size)
    return (pcm * 0.1**seed).astype(np.float32)[None]
