"""Two uses of one reading: how likely each label is, and an explanation in words.

Both start from the same cache. Numbers are log-probabilities of token paths; text is generated
greedily with a cap on thinking and a forced, constrained answer. Generated text is no evidence.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.explain.engine import Cache, Engine
from pipeline.explain.labels import OPEN, OTHER, Trie, normalised
from pipeline.explain.prompt import Tokenizer

Array = NDArray[Any]
THINKING: Final = 96
"""Tokens of thinking before the answer is forced."""
ANSWER: Final = 12
"""Tokens of an answer in free words."""
THINK_CLOSE: Final = "</think>"
FORCED: Final = f"{THINK_CLOSE}\n"
"""Prefix of the answer's trie: what is written for the model once its thinking is over."""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """How likely each label is by the model's own words; not calibrated."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    margin: float
    """Best minus second best."""
    entropy: float
    """In nats; 0 is certain."""
    prefix: str
    """What was written for the model before ``<answer>``."""
    prior_removed: bool

    @property
    def top(self) -> str:
        """The likeliest label."""
        return self.labels[int(np.argmax(self.probabilities))]


@dataclass(frozen=True, slots=True)
class Explained:
    """What the model wrote."""

    thinking: str
    label: str
    """One of the labels, or ``other``."""
    raw: str
    """The answer as written."""
    truncated: bool
    """Thinking was cut off at the cap."""
    tokens: int


def paths(engine: Engine, first: Array, cache: Cache, trie: Trie) -> NDArray[np.float64]:
    """Return ``(labels,)``: the log-probability of each label's token path.

    ``first`` are the logits after the prompt and ``trie.shared``; one batched continuation reads
    the rest. ``</`` closes every path, so lengths need no correction.
    """
    scores = np.array([_logs(first)[path[0]] for path in trie.paths])
    steps = trie.longest - 1
    if steps:
        rows = np.stack([engine.embed(_padded(path[:-1], steps)) for path in trie.paths])
        logits = engine.decoder.branch(cache, rows, [len(path) - 1 for path in trie.paths])
        for place, path in enumerate(trie.paths):
            for step, token in enumerate(path[1:]):
                scores[place] += _logs(logits[place, step])[token]
    return scores


def scored(
    raw: NDArray[np.float64], trie: Trie, prefix: str, prior: NDArray[np.float64] | None = None
) -> LabelScores:
    """Turn path scores into probabilities, the prior of an empty window taken away."""
    left = raw if prior is None else raw - prior
    shares = np.exp(left - left.max())
    shares /= shares.sum()
    best = np.sort(shares)[::-1]
    entropy = float(-(shares * np.log(np.maximum(shares, 1e-300))).sum())
    margin = float(best[0] - best[1]) if len(best) > 1 else 1.0
    return LabelScores(
        trie.labels, tuple(map(float, shares)), margin, entropy, prefix, prior is not None
    )


class Explaining:
    """One explanation in the making; :meth:`step` reads one token, so a newer one may cut in."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        answer: Trie,
        *,
        thinking: int = THINKING,
    ) -> None:
        """``answer`` is the trie of the labels with the prefix :data:`FORCED`."""
        self._engine = engine
        self._tokenizer = tokenizer
        self._trie = answer
        self._cap = thinking
        self._ids: list[int] = []

    def run(
        self, logits: Array, cache: Cache, wanted: Callable[[], bool] = lambda: True
    ) -> Explained | None:
        """Write until the answer stands; None as soon as ``wanted`` says no."""
        truncated = True
        for _ in range(self._cap):
            if not wanted():
                return None
            token = int(np.argmax(logits))
            if token == self._engine.manifest.decoder.eos:
                truncated = False
                break
            self._ids.append(token)
            logits, cache = self._engine.write(cache, [token])
            if THINK_CLOSE in self._text():
                truncated = False
                break
        thinking = _thought(self._text())
        return self._answer(thinking, cache, truncated=truncated, wanted=wanted)

    def _answer(
        self, thinking: str, cache: Cache, *, truncated: bool, wanted: Callable[[], bool]
    ) -> Explained | None:
        """Force the tags, then let the model choose among the labels and its own words."""
        forced = list(self._trie.shared)
        if not truncated and THINK_CLOSE in self._text():
            forced = _without_close(self._tokenizer, forced)
        logits, cache = self._engine.write(cache, forced)
        written: list[int] = []
        path: tuple[int, ...] = ()
        for _ in range(ANSWER):
            if not wanted():
                return None
            token = int(np.argmax(logits))
            label = self._trie.allowed(path).get(token)
            written.append(token)
            if label:
                return self._done(thinking, label, label, truncated=truncated, extra=len(written))
            path = (*path, token)
            text = self._tokenizer.decode([*forced, *written]).rpartition(OPEN)[2]
            if "<" in text or token == self._engine.manifest.decoder.eos:
                raw = text.partition("<")[0]
                known = normalised(raw, self._trie.labels)
                return self._done(thinking, known, raw, truncated=truncated, extra=len(written))
            logits, cache = self._engine.write(cache, [token])
        raw = self._tokenizer.decode([*forced, *written]).rpartition(OPEN)[2]
        return self._done(thinking, OTHER, raw, truncated=True, extra=len(written))

    def _done(
        self, thinking: str, label: str, raw: str, *, truncated: bool, extra: int
    ) -> Explained:
        return Explained(thinking, label, raw.strip(), truncated, len(self._ids) + extra)

    def _text(self) -> str:
        return self._tokenizer.decode(self._ids)


def _thought(text: str) -> str:
    """Return what stands between the tags."""
    return text.partition(THINK_CLOSE)[0].replace("<think>", "").strip()


def _without_close(tokenizer: Tokenizer, forced: list[int]) -> list[int]:
    """The model closed its thinking by itself: force only what comes after."""
    text = tokenizer.decode(forced).partition(THINK_CLOSE)[2] or f"\n{OPEN}"
    return [token.id for token in tokenizer.encode(text)]


def _padded(ids: Sequence[int], length: int) -> list[int]:
    """Fill up with a token that is never read."""
    return [*ids, *([0] * (length - len(ids)))]


def _logs(logits: Array) -> NDArray[np.float64]:
    """Return log-probabilities of one row of logits."""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    answer: NDArray[np.float64] = wide - np.log(np.exp(wide).sum())
    return answer
