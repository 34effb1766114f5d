"""R1-Omni and HumanOmni-0.5B checkpoints to ONNX graphs for the explain tier.

``python -m exporters r1omni CHECKPOINT OUT [--precision fp16] [--verify [GOLDEN_NPZ]]``
"""

import argparse
import resource
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from exporters.r1omni import checkpoint, export, verify
from exporters.r1omni.checkpoint import Folders, Omni
from exporters.r1omni.golden import Golden
from exporters.verify import Comparison
from pipeline.errors import ParityError, UsageError
from pipeline.explain.manifest import Manifest, Proof

LICENCE = (
    "The weights stay under their own licence; read the model card before you use them "
    "(R1-Omni-0.5B says Apache-2.0; HumanOmni-0.5B is unclear). R1-Omni's usage policy and the "
    "EU AI Act (Art. 5(1)(f)) forbid inferring emotions of people at work or in education. Its "
    "explanations are generated text: never present them as evidence."
)
_STEPS = (
    "load",
    "gate",
    "vision_fusion",
    "audio",
    "decoder",
    "decoder_static",
    "tokenizers and digests",
    "verify",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``python -m exporters r1omni`` takes."""
    parser.add_argument("checkpoint", type=Path, help="folder with config.json and *.safetensors")
    parser.add_argument("out", type=Path, help="folder to write; graphs in it are replaced")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument(
        "--verify",
        nargs="?",
        const=True,
        metavar="GOLDEN_NPZ",
        help="prove the result: against golden arrays, or (without a file) torch against ONNX",
    )
    parser.add_argument("--vision-tower", type=Path, metavar="DIR", help="SigLIP-base-patch16-224")
    parser.add_argument("--audio-tower", type=Path, metavar="DIR", help="Whisper-large-v3")
    parser.add_argument("--bert", type=Path, metavar="DIR", help="tokenizer of bert-base-uncased")


def main(args: argparse.Namespace) -> None:
    """Export, and prove when asked; raises :class:`ParityError` when a proof fails."""
    if not args.checkpoint.is_dir():
        raise UsageError(f"{args.checkpoint} is no folder: name the checkpoint's folder")
    if args.out.resolve() == args.checkpoint.resolve():
        raise UsageError("OUT must not be the checkpoint's own folder")
    golden = Golden.read(Path(args.verify)) if isinstance(args.verify, str) else None
    console = Console(stderr=True, highlight=False)
    console.print(LICENCE, style="dim")
    begun = time.perf_counter()
    proofs: list[Comparison] = []
    with _bar(console) as bar:
        task = bar.add_task("load", total=len(_STEPS) - (not args.verify))

        def step(name: str) -> None:
            bar.update(task, advance=1, description=name)

        folders = Folders(args.vision_tower, args.audio_tower, args.bert)
        model = checkpoint.load(args.checkpoint, folders)
        if args.verify:
            golden = golden or verify.reference(model)
            if isinstance(args.verify, str):
                proofs += verify.against_golden(verify.TorchParts(model), golden, "torch fp32")
        made = export.export(model, args.checkpoint, args.out, args.precision, step)
        if golden is not None:
            step("verify")
            relative = 0.0 if isinstance(args.verify, str) else verify.RELATIVE
            proofs += _of_files(args.out, made, golden, relative)
            made = msgspec.structs.replace(made, parity=tuple(_recorded(proofs)))
            export.save(made, args.out)
        bar.update(task, completed=bar.tasks[0].total)
    _summary(console, model, made, args.out, time.perf_counter() - begun)
    _report(proofs)


def _of_files(out: Path, made: Manifest, golden: Golden, relative: float) -> Iterable[Comparison]:
    parts = verify.OrtParts(out, made)
    if made.precision == "fp16":
        return list(verify.by_direction(parts, golden))
    return list(verify.against_golden(parts, golden, "onnx fp32", relative))


def _recorded(proofs: Iterable[Comparison]) -> Iterable[Proof]:
    for proof in proofs:
        yield Proof(proof.name, proof.difference, proof.tolerance)


def _report(proofs: list[Comparison]) -> None:
    for proof in proofs:
        print(proof)
    failed = [proof for proof in proofs if not proof.passed]
    if failed:
        worst = max(failed, key=lambda each: each.difference / each.tolerance)
        raise ParityError(worst.name, worst.difference, worst.tolerance)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
    )


def _summary(console: Console, model: Omni, made: Manifest, out: Path, took_s: float) -> None:
    table = Table(title=f"{made.name} → {out}")
    for heading in ("graph", "precision", "opset", "MiB"):
        table.add_column(heading, justify="left" if heading == "graph" else "right")
    for name, graph in made.graphs.items():
        size = sum((out / file).stat().st_size for file in (graph.file, *graph.weights))
        table.add_row(name, graph.precision, str(graph.opset), f"{size / 2**20:.1f}")
    console.print(table)
    report = model.report
    console.print(f"{verify.dimensions(model.spec)}")
    for part, place in report.sources.items():
        console.print(f"  {part:<7} from {place}")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(
        f"{report.used} tensors used, {len(report.ignored)} not needed; {took_s:.0f} s, "
        f"peak memory {peak_mb:.0f} MiB"
    )
    for warning in made.warnings:
        console.print(f"! {warning}")
