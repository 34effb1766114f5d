"""The graphs of one exported model as plain calls; what can be reused is kept and counted.

Sessions are handed in. The cache of keys and values stays where the decoder keeps it
(:class:`Decoder`); only labels, probabilities and text leave this package.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.explain.manifest import Manifest
from pipeline.explain.prompt import Prompt

Array = NDArray[Any]
FRAME_PAIRS: Final = 256
"""Token rows of frame pairs that are kept: a few streams' worth."""
PROMPTS: Final = 8


class Session(Protocol):
    """One graph: :class:`pipeline.session.Session` and anything like it."""

    def run(self, outputs: Sequence[str] | None, feeds: dict[str, Array]) -> list[Array]:
        """Return the named outputs, all for None."""


class Cache(Protocol):
    """Keys and values of everything read so far; it never changes, steps return another."""

    @property
    def length(self) -> int:
        """Positions held."""

    @property
    def whole(self) -> bool:
        """Whether it can still be read from."""

    def cut(self, length: int) -> "Cache":
        """Return the first ``length`` positions."""


class Decoder(Protocol):
    """The language model with its cache; a cache goes back to the decoder it came from only."""

    def empty(self) -> Cache:
        """Return a cache without positions."""

    def step(self, cache: Any, rows: Array, chosen: Array) -> tuple[Array, Cache]:
        """Read ``(new, hidden)``; return fp32 ``(chosen, vocab)`` and the grown cache."""

    def branch(self, cache: Any, rows: Array, lengths: Sequence[int]) -> Array:
        """Read ``(branches, new, hidden)`` behind one cache; return ``(branches, new, vocab)``.

        Rows of a branch never see those of another, and nothing is kept. ``lengths`` tells how many
        rows of each branch count; what is answered for the others means nothing.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture for the model and what names it: equal names mean equal pixels."""

    name: object
    pixels: NDArray[np.float32]
    """``(3, side, side)`` in [-1, 1]."""


@dataclass(slots=True)
class Counts:
    """How often something was reused."""

    frame_pairs: int = 0
    frame_pairs_reused: int = 0
    prefixes_reused: int = 0
    gates_reused: int = 0


