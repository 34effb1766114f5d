"""The plain decoder graph with its cache in numpy arrays: works everywhere, the ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

    def branch(self, cache: Held, rows: Array, chosen: Array) -> Array:
        """Read ``(branches, new, hidden)`` behind one cache; return ``(branches, chosen, vocab)``.

        Padding at the end of a branch is never seen by what stands before it.
        """
        count = len(rows)
        past = [np.repeat(array, count, 0) for array in cache.arrays]
        return self._run(past, rows, chosen, cache.length)[0]

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
