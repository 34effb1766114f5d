"""Find the labelled clips under a folder: public corpora by file name, anything else by CSV."""

import csv
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.layouts import LAYOUTS, Take, label_of, parse

SOUND = frozenset({".wav", ".ogg", ".opus", ".flac", ".mp3", ".m4a", ".mp4", ".webm"})


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled file."""

    path: Path
    take: Take

    @property
    def speaker(self) -> str:
        """``corpus/speaker``: unique over all corpora."""
        return f"{self.take.corpus}/{self.take.speaker}"


def find_clips(roots: list[Path]) -> list[Clip]:
    """Return every labelled clip under ``roots``, sorted by path.

    A folder holding ``labels.csv`` (columns ``path,label`` and, if known, ``speaker``) is read by
    it; other sound files by the names of :data:`pipeline.layouts.LAYOUTS`. Raises
    :class:`UsageError` when nothing is found.
    """
    clips: dict[Path, Clip] = {}
    for root in roots:
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder: give one that holds labelled clips")
        for table in sorted(root.rglob("labels.csv")):
            clips.update((clip.path, clip) for clip in _from_table(table))
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in SOUND and path not in clips:
                take = parse(path.relative_to(root.parent).as_posix())
                if take:
                    clips[path] = Clip(path, take)
    if not clips:
        raise UsageError(
            f"no labelled clips under {', '.join(map(str, roots))}: the file names of "
            f"{', '.join(LAYOUTS)} are known, other clips need a labels.csv (path,label,speaker)"
        )
    return [clips[path] for path in sorted(clips)]


def _from_table(table: Path) -> list[Clip]:
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and not {"path", "label"} <= rows[0].keys():
        raise UsageError(f"{table} has no columns 'path' and 'label': name them in its first line")
    clips = []
    for number, row in enumerate(rows, 2):
        path = table.parent / row["path"]
        label = label_of(row["label"])
        if path.suffix.lower() in SOUND and label:
            speaker = row.get("speaker") or f"row{number}"
            clips.append(Clip(path, Take(table.parent.name, label, speaker)))
    return clips