@dataclass(slots=True)
class Engine:
    """Pictures, sound and a prompt in; a cache that has read them out."""

    manifest: Manifest
    vision: Session
    audio: Session
    gate: Session
    decoder: Decoder
    embedding: Array
    """``(vocab, hidden)``, may be memory-mapped."""
    counts: Counts = field(default_factory=Counts)
    _pairs: "OrderedDict[tuple[object, ...], Array]" = field(default_factory=OrderedDict)
    _prefixes: "OrderedDict[tuple[int, ...], Cache]" = field(default_factory=OrderedDict)
    _gates: "OrderedDict[tuple[int, ...], Array]" = field(default_factory=OrderedDict)

    def branch_probs(self, ids: Sequence[int]) -> Array:
        """Return ``(3,)``: what the gate makes of an instruction; kept per instruction."""
        key = tuple(ids)
        if key in self._gates:
            self.counts.gates_reused += 1
            return self._gates[key]
        row = np.array([key], np.int64)
        feeds = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "token_type_ids": np.zeros_like(row),
        }
        probs: Array = self.gate.run(None, feeds)[0][0]
        _keep(self._gates, key, probs, PROMPTS)
        return probs

    def see(self, frames: Sequence[Frame], probs: Array) -> Array:
        """Return ``(tokens, hidden)`` of a row of frames; pairs seen before are not seen again.

        Tokens of a frame depend on it and its predecessor only, so a pair's rows are exact
        wherever they are used. The first frame has no predecessor and is a pair of its own.
        """
        weights = probs.tobytes()
        names: list[tuple[object, ...]] = [(weights, None, frames[0].name)]
        names += [(weights, before.name, frame.name) for before, frame in pairwise(frames)]
        found = {place: self._pairs.get(name) for place, name in enumerate(names)}
        self.counts.frame_pairs += len(names)
        self.counts.frame_pairs_reused += sum(rows is not None for rows in found.values())
        for first, last in _runs([place for place, rows in found.items() if rows is None]):
            start = max(0, first - 1)
            rows = self._look(frames[start : last + 1], probs)
            for place in range(first, last + 1):
                found[place] = rows[place - start]
                _keep(self._pairs, names[place], rows[place - start], FRAME_PAIRS)
        return np.concatenate([rows for rows in found.values() if rows is not None])

    def _look(self, frames: Sequence[Frame], probs: Array) -> Array:
        """Return ``(frames, tokens, hidden)``."""
        kind = self.embedding.dtype
        feeds = {
            "pixel_values": np.stack([frame.pixels for frame in frames]).astype(kind),
            "branch_probs": probs.astype(kind),
        }
        tokens: Array = self.vision.run(None, feeds)[0]
        return tokens.reshape(len(frames), -1, tokens.shape[-1])

    def hear(self, mel: NDArray[np.float32]) -> Array:
        """Return ``(tokens, hidden)`` of thirty seconds; nothing of it can be reused."""
        tokens: Array = self.audio.run(None, {"mel": mel.astype(self.embedding.dtype)})[0][0]
        return tokens

    def embed(self, ids: Sequence[int]) -> Array:
        """Return ``(ids, hidden)``."""
        return np.asarray(self.embedding[list(ids)])

    def read(self, prompt: Prompt, video: Array, sound: Array | None) -> tuple[Array, Cache]:
        """Read a whole question; return the next token's logits and the cache.

        What stands before the first picture is read once per prompt.
        """
        logits, cache, _, _ = self.read_on(prompt, video, sound, ())
        return logits, cache

    def read_on(
        self, prompt: Prompt, video: Array, sound: Array | None, ids: Sequence[int]
    ) -> tuple[Array, Cache, Array, Cache]:
        """Read a whole question and ``ids`` behind it, in one go.

        Returns logits and cache after the question as :meth:`read` does, then those after ``ids``:
        the weights are walked through once instead of twice.
        """
        rows: list[Array] = []
        for part in prompt.parts[1:]:
            match part:
                case "video":
                    rows.append(video)
                case "audio":
                    if sound is None:
                        raise ValueError("the prompt has a place for sound, and there is none")
                    rows.append(sound)
                case text:
                    rows.append(self.embed(text))
        asked = sum(map(len, rows))
        whole = np.concatenate([*rows, self.embed(ids)] if ids else rows)
        start = self._prefix(prompt.before_video)
        logits, behind = self.decoder.step(start, whole, np.array([asked - 1, len(whole) - 1]))
        return logits[0], behind.cut(start.length + asked), logits[1], behind

    def write(self, cache: Cache, ids: Sequence[int]) -> tuple[Array, Cache]:
        """Read ``ids`` as if the model had written them; return as :meth:`read` does."""
        logits, cache = self.decoder.step(cache, self.embed(ids), np.array([len(ids) - 1]))
        return logits[0], cache

    def _prefix(self, ids: tuple[int, ...]) -> Cache:
        kept = self._prefixes.get(ids)
        if kept is not None and kept.whole:
            self.counts.prefixes_reused += 1
            return kept
        cache = self.decoder.empty()
        if ids:
            _, cache = self.decoder.step(cache, self.embed(ids), np.array([len(ids) - 1]))
        _keep(self._prefixes, ids, cache, PROMPTS)
        return cache


def _keep(store: "OrderedDict[Any, Any]", key: object, value: object, bound: int) -> None:
    """Remember the newest ``bound`` entries."""
    store[key] = value
    store.move_to_end(key)
    while len(store) > bound:
        store.popitem(last=False)


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Return first and last of each stretch of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1] = (runs[-1][0], place)
        else:
            runs.append((place, place))
    return runs
