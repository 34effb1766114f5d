"""Find the labelled files under a folder, by the layout of a corpus, by sub-folders or by a table.

Comes in: a folder (or a CSV file) and the layout's name. Goes out: :class:`Found`, every file with
its wire label, and an account of what was left out and why. No media file is opened here.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import UsageError
from pipeline.layouts import LAYOUTS, label_of

Kind = Literal["voice", "face", "fused"]
"""What is judged: sound, single pictures, or a film's voice and face together."""
LAYOUT_NAMES = (*LAYOUTS, "folders", "csv")

SOUND = frozenset(
    (".wav", ".ogg", ".oga", ".opus", ".flac", ".mp3", ".m4a", ".aac", ".wma", ".aif", ".aiff")
)
FILM = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".flv", ".3gp"))
IMAGE = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")
)
_FITS: dict[Kind, frozenset[str]] = {"voice": SOUND | FILM, "face": IMAGE | FILM, "fused": FILM}
_PATH_COLUMNS = ("path", "file", "filename", "clip", "image", "video_name")
_LABEL_COLUMNS = ("label", "emotion", "expression", "class")


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled file."""

    path: Path
    label: str
    """One of :data:`pipeline.spec.LABELS`."""


@dataclass(slots=True)
class Found:
    """What :func:`find` saw."""

    kind: Kind = "voice"
    samples: list[Sample] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Files that are not judged, by reason."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Names that are no label, with the number of their files."""


def find(place: Path, layout: str, kind: Kind | None = None, *, cropped: bool = False) -> Found:
    """Return the labelled files of ``place``; ``kind`` None: what the files are.

    ``cropped`` takes pictures only. Raises :class:`UsageError` for a missing place, an unknown
    layout, a table that cannot be read, or sounds, pictures and films mixed while ``kind`` is open.
    """
    if layout not in LAYOUT_NAMES:
        raise UsageError(f"unknown layout '{layout}': choose from {', '.join(LAYOUT_NAMES)}")
    if not place.exists():
        raise UsageError(f"{place} does not exist: name the folder that holds the labelled files")
    if place.is_file() and layout != "csv":
        raise UsageError(f"{place} is a file: name the folder, or use --layout csv for a table")
    if cropped and kind not in (None, "face"):
        raise UsageError(f"--cropped is for pictures of faces: leave out --modality {kind}")
    found = Found()
    labelled = list(_labelled(place, layout, found))
    found.kind = "face" if cropped else kind or _kind_of([path for path, _ in labelled])
    fits = IMAGE if cropped else _FITS[found.kind]
    for path, label in labelled:
        if path.suffix.lower() in fits:
            found.samples.append(Sample(path, label))
        else:
            found.left_out["other_kind_of_file"] += 1
    return found


def _labelled(place: Path, layout: str, found: Found) -> Iterator[tuple[Path, str]]:
    if layout == "csv":
        yield from _by_table(place, found)
        return
    for path in sorted(files(place)):
        if path.suffix.lower() not in SOUND | FILM | IMAGE:
            continue
        name, label = _by_folder(path, place) if layout == "folders" else _by_name(path, layout)
        if label is None:
            found.unknown[name] += 1
            found.left_out["unknown_label"] += 1
        else:
            yield path, label


def files(place: Path) -> Iterator[Path]:
    """All files below ``place``; linked folders are followed, each real folder once."""
    seen: set[str] = set()
    for folder, below, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (Path(folder, name) for name in names)


def _by_name(path: Path, layout: str) -> tuple[str, str | None]:
    take = LAYOUTS[layout](f"{path.parent.name}/{path.name}") or LAYOUTS[layout](path.name)
    return f"a name that is not {layout}'s", take.label if take else None


def _by_folder(path: Path, place: Path) -> tuple[str, str | None]:
    """The nearest folder whose name is a label; files at the top have none."""
    folders = path.relative_to(place).parts[:-1]
    for name in reversed(folders):
        label = _meaning(name)
        if label:
            return name, label
    return (folders[-1] if folders else "no sub-folder"), None


def _by_table(place: Path, found: Found) -> Iterator[tuple[Path, str]]:
    table = _table(place)
    for name, word in rows(table):
        label = _meaning(word)
        path = _resolve(table.parent, name)
        if label is None:
            found.unknown[word] += 1
            found.left_out["unknown_label"] += 1
        elif path is None:
            found.left_out["missing_file"] += 1
        else:
            yield path, label


def _table(place: Path) -> Path:
    if place.is_file():
        return place
    tables = sorted(place.glob("*.csv"))
    named = [table for table in tables if table.name == "labels.csv"]
    if len(named or tables) != 1:
        raise UsageError(f"{place} holds {len(tables)} .csv files: name the one with path,label")
    return (named or tables)[0]


def rows(table: Path) -> Iterator[tuple[str, str]]:
    """Path and label of each row; the first line may name the columns."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{table} cannot be read as a table of path,label: {error}") from None
    rows = [row for row in csv.reader(text.splitlines()) if row]
    columns = _columns(rows[0]) if rows else None
    path_at, label_at = columns or (0, 1)
    for number, row in enumerate(rows[1:] if columns else rows, 2 if columns else 1):
        if len(row) <= max(path_at, label_at):
            raise UsageError(f"{table}, row {number}: needs two columns, path,label")
        yield row[path_at].strip(), row[label_at].strip()


def _columns(header: list[str]) -> tuple[int, int] | None:
    words = [cell.strip().lower() for cell in header]
    path_at = next((words.index(name) for name in _PATH_COLUMNS if name in words), None)
    label_at = next((words.index(name) for name in _LABEL_COLUMNS if name in words), None)
    return None if path_at is None or label_at is None else (path_at, label_at)


def _resolve(folder: Path, name: str) -> Path | None:
    """The file beside the table, or of that name in one of the folders beside it."""
    if (folder / name).is_file():
        return folder / name
    inside = (entry / name for entry in sorted(folder.iterdir()) if entry.is_dir())
    return next((path for path in inside if path.is_file()), None)


def _meaning(word: str) -> str | None:
    """The label that a name means: ``Angry``, ``03_happy`` and ``sadness-2`` are understood."""
    return label_of(re.sub(r"^[\W\d_]+|[\W\d_]+$", "", word))


def _kind_of(paths: list[Path]) -> Kind:
    suffixes = Counter(path.suffix.lower() for path in paths)
    present: list[Kind] = []
    for kind, fits in (("voice", SOUND), ("face", IMAGE), ("fused", FILM)):
        if any(suffix in fits for suffix in suffixes):
            present.append(kind)  # type: ignore[arg-type]  # the literals above are kinds
    if len(present) > 1:
        raise UsageError(
            f"the folder mixes {' and '.join(present)} files: choose with --modality voice or face"
        )
    return present[0] if present else "voice"
