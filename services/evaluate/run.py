"""Judge every labelled file of a folder and sum up.

Comes in: what :mod:`~services.evaluate.samples` found and a scorer. Goes out: one :class:`Report`.
Files are read two at a time on threads and judged in their order; a damaged one is named and left
out, never fatal.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import MediaError, ScoreError, UsageError
from pipeline.graphs import Floats
from pipeline.metrics import Metrics, measure
from pipeline.scorer import OrtScorer
from services.evaluate import film, pictures, voice
from services.evaluate.samples import IMAGE, Found, Kind, Sample
from services.ingest.source import read_audio

AT_ONCE = 16
"""Files in memory together."""
READERS = 2
NAMES_LISTED = 20
"""Damaged files that a report names."""

Answer = Floats | str
"""Probabilities (7,), or why there are none."""
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What an evaluation found."""

    layout: str
    kind: Kind
    cropped: bool
    metrics: Metrics | None
    """None when nothing could be judged."""
    left_out: dict[str, int]
    """Files that were not judged, by reason."""
    unknown: dict[str, int]
    """Names that are no label, with the number of their files."""
    damaged: tuple[str, ...]
    """The first damaged files by name."""

    def as_dict(self, model: dict[str, Any]) -> dict[str, Any]:
        """Return the report as plain values: the JSON object of the command."""
        judged = self.metrics.n if self.metrics else 0
        faceless = self.left_out.get("no_face", 0)
        figures = self.metrics.as_dict() if self.metrics else {"n": 0}
        return figures | {
            "layout": self.layout,
            "modality": self.kind,
            "cropped": self.cropped,
            "left_out": self.left_out,
            "no_face_share": round(faceless / (faceless + judged), 4) if faceless else 0.0,
            "unknown_labels": self.unknown,
            "damaged": list(self.damaged),
            "model": model,
        }


def evaluate(
    scorer: OrtScorer, found: Found, *, layout: str, cropped: bool, progress: Progress
) -> Report:
    """Judge all samples; ``progress`` is called with the number of files that are done."""
    left_out, unknown = Counter(found.left_out), found.unknown
    truth: list[str] = []
    rows: list[Floats] = []
    damaged: list[str] = []
    for sample, answer in _answers(scorer, found, cropped=cropped, progress=progress):
        if not isinstance(answer, str):
            truth.append(sample.label)
            rows.append(answer)
            continue
        left_out[answer] += 1
        if answer == "damaged" and len(damaged) < NAMES_LISTED:
            damaged.append(sample.path.name)
    return Report(
        layout=layout,
        kind=found.kind,
        cropped=cropped,
        metrics=measure(truth, np.stack(rows)) if rows else None,
        left_out=dict(left_out),
        unknown=dict(unknown),
        damaged=tuple(damaged),
    )


def _answers(
    scorer: OrtScorer, found: Found, *, cropped: bool, progress: Progress
) -> Iterator[tuple[Sample, Answer]]:
    samples = found.samples
    with ThreadPoolExecutor(READERS) as readers:
        for first in range(0, len(samples), AT_ONCE):
            some = samples[first : first + AT_ONCE]
            if found.kind == "voice":
                answers = [_voice(scorer, pcm) for pcm in readers.map(_read_sound, some)]
            elif all(sample.path.suffix.lower() in IMAGE for sample in some):
                answers = _faces(scorer, list(readers.map(_read_picture, some)), cropped=cropped)
            else:
                answers = [_picture_or_film(scorer, sample, found.kind) for sample in some]
            yield from zip(some, answers, strict=True)
            progress(first + len(some))


def _read_picture(sample: Sample) -> pictures.Rgb | None:
    try:
        return pictures.read(sample.path)
    except MediaError:
        return None


def _read_sound(sample: Sample) -> voice.Samples | None:
    try:
        return read_audio(sample.path)
    except (MediaError, UsageError):
        return None


def _faces(
    scorer: OrtScorer, read: Sequence[pictures.Rgb | None], *, cropped: bool
) -> list[Answer]:
    whole = iter(
        pictures.judge(scorer.vision, [one for one in read if one is not None], cropped=cropped)
    )
    return ["damaged" if one is None else next(whole) for one in read]


def _voice(scorer: OrtScorer, pcm: voice.Samples | None) -> Answer:
    if pcm is None:
        return "damaged"
    try:
        answer = voice.judge(scorer.hearing, pcm)
    except ScoreError:
        return "bad_output"
    return "silent" if answer is None else answer


def _picture_or_film(scorer: OrtScorer, sample: Sample, kind: Kind) -> Answer:
    if sample.path.suffix.lower() in IMAGE:
        return _faces(scorer, [_read_picture(sample)], cropped=False)[0]
    try:
        return film.judge(scorer, sample.path, sound=kind == "fused")
    except (MediaError, UsageError):
        return "damaged"
