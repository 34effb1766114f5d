"""Golden arrays of the reference code: what a correct model answers, and how to ask it.

The layout of ``golden.npz`` is that of ``shared/goldens/r1omni-tiny``: pixels, mel, prompt ids with
placeholders, and the expected outputs of every part.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError

Array = NDArray[Any]
VIDEO: Final = -201
AUDIO: Final = -202
TOLERANCE: Final = 1e-5
_WANTED: Final = (
    "pixels",
    "mel",
    "input_ids",
    "bert_input_ids",
    "branch_probs",
    "video_tokens",
    "audio_tokens",
    "forced_ids",
    "teacher_forced_logits",
)


class Parts(Protocol):
    """A model as four functions, in torch or in ONNX Runtime."""

    def gate(self, ids: Array) -> Array:
        """``(1, n)`` → ``(1, 3)``."""

    def vision(self, pixels: Array, probs: Array) -> Array:
        """``(frames, 3, h, w)`` in [-1, 1], ``(3,)`` → ``(tokens, hidden)``."""

    def audio(self, mel: Array) -> Array:
        """``(1, mels, frames)`` → ``(1, tokens, hidden)``."""

    def embed(self, ids: Array) -> Array:
        """``(n,)`` → ``(n, hidden)``."""

    def decode(self, rows: Array, chosen: Array, past: list[Array]) -> tuple[Array, list[Array]]:
        """``(1, new, hidden)``, ``(chosen,)``, cache → ``(1, chosen, vocab)``, grown cache."""

    def empty_cache(self) -> list[Array]:
        """Return a cache without positions."""


@dataclass(frozen=True, slots=True)
class Golden:
    """The arrays of one golden file."""

    arrays: dict[str, Array]

    @classmethod
    def read(cls, path: Path) -> "Golden":
        """Read a file. Raises :class:`UsageError` when it is not one."""
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as golden arrays: {error}") from None
        lacking = [name for name in _WANTED if name not in arrays]
        if lacking:
            raise UsageError(f"{path} lacks {', '.join(lacking)}: is it a golden.npz?")
        return cls(arrays)


def answers(parts: Parts, golden: Golden) -> Iterator[tuple[str, Array, Array]]:
    """Yield name, expected and given array for everything the golden file knows."""
    held = golden.arrays
    probs = parts.gate(held["bert_input_ids"])
    yield "branch_probs", held["branch_probs"], probs
    pixels = (held["pixels"].astype(np.float32) / np.float32(127.5)) - np.float32(1.0)
    video = parts.vision(pixels, probs[0])
    yield "video_tokens", held["video_tokens"], video
    if "video_tokens_first4" in held:
        four = parts.vision(pixels[:4], probs[0])
        yield "video_tokens_first4", held["video_tokens_first4"], four
    sound = parts.audio(held["mel"].astype(np.float32))
    yield "audio_tokens", held["audio_tokens"], sound
    prompt = spliced(parts, held["input_ids"][0], video, sound[0])
    forced = parts.embed(held["forced_ids"])
    wanted = held["teacher_forced_logits"]
    yield "teacher_forced_logits (one pass)", wanted, one_pass(parts, prompt, forced)
    yield "teacher_forced_logits (cached)", wanted, cached(parts, prompt, forced)


def spliced(parts: Parts, ids: Array, video: Array, sound: Array) -> Array:
    """Return ``(length, hidden)``: text rows with the two placeholders replaced by theirs."""
    rows = []
    for number in ids.tolist():
        if number == VIDEO:
            rows.append(video)
        elif number == AUDIO:
            rows.append(sound)
        else:
            rows.append(parts.embed(np.array([number])))
    return np.concatenate(rows)


def one_pass(parts: Parts, prompt: Array, forced: Array) -> Array:
    """Return the logits after the prompt and after each forced id, without a cache."""
    rows = np.concatenate([prompt, forced])[None]
    chosen = np.arange(len(prompt) - 1, rows.shape[1])
    return parts.decode(rows, chosen, parts.empty_cache())[0]


def cached(parts: Parts, prompt: Array, forced: Array) -> Array:
    """The same by one prefill and single steps."""
    logits, past = parts.decode(prompt[None], np.array([len(prompt) - 1]), parts.empty_cache())
    steps = [logits]
    for row in forced:
        logits, past = parts.decode(row[None, None], np.array([0]), past)
        steps.append(logits)
    return np.concatenate(steps, 1)
