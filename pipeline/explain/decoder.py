"""The plain decoder graph with its cache in numpy arrays: works everywhere, the ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.explain import manifest
from pipeline.explain.engine import Session

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Keys and values of each layer in turn, ``(1, kv_heads, length, head_dim)`` each."""

    arrays: tuple[Array, ...]

    @property
    def length(self) -> int:
        """Positions held."""
        return int(self.arrays[0].shape[2])

    @property
    def whole(self) -> bool:
        """Always: nobody else writes into it."""
        return True

    def cut(self, length: int) -> "Held":
        """Return the first ``length`` positions, without copying."""
        return Held(tuple(array[:, :, :length] for array in self.arrays))


class PlainDecoder:
    """``decoder.onnx`` by whole arrays in and out."""

    def __init__(self, session: Session, shape: manifest.Decoder, dtype: str) -> None:
        self._session = session
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._names = cache_names(shape.layers)

    def empty(self) -> Held:
        """Return a cache without positions."""
        shape = (1, self._shape.kv_heads, 0, self._shape.head_dim)
        return Held((np.zeros(shape, self._dtype),) * len(self._names))

    def step(self, cache: Held, rows: Array, chosen: Array) -> tuple[Array, Held]:
        """Read ``(new, hidden)``; return ``(chosen, vocab)`` and the grown cache."""
        logits, *grown = self._run(cache.arrays, rows[None], chosen, cache.length)
        return logits[0], Held(tuple(grown))

    def branch(self, cache: Held, rows: Array, lengths: Sequence[int]) -> Array:
        """Read ``(branches, new, hidden)`` behind one cache; return ``(branches, new, vocab)``.

        All branches at once; padding at the end of one is never seen by what stands before it.
        """
        del lengths
        count, new, _ = rows.shape
        past = [np.repeat(array, count, 0) for array in cache.arrays]
        return self._run(past, rows, np.arange(new), cache.length)[0]

    def _run(self, past: Sequence[Array], rows: Array, chosen: Array, length: int) -> list[Array]:
        count, new, _ = rows.shape
        positions = np.arange(length, length + new)
        feeds = {
            "inputs_embeds": np.ascontiguousarray(rows, self._dtype),
            "attention_mask": np.ones((count, length + new), np.int64),
            "position_ids": np.broadcast_to(positions, (count, new)).copy(),
            "logits_index": np.asarray(chosen, np.int64),
            **{
                name: np.ascontiguousarray(array)
                for name, array in zip(self._names, past, strict=True)
            },
        }
        return self._session.run(None, feeds)


def cache_names(layers: int) -> tuple[str, ...]:
    """Return the names of the decoder's cache inputs."""
    return tuple(
        f"past_key_values.{layer}.{part}" for layer in range(layers) for part in ("key", "value")
    )


class BoundSession(Session, Protocol):
    """A session that can run on memory it keeps."""

    def buffer(self, shape: Sequence[int], dtype: str) -> Any:
        """Return zeroed memory where the model runs."""

    def run_bound(self, feeds: dict[str, Array], bound: dict[str, Any], wanted: str) -> Array:
        """Run in place; return one output."""


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the one cache; it is lost once something else was read before it."""

    length: int
    written: int
    """Which writing put the newest position there."""
    _log: "list[tuple[int, int]]"

    def cut(self, length: int) -> "Place":
        """Return the first ``length`` positions."""
        self.check()
        return Place(length, self.written, self._log)

    @property
    def whole(self) -> bool:
        """Whether nothing else was written where it lies."""
        return not any(n > self.written and start < self.length for n, start in self._log)

    def check(self) -> None:
        """Raise :class:`RuntimeError` when later reading has overwritten this."""
        if not self.whole:
            raise RuntimeError("this cache was overwritten: read the question again")


class StaticDecoder:
    """``decoder_static.onnx``: one cache of fixed capacity, grown in place by bound memory.

    One question at a time: reading from an earlier place overwrites what came after it. That is
    how the start of a prompt, the scores of labels and the explanation follow each other.
    """

    def __init__(
        self, session: BoundSession, shape: manifest.Decoder, dtype: str, capacity: int
    ) -> None:
        self.capacity = capacity
        self._session = session
        self._dtype = np.dtype(dtype)
        size = (1, shape.kv_heads, capacity, shape.head_dim)
        self._bound: dict[str, Any] = {}
        for name in cache_names(shape.layers):
            buffer = session.buffer(size, dtype)
            self._bound[name] = buffer
            self._bound[name.replace("past_key_values", "present")] = buffer
        self._log: list[tuple[int, int]] = []
        """Number and first position of every writing that a living place may still ask about."""
        self._count = 0

    def empty(self) -> Place:
        """Return a cache without positions."""
        return Place(0, self._count, self._log)

    def step(self, cache: Place, rows: Array, chosen: Array) -> tuple[Array, Place]:
        """Read ``(new, hidden)``; return ``(chosen, vocab)`` and the grown cache.

        Raises :class:`ValueError` when the capacity does not suffice.
        """
        cache.check()
        logits = self._run(cache.length, rows, chosen)
        self._note(cache.length)
        return logits, Place(cache.length + len(rows), self._count, self._log)

    def branch(self, cache: Place, rows: Array, lengths: Sequence[int]) -> Array:
        """Read each branch behind ``cache`` in turn, without its padding; ``cache`` stays."""
        cache.check()
        count, new, _ = rows.shape
        answers: Array | None = None
        for place, length in enumerate(lengths):
            if length:
                logits = self._run(cache.length, rows[place, :length], np.arange(length))
                if answers is None:
                    answers = np.zeros((count, new, logits.shape[-1]), logits.dtype)
                answers[place, :length] = logits
        self._note(cache.length)
        return np.zeros((count, new, 0), np.float32) if answers is None else answers

    def _note(self, start: int) -> None:
        """A writing hides every earlier one that began at or behind its start."""
        self._count += 1
        self._log[:] = [entry for entry in self._log if entry[1] < start]
        self._log.append((self._count, start))

    def _run(self, length: int, rows: Array, chosen: Array) -> Array:
        total = length + len(rows)
        if total > self.capacity:
            raise ValueError(f"{total} positions do not fit a cache of {self.capacity}")
        feeds = {
            "inputs_embeds": np.ascontiguousarray(rows[None], self._dtype),
            "seqlens_k": np.array([total - 1], np.int32),
            "total_sequence_length": np.array(total, np.int32),
            "logits_index": np.asarray(chosen, np.int64),
        }
        logits: Array = self._session.run_bound(feeds, self._bound, "logits")[0]
        return logits
