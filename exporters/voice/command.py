"""What ``python -m exporters voice`` does: clips to checkpoint to two ONNX files, with figures."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from exporters import manifest
from exporters.voice import checkpoint, data
from exporters.voice.checkpoint import Checkpoint
from exporters.voice.export import export
from exporters.voice.layouts import Clip, find_clips
from exporters.voice.measure import (
    Floats,
    calibration_error,
    figures,
    fit_offset,
    fit_temperature,
    softmax,
)
from exporters.voice.model import VoiceNet
from exporters.voice.train import Recipe, infer, stopwatch, train
from pipeline.errors import UsageError

CHECKPOINT_FILE = "voice.pt"


def run(args: argparse.Namespace) -> int:
    """Train, calibrate and export; or calibrate and export what was trained before."""
    # Denormals slow training down; the switch is the whole process', so it is turned back.
    torch.set_flush_denormal(True)
    try:
        return _run(args)
    finally:
        torch.set_flush_denormal(False)


def _run(args: argparse.Namespace) -> int:
    if not args.data and not args.export_only:
        raise UsageError("name at least one folder with labelled clips, or use --export-only")
    torch.set_num_threads(args.threads)
    corpus = (
        data.load(find_clips(args.data), args.cache, workers=args.threads) if args.data else None
    )
    parts = [checkpoint.load(path) for path in args.export_only]
    if corpus and not parts:
        held = held_out(corpus.clips, args.holdout)
        starts = _starts(args, corpus, held)
        recipe = Recipe(epochs=args.epochs, peak_rate=args.peak_rate)
        parts = [
            _trained(corpus, held, replace(recipe, seed=seed), start)
            for seed, start in enumerate(starts, args.seed)
        ]
    made = checkpoint.joined(parts)
    if args.calibrated_by:
        sister = checkpoint.load(args.calibrated_by)
        sentence = f"sister networks, {sister.validation}" if sister.validation else None
        made = replace(
            made, temperature=sister.temperature, offset=sister.offset, validation=sentence
        )
    elif corpus and made.held:
        made = calibrated(made, corpus)
        print(made.validation)
    _write(made, args.out)
    return 0


def _starts(
    args: argparse.Namespace, corpus: data.Corpus, held: NDArray[np.bool_]
) -> Sequence[VoiceNet | None]:
    if not args.start_from:
        return [None] * args.nets
    start = checkpoint.load(args.start_from)
    known = {corpus.clips[k].speaker for k in np.flatnonzero(held)} - set(start.held)
    if known:
        raise UsageError(
            f"{args.start_from} was trained on {', '.join(sorted(known))}: hold out others, "
            "or start from networks that never heard them"
        )
    return start.nets


def _write(made: Checkpoint, out: Path) -> None:
    ships = out.resolve() == manifest.MODELS_DIR.resolve()
    if not ships:
        checkpoint.save(made, out / CHECKPOINT_FILE)
    paths = export(
        made.nets,
        out,
        temperature=made.temperature,
        offset=made.offset,
        validation=made.validation,
    )
    for path in paths:
        print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
    if ships:
        manifest.write()


def _trained(
    corpus: data.Corpus, held: NDArray[np.bool_], recipe: Recipe, start: VoiceNet | None
) -> Checkpoint:
    chosen = np.flatnonzero(~held)
    print(
        f"seed {recipe.seed}: {chosen.size} clips to learn from, {held.sum()} held out", flush=True
    )
    elapsed = stopwatch()

    def report(epoch: int, loss: float, net: VoiceNet) -> None:
        line = f"epoch {epoch:3d}  loss {loss:.3f}  {elapsed():.0f} s"
        if held.any() and (epoch % 5 == 0 or epoch == recipe.epochs):
            places = np.flatnonzero(held)
            line += said(infer(net, [corpus.features[0][k] for k in places]), corpus, places)
        print(line, flush=True)

    net = train(corpus, chosen, recipe, start=start, report=report)
    names = {corpus.clips[k].speaker for k in np.flatnonzero(held)}
    return Checkpoint((net,), 1.0, tuple(sorted(names)), None)


def held_out(clips: Sequence[Clip], names: str) -> NDArray[np.bool_]:
    """Mark the clips of the speakers in ``names`` (comma-separated ``corpus/speaker``).

    Raises :class:`UsageError` for a speaker that has no clip.
    """
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    known = {clip.speaker for clip in clips}
    if wanted - known:
        raise UsageError(
            f"no clips of {', '.join(sorted(wanted - known))}: the speakers are "
            f"{', '.join(sorted(known))}"
        )
    return np.array([clip.speaker in wanted for clip in clips])


def calibrated(made: Checkpoint, corpus: data.Corpus) -> Checkpoint:
    """Fit temperature and offset on the speakers held out, and say how well they were understood.

    For the figures, each speaker is judged with what was fitted on the others.
    """
    places = np.flatnonzero(held_out(corpus.clips, ",".join(made.held)))
    speakers = np.array([corpus.clips[k].speaker for k in places])
    labels = corpus.labels[places]
    logits = infer(made.scorer.logits, [corpus.features[0][k] for k in places])
    judged = logits.copy()
    for speaker in sorted(set(speakers.tolist())):
        own, others = speakers == speaker, speakers != speaker
        fitted = others if others.any() else own
        temperature, offset = _fitted(logits[fitted], labels[fitted], speakers[fitted])
        judged[own] = logits[own] / temperature + offset
    error = calibration_error(softmax(judged), labels)
    temperature, offset = _fitted(logits, labels, speakers)
    sentence = (
        f"speakers never trained on ({', '.join(made.held)}):{said(judged, corpus, places)}; "
        f"ECE {error:.3f}; then temperature {temperature:.2f} and offset "
        f"{' '.join(f'{value:+.2f}' for value in offset)} were fitted on all of them"
    )
    kept = tuple(float(value) for value in offset)
    return replace(made, temperature=temperature, offset=kept, validation=sentence)


def _fitted(
    logits: Floats, labels: NDArray[np.int64], speakers: NDArray[np.str_]
) -> tuple[float, Floats]:
    temperature = fit_temperature(logits, labels)
    return temperature, fit_offset(logits / temperature, labels, speakers)


def said(logits: Floats, corpus: data.Corpus, places: NDArray[np.int64]) -> str:
    """Figures of the clips ``places``, corpus by corpus; ``logits`` has a row for each."""
    names = np.array([corpus.clips[k].take.corpus for k in places])
    pieces = []
    for name in sorted(set(names.tolist())):
        here = names == name
        pieces.append(f" {name} {figures(logits[here], corpus.labels[places[here]])}")
    return ",".join(pieces)
