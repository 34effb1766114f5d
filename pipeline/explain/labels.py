"""Emotion words as the explain model writes them, and their token paths behind ``<answer>``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.explain.prompt import Tokenizer

DFEW: Final = ("happy", "surprise", "neutral", "angry", "disgust", "sad", "fear")
MAFW: Final = (*DFEW, "contemptuous", "disappointed", "helpless", "anxious")
RAVDESS: Final = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
SETS: Final[Mapping[str, tuple[str, ...]]] = {"dfew": DFEW, "mafw": MAFW, "ravdess": RAVDESS}
OTHER: Final = "other"
OPEN: Final = "<answer>"
CLOSE: Final = "</answer>"
_SAME: Final = {
    "anger": "angry",
    "mad": "angry",
    "joy": "happy",
    "joyful": "happy",
    "happiness": "happy",
    "sadness": "sad",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "surprised": "surprise",
    "disgusted": "disgust",
    "contempt": "contemptuous",
    "anxiety": "anxious",
    "anxiousness": "anxious",
    "disappointment": "disappointed",
    "helplessness": "helpless",
}


def normalised(word: str, labels: Sequence[str]) -> str:
    """Return which of ``labels`` a written word means, or :data:`OTHER`."""
    plain = word.strip().strip(".,;:!?\"'").lower()
    plain = _SAME.get(plain, plain)
    return plain if plain in labels else OTHER


@dataclass(frozen=True, slots=True)
class Trie:
    """The token paths of all labels behind what they share."""

    labels: tuple[str, ...]
    shared: tuple[int, ...]
    """Ids that every answer begins with; they belong to the prefill."""
    paths: tuple[tuple[int, ...], ...]
    """One path a label, the same order; each ends with the first piece of ``</answer>``."""

    @property
    def longest(self) -> int:
        """Length of the longest path."""
        return max(map(len, self.paths))

    def allowed(self, path: tuple[int, ...]) -> dict[int, str | None]:
        """Return the ids that may follow ``path``, with the label that is complete then, if any."""
        found: dict[int, str | None] = {}
        for label, whole in zip(self.labels, self.paths, strict=True):
            if len(whole) > len(path) and whole[: len(path)] == path:
                found[whole[len(path)]] = label if len(whole) == len(path) + 1 else None
        return found


def trie(tokenizer: Tokenizer, labels: Sequence[str], prefix: str = "") -> Trie:
    """Tokenise ``{prefix}<answer>{label}</answer>`` whole, for every label.

    Whole, because pieces fuse with their neighbours: the ids of ``<answer>sad`` are not those of
    ``<answer>`` and ``sad``. Raises :class:`ValueError` when two labels have the same path.
    """
    whole = [_path(tokenizer, prefix, label) for label in labels]
    shared = _common(whole)
    paths = tuple(tuple(path[len(shared) :]) for path in whole)
    if len(set(paths)) != len(labels) or not all(paths):
        raise ValueError("two labels share one path of tokens: this tokenizer cannot tell them")
    return Trie(tuple(labels), shared, paths)


def _path(tokenizer: Tokenizer, prefix: str, label: str) -> list[int]:
    text = f"{prefix}{OPEN}{label}{CLOSE}"
    close = len(prefix) + len(OPEN) + len(label)
    ids = []
    for token in tokenizer.encode(text):
        ids.append(token.id)
        if token.end > close:
            break
    return ids


def _common(paths: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the ids that all paths begin with."""
    shared = []
    for ids in zip(*paths, strict=False):
        if len(set(ids)) > 1:
            break
        shared.append(ids[0])
    return tuple(shared)
