"""Judge a film's voice and face together, window by window as a live session would.

Comes in: a file with moving pictures. Goes out: seven probabilities, the mean over the windows
that the production pipeline has evidence for.
"""

from contextlib import closing
from pathlib import Path

import numpy as np

from pipeline.graphs import Floats
from pipeline.person import Judged, Person
from pipeline.scorer import OrtScorer
from pipeline.types import AudioChunk, Batch, Gap, Job, Kind, VideoFrame, Window
from pipeline.windowing import Windower
from services.ingest.items import Ended, Item, Reached
from services.ingest.source import open_source

SESSION = "evaluate"


def judge(scorer: OrtScorer, path: Path, *, sound: bool) -> Floats | str:
    """Return probabilities (7,), or the reason why no window has evidence.

    ``sound`` False: the face alone. Raises :class:`~pipeline.errors.MediaError` for a file that
    cannot be decoded.
    """
    person, rows = Person(), []
    with closing(open_source(str(path))) as source:
        tracks = [kind for kind in source.tracks if sound or kind == "video"]
        windower = Windower(audio="audio" in tracks, video="video" in tracks)
        for item in source.items():
            _feed(windower, item, tracks)
            rows += _judged(scorer, person, windower.take())
        rows += _judged(scorer, person, windower.finish())
    scorer.forget([SESSION])
    if not rows:
        return "no_evidence" if sound else "no_face"
    mean: Floats = np.mean(rows, axis=0, dtype=np.float32)
    return mean


def _feed(windower: Windower, item: Item, tracks: list[Kind]) -> None:
    match item:
        case AudioChunk() if "audio" in tracks:
            windower.feed(item)
        case VideoFrame() if "video" in tracks:
            windower.feed(item)
        case Reached() if item.kind in tracks:
            windower.reached(item.kind, item.tick)
        case Ended() if item.kind in tracks:
            windower.ended(item.kind)


def _judged(scorer: OrtScorer, person: Person, due: list[Window | Gap]) -> list[Floats]:
    rows: list[Floats] = []
    for window in due:
        if isinstance(window, Gap):
            continue
        (outcome,) = scorer.score(Batch((Job(SESSION, window, 0.0, 0.0),)))
        found = person.judge(outcome) if outcome.failure is None else None
        if isinstance(found, Judged):
            rows.append(found.probabilities.astype(np.float32))
    return rows
