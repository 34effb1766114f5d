"""Labelled clips to arrays of frame features, computed once and kept in a cache folder.

Each clip is stored at several speeds: a changed speed changes pitch, formants and tempo together,
which is the cheapest way to hear more speakers than there are.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.media import read_audio
from exporters.voice.frontend import CONTEXT, FEATURES, HOP, FrontEnd
from exporters.voice.layouts import Clip
from pipeline.spec import LABELS

SPEEDS = (1.0, 0.84, 0.92, 1.09, 1.19)
"""The first is the sound as it is."""
SPEED_SHARES = (0.4, 0.1, 0.2, 0.2, 0.1)
"""How often training draws each speed."""
_RECIPE = "1"
"""Part of the cache key: raise it when the features change."""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """All clips with their features."""

    clips: tuple[Clip, ...]
    labels: NDArray[np.int64]
    """Index into LABELS, one per clip."""
    features: tuple[tuple[NDArray[np.float16], ...], ...]
    """``features[speed][clip]``, shape ``(frames, FEATURES)``."""


def load(clips: Sequence[Clip], cache: Path, *, workers: int = 2) -> Corpus:
    """Return the features of ``clips``, computing those that ``cache`` lacks."""
    key = hashlib.sha256(_RECIPE.encode())
    for clip in clips:
        key.update(f"{clip.path.resolve()} {clip.path.stat().st_size}\n".encode())
    folder = cache / key.hexdigest()[:16]
    if not (folder / "offsets.npy").exists():
        _fill(clips, folder, workers)
    offsets = np.load(folder / "offsets.npy")
    features = []
    for number, starts in enumerate(offsets):
        rows = np.load(folder / f"speed{number}.npy")
        features.append(tuple(rows[a:b] for a, b in pairwise(starts)))
    labels = np.array([LABELS.index(clip.take.label) for clip in clips], np.int64)
    return Corpus(tuple(clips), labels, tuple(features))


def change_speed(pcm: NDArray[np.float32], speed: float) -> NDArray[np.float32]:
    """Play ``pcm`` ``speed`` times as fast (resampling in the Fourier domain)."""
    if speed == 1.0:
        return pcm
    size = round(pcm.size / speed)
    spectrum = np.fft.rfft(pcm)
    return (np.fft.irfft(spectrum[: size // 2 + 1], size) * (size / pcm.size)).astype(np.float32)


def clip_features(front: FrontEnd, pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the features of a whole clip, silence before it, shape ``(frames, FEATURES)``."""
    frames = max(1, pcm.size // HOP)
    padded = np.zeros(CONTEXT + frames * HOP, np.float32)
    kept = pcm[: frames * HOP]
    padded[CONTEXT : CONTEXT + kept.size] = kept
    with torch.inference_mode():
        out: NDArray[np.float32] = front(torch.from_numpy(padded)[None])[0].numpy()
    return out


def _fill(clips: Sequence[Clip], folder: Path, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [clip.path for clip in clips]
    with get_context("spawn").Pool(workers, initializer=_start) as pool:
        results = pool.map(_variants, paths, chunksize=32)
    offsets = []
    for number in range(len(SPEEDS)):
        rows = [result[number] for result in results]
        offsets.append(np.cumsum([0, *(len(row) for row in rows)]))
        np.save(folder / f"speed{number}.npy", np.concatenate(rows).reshape(-1, FEATURES))
    np.save(folder / "offsets.npy", np.stack(offsets))


_front: FrontEnd


def _start() -> None:
    global _front  # noqa: PLW0603  one front end for each worker process
    torch.set_num_threads(1)
    _front = FrontEnd()


def _variants(path: Path) -> list[NDArray[np.float16]]:
    pcm = read_audio(path)
    return [clip_features(_front, change_speed(pcm, s)).astype(np.float16) for s in SPEEDS]
