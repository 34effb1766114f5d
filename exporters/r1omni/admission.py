"""The static decoder is kept only when it says what the plain one says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from exporters.r1omni.golden import TOLERANCE
from exporters.r1omni.static import STATIC
from exporters.verify import Comparison, compare
from pipeline.explain import manifest
from pipeline.explain.decoder import PlainDecoder, StaticDecoder
from pipeline.explain.manifest import Precision
from pipeline.session import Array, Session

LENGTH: Final = 24
STEPS: Final = 3
CHUNK: Final = 4
FP16_GAP: Final = 1e-3
"""fp16 is held by direction: 1 - cosine."""


def proofs(folder: Path, shape: manifest.Decoder, precision: Precision) -> list[Comparison]:
    """Hold the static graph against the plain one: a prefill, single steps, a chunk, a branch."""
    dtype = "float16" if precision == "fp16" else "float32"
    plain = PlainDecoder(_open(folder, "decoder"), shape, dtype)
    fixed = StaticDecoder(_open(folder, STATIC), shape, dtype, 2 * LENGTH)
    noise = np.random.default_rng(0)
    rows = noise.standard_normal((LENGTH + STEPS + CHUNK, shape.hidden)).astype(np.float32) / 8
    wanted = _walk(plain, rows)
    return list(_held(wanted, _walk(fixed, rows), precision))


def _walk(decoder: PlainDecoder | StaticDecoder, rows: Array) -> dict[str, Array]:
    """Read ``rows`` in every way that the runtime does."""
    logits, cache = decoder.step(
        decoder.empty(),  # type: ignore[arg-type]  # each decoder gets its own cache back
        rows[:LENGTH],
        np.array([0, LENGTH - 1]),
    )
    answers = {"prefill": logits}
    steps = []
    for place in range(LENGTH, LENGTH + STEPS):
        logits, cache = decoder.step(cache, rows[place : place + 1], np.array([0]))  # type: ignore[arg-type]  # as above
        steps.append(logits)
    answers["steps"] = np.concatenate(steps)
    branches = np.stack([rows[-CHUNK:], rows[:CHUNK]])
    answers["branches"] = decoder.branch(cache, branches, [CHUNK, CHUNK])  # type: ignore[arg-type]  # as above
    answers["chunk"], _ = decoder.step(cache, rows[-CHUNK:], np.arange(CHUNK))  # type: ignore[arg-type]  # as above
    return answers


def _held(
    wanted: dict[str, Array], got: dict[str, Array], precision: Precision
) -> Iterator[Comparison]:
    for name, array in wanted.items():
        if precision == "fp32":
            yield compare(f"{STATIC}  {name}", array, got[name], TOLERANCE)
        else:
            gap = 1.0 - cosine(array, got[name])
            yield Comparison(f"{STATIC}  {name} (1 - cosine)", gap, FP16_GAP)


def cosine(a: Array, b: Array) -> float:
    """Return the cosine of two arrays taken as vectors; -1 when the shapes differ."""
    if a.shape != b.shape:
        return -1.0
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size and np.isfinite(size) else -1.0


def _open(folder: Path, name: str) -> Session:
    file = f"{name}.onnx"
    return Session((folder / file).read_bytes(), file=file, threads=2, weights=folder)
