"""``demeanor evaluate``: how often the loaded models name labelled clips and faces right."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from services.cli.exits import Exit, complain, guarded, interruptible

if TYPE_CHECKING:
    from services.cli.explained import Wanted
    from services.evaluate.run import Report
    from services.evaluate.samples import Found

LAYOUTS = "ravdess, nemo, crema-d, emo-db, tess, savee, folders, csv; of --explain: dfew, mafw"


def evaluate(
    place: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of labelled files, or a CSV table.")
    ],
    layout: Annotated[
        str, typer.Option("--layout", metavar="NAME", help=f"Where the labels stand: {LAYOUTS}.")
    ] = "folders",
    modality: Annotated[
        Literal["voice", "face"] | None,
        typer.Option("--modality", help="What to judge. Default: what the files are."),
    ] = None,
    cropped: Annotated[
        bool, typer.Option("--cropped", help="Each picture is a face already; skip the detector.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    model: Annotated[
        list[Path] | None,
        typer.Option("--model", metavar="FILE", help="Replaces a built-in model; may be repeated."),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option("--device", help="Where models run. [cpu]")
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option("--explain", metavar="FOLDER", help="Judge this exported explain model."),
    ] = None,
    labels: Annotated[
        Literal["dfew", "mafw", "ravdess"] | None,
        typer.Option("--labels", help="Of --explain: its label set. [that of the layout, or mafw]"),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Of --explain: let it write its answer too; slow.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="Of --explain: the first N films only."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.jsonl", help="Of --explain: answers; goes on there."),
    ] = None,
) -> None:
    """Judge the models on labelled clips or faces.

    WAR is the share named right, UAR the mean recall of the labels, both over the labels that
    occur in the data. ECE, the calibration error, uses 15 bins of equal width.

    With --explain an exported R1-Omni is asked about films. DIR is then, by layout: ravdess, a
    folder of its file names (01-01-06-…mp4); dfew, a folder with films and one CSV video_name,label
    (1 happy, 2 sad, 3 neutral, 4 angry, 5 surprise, 6 disgust, 7 fear), or that CSV itself; mafw,
    the same with a text file of lines '00001.mp4 anger' (save a workbook as such a file first).

    Exit codes: 0 judged, 2 wrong use, 3 nothing could be judged, 78 model refused, 130 interrupted.
    """
    import msgspec

    from pipeline.scorer import OrtScorer
    from services.evaluate.samples import find
    from services.settings import load

    only = {"labels": labels, "words": words or None, "limit": limit, "out": out}
    if explain is not None:
        from services.cli.explained import Wanted

        fits = {"modality": modality, "cropped": cropped or None, "model": model or None}
        with guarded():
            _refuse(fits, "with --explain")
            _explained(Wanted(explain, place, layout, labels, words, limit, out, device), json=json)
        return
    with guarded():
        _refuse(only, "without --explain")
        _refuse({"layout": layout if layout in ("dfew", "mafw") else None}, "without --explain")
        settings = load(None, device=device, model=tuple(model) if model else None)
        found = find(place, layout, modality, cropped=cropped)
        scorer = OrtScorer.open(settings.device, settings.model)
        report = _judged(scorer, found, layout, cropped=cropped)
    loaded = {"id": scorer.loaded.id, "version": scorer.loaded.version}
    figures = report.as_dict(loaded | {"digest": scorer.loaded.digest})
    if json:
        print(msgspec.json.encode(figures).decode())
    elif report.metrics is not None:
        _show(figures)
    if report.metrics is None:
        complain(_nothing(place, layout, figures))
        raise SystemExit(Exit.NO_EVIDENCE)


def _refuse(given: dict[str, Any], when: str) -> None:
    """Refuse options that do not go together with ``--explain`` or the lack of it."""
    from pipeline.errors import UsageError

    wrong = [f"--{name}" for name, value in given.items() if value is not None]
    if wrong:
        raise UsageError(f"{', '.join(wrong)} means nothing {when}: leave it out or change that")


def _explained(wanted: "Wanted", *, json: bool) -> None:
    from services.cli import explained

    interruptible()
    explained.run(wanted, json=json)


def _judged(scorer: Any, found: "Found", layout: str, *, cropped: bool) -> "Report":
    """Run with a progress bar on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from services.evaluate.run import evaluate as judge

    interruptible()
    shown = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=shown, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("files", total=len(found.samples))
        return judge(
            scorer,
            found,
            layout=layout,
            cropped=cropped,
            progress=lambda done: bar.update(task, completed=done),
        )


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    print(
        f"{figures['n']} files, {figures['modality']}, layout {figures['layout']}, "
        f"{figures['model']['id']} {figures['model']['version']}"
    )
    print(f"WAR {figures['war']:.3f}   UAR {figures['uar']:.3f}   ECE {figures['ece']:.3f}")
    table = Table(box=None, pad_edge=False, title="truth down, answer across", title_style="")
    table.add_column("label")
    table.add_column("n", justify="right")
    table.add_column("recall", justify="right", style="bold")
    for label in figures["labels"]:
        table.add_column(label, justify="right")
    for label, row in zip(figures["labels"], figures["confusion"], strict=True):
        one = figures["per_class"][label]
        table.add_row(label, str(one["n"]), f"{one['recall']:.3f}", *map(str, row))
    Console(highlight=False).print(table)
    _show_left_out(figures)


def _show_left_out(figures: dict[str, Any]) -> None:
    if figures["left_out"]:
        print(f"left out: {_counts(figures['left_out'])}")
    if figures["unknown_labels"]:
        print(f"names that are no label: {_counts(figures['unknown_labels'])}")
    if figures["damaged"]:
        print(f"damaged: {', '.join(figures['damaged'])}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())


def _nothing(place: Path, layout: str, figures: dict[str, Any]) -> str:
    if not figures["left_out"]:
        return f"{place} holds no labelled files in layout '{layout}': is it the right folder?"
    return (
        f"nothing in {place} could be judged ({_counts(figures['left_out'])}): "
        "check --layout and --modality"
    )
