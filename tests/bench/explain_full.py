"""The published model's size with random weights: written, exported, proven, timed and weighed.

    python -m tests.bench.explain_full /tmp/somewhere          # needs 16 GiB of RAM, 14 GB of disk
    python -m tests.bench.explain_full /tmp/somewhere --keep

Every tensor of the checkpoint (R1-Omni-0.5B, bf16, towers beside it) is random; one at a time is in
memory while it is written. Then the steps of ``python -m exporters r1omni --verify`` run one after
the other, fp32: each prints how long it took and the most memory that the process held meanwhile.
ONNX Runtime is held against torch by 1e-4 of each array's largest value. Says nothing about trained
weights.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporters.r1omni import checkpoint, export, verify
from tests.bench import checkpoints

NEEDED_GIB = 15.5
DISK_GIB = 14


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print time and peak memory of what is inside."""
    Path("/proc/self/clear_refs").write_text("5")  # begin the peak anew
    began_s = time.perf_counter()
    yield
    took_s = time.perf_counter() - began_s
    print(f"{name:<28} {took_s:7.1f} s   peak {status_mib('VmHWM'):7.0f} MiB", flush=True)


def status_mib(name: str) -> float:
    """Return a field of this process' status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


class Steps:
    """Closes a step when the next one begins: the export tells beginnings only."""

    def __init__(self) -> None:
        self._open = step("nothing")
        self._running = False

    def begin(self, name: str) -> None:
        self.end()
        self._open = step(f"export: {name}")
        self._open.__enter__()
        self._running = True

    def end(self) -> None:
        if self._running:
            self._open.__exit__(None, None, None)
            self._running = False


def run(root: Path) -> bool:
    """Do everything below ``root``; tell whether every comparison passed."""
    out = root / "exported"
    tensors, count = checkpoints.values(checkpoints.PUBLISHED)
    print(f"{tensors} tensors, {count / 1e6:.1f} M values", flush=True)
    with step("write"):
        source = checkpoints.checkpoint(root, checkpoints.PUBLISHED)
    with step("load"):
        model = checkpoint.load(source)
    with step("torch answers"):
        golden = verify.reference(model)
    steps = Steps()
    made = export.export(model, source, out, "fp32", steps.begin)
    steps.end()
    del model
    passed = True
    with step("onnx answers"):
        parts = verify.OrtParts(out, made)
        for proof in verify.against_golden(parts, golden, "onnx fp32", verify.RELATIVE):
            print(f"  {proof}", flush=True)
            passed = passed and proof.passed
    print(f"graphs: {', '.join(made.graphs)}")
    for file in sorted(out.iterdir()):
        print(f"  {file.name:<24} {file.stat().st_size / 2**20:8.1f} MiB")
    for warning in made.warnings:
        print(f"! {warning}")
    return passed


def available_gib() -> float:
    """Return the memory that is free for us."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder, outside of any repository")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    if given.folder.exists():
        sys.exit(f"{given.folder} is there already: name a new folder")
    if available_gib() < NEEDED_GIB:
        sys.exit(f"{available_gib():.1f} GiB of memory are free, {NEEDED_GIB} are needed")
    given.folder.mkdir(parents=True)
    try:
        if shutil.disk_usage(given.folder).free < DISK_GIB << 30:
            sys.exit(f"{given.folder} has less than {DISK_GIB} GiB free")
        passed = run(given.folder)
    finally:
        if not given.keep:
            shutil.rmtree(given.folder)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
