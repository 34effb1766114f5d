"""``demeanor evaluate --explain``: an exported R1-Omni on labelled films."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from services.cli.exits import Exit, complain

if TYPE_CHECKING:
    from pipeline.session import Device
    from services.evaluate.clips import Labelled, LabelSet
    from services.evaluate.explaining import Summary
    from services.explain.model import Explainer

_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    folder: Path
    place: Path
    layout: str
    labels: "LabelSet | None"
    words: bool
    limit: int | None
    out: Path | None
    device: "Device | None"


def run(wanted: Wanted, *, json: bool) -> None:
    """Judge and print; ends with exit code 3 when nothing could be judged."""
    from services.evaluate.clips import LAYOUTS, find_clips

    labels = wanted.labels or LAYOUTS.get(wanted.layout, "mafw")
    found = find_clips(wanted.place, wanted.layout, labels)
    if not found.clips:
        complain(_nothing(wanted, found))
        raise SystemExit(Exit.NO_EVIDENCE)
    figures = _judged(_opened(wanted, labels), wanted, found).as_dict()
    if json:
        import msgspec

        print(msgspec.json.encode(figures).decode())
    else:
        _show(figures)
    if not figures["n"]:
        complain(f"no film of {wanted.place} could be read: {', '.join(figures['damaged_files'])}")
        raise SystemExit(Exit.NO_EVIDENCE)


def _opened(wanted: Wanted, labels: "LabelSet") -> "Explainer":
    try:
        from services.explain.model import open_explainer
        from services.explain.options import Options
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the explain tier needs the package '{error.name}': install 'demeanor[explain]'"
        ) from None
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    options = Options(device=wanted.device or "cpu", threads=threads, labels=labels)
    return open_explainer(wanted.folder, options)


def _judged(explainer: "Explainer", wanted: Wanted, found: "Labelled") -> "Summary":
    """Run with a progress bar on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from services.evaluate.explaining import evaluate

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Console(stderr=True)
    try:
        with Progress(*columns, console=shown, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("films", total=len(found.clips[: wanted.limit]))
            return evaluate(
                explainer,
                found,
                layout=wanted.layout,
                words=wanted.words,
                out=wanted.out,
                limit=wanted.limit,
                progress=lambda done: bar.update(task, completed=done),
            )
    except KeyboardInterrupt:
        kept = f"; {wanted.out} keeps what was answered, the same command goes on from there"
        complain(f"stopped{kept if wanted.out else ''}")
        raise SystemExit(_INTERRUPTED) from None


def _show(figures: dict[str, Any]) -> None:
    run = figures["run"]
    print(
        f"{figures['n']} films, layout {run['layout']}, labels {run['labels']}; weights "
        f"{run['weights']}, {run['precision']}, prefix {run['prefix'] or 'none'}, "
        f"{run['aspect']}, prior removed, not calibrated"
    )
    if "scored" in figures:
        _table("scored", figures["scored"])
        if "written" in figures:
            written = figures["written"]
            _table("written", written)
            print(
                f"written: other {written['other']:.3f}   agrees with scored "
                f"{written['agreement']:.3f}   thinking cut off {written['cut_off']}"
            )
        took = figures["seconds_per_clip"]
        print(f"seconds a film: median {took['median']:.2f}, longest {took['longest']:.2f}")
        if figures["without_sound"]:
            print(f"without sound: {figures['without_sound']}")
    for name in ("left_out", "unknown_labels"):
        if figures[name]:
            counts = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in figures[name].items())
            print(f"{name.replace('_', ' ')}: {counts}")
    if figures["damaged"]:
        print(f"damaged: {figures['damaged']} ({', '.join(figures['damaged_files'])})")
    print(
        "These figures are of exactly these weights, prefix and films. Of random or untrained "
        "weights they mean nothing."
    )


def _table(kind: str, figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    print(f"{kind}: WAR {figures['war']:.4f}   UAR {figures['uar']:.4f}")
    table = Table(box=None, pad_edge=False, title="truth down, answer across", title_style="")
    table.add_column("label")
    table.add_column("n", justify="right")
    for label in figures["answers"]:
        table.add_column(label, justify="right")
    for label, row in zip(figures["truths"], figures["confusion"], strict=True):
        table.add_row(label, str(sum(row)), *map(str, row))
    Console(highlight=False).print(table)


def _nothing(wanted: Wanted, found: "Labelled") -> str:
    counts = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in found.left_out.items())
    why = f" ({counts})" if counts else ""
    return (
        f"{wanted.place} holds no labelled films in layout '{wanted.layout}'{why}: check --layout "
        "and --labels, and that the films lie there"
    )
