"""Find labelled films for the explain tier: RAVDESS, DFEW and MAFW as they are published, or any.

Comes in: a folder (or a table) and the layout's name. Goes out: :class:`Labelled`, every film with
its label in the explain model's own words, and an account of what was left out. No film is opened.

| layout | what is read |
|---|---|
| ravdess | file names: third field emotion, eight of them; a silent twin of a film is left out |
| dfew | a CSV ``video_name,label``: labels 1 happy … 7 fear, or words |
| mafw | a text file of lines ``00001.mp4 anger`` |
| folders | the nearest folder whose name is a label |
| csv | a table ``path,label`` |
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from pipeline.errors import UsageError
from pipeline.explain.labels import OTHER, SETS, normalised
from services.evaluate.samples import FILM, files, rows

LabelSet = Literal["dfew", "mafw", "ravdess"]
LAYOUTS: Final[Mapping[str, LabelSet]] = MappingProxyType(
    {"ravdess": "ravdess", "dfew": "dfew", "mafw": "mafw", "folders": "mafw", "csv": "mafw"}
)
"""Layout → the label set that it is judged with unless told otherwise."""
_DFEW: Final = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
"""1 to 7, as the published labels count."""
_RAVDESS: Final = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
_RAVDESS_NAME: Final = re.compile(r"(\d\d)-(\d\d-(\d\d)-\d\d-\d\d-\d\d-\d\d)")
_WHOLE, _SILENT = "01", "02"


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled film."""

    path: Path
    name: str
    """Below the folder that was given."""
    label: str
    """One of the label set."""


@dataclass(slots=True)
class Labelled:
    """What :func:`find_clips` saw."""

    clips: list[Clip] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Films and rows that are not judged, by reason."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Names that are no label of the set, with their number."""


def find_clips(place: Path, layout: str, labels: str) -> Labelled:
    """Return the labelled films of ``place``; ``labels`` names a set of :data:`SETS`.

    Raises :class:`UsageError` for a missing place, an unknown layout or label set, or a table that
    cannot be read.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout '{layout}': with --explain choose {', '.join(LAYOUTS)}")
    if labels not in SETS:
        raise UsageError(f"unknown label set '{labels}': choose from {', '.join(SETS)}")
    if not place.exists():
        raise UsageError(f"{place} does not exist: name the folder that holds the labelled films")
    named = {"ravdess": _by_name, "folders": _by_folder}.get(layout)
    if named is not None and place.is_file():
        raise UsageError(f"{place} is a file: name the folder")
    found = Labelled()
    pairs = named(place, found) if named else _by_table(place, layout, found)
    for path, name, word in pairs:
        label = normalised(word, SETS[labels])
        if label == OTHER:
            found.unknown[word] += 1
            found.left_out["unknown_label"] += 1
        else:
            found.clips.append(Clip(path, name, label))
    return found


def _films(place: Path) -> list[Path]:
    return sorted(path for path in files(place) if path.suffix.lower() in FILM)


def _by_name(place: Path, found: Labelled) -> Iterator[tuple[Path, str, str]]:
    films = {path: _RAVDESS_NAME.fullmatch(path.stem) for path in _films(place)}
    heard = {match[2] for match in films.values() if match and match[1] == _WHOLE}
    for path, match in films.items():
        number = int(match[3]) if match else 0
        if match is None or not 1 <= number <= len(_RAVDESS):
            found.unknown["a name that is not ravdess's"] += 1
            found.left_out["unknown_label"] += 1
        elif match[1] == _SILENT and match[2] in heard:
            found.left_out["silent_twin"] += 1
        else:
            yield path, str(path.relative_to(place)), _RAVDESS[number - 1]


def _by_folder(place: Path, found: Labelled) -> Iterator[tuple[Path, str, str]]:
    del found
    every = sorted({label for labels in SETS.values() for label in labels})
    for path in _films(place):
        folders = path.relative_to(place).parts[:-1]
        words = [re.sub(r"^[\W\d_]+|[\W\d_]+$", "", name) for name in reversed(folders)]
        known = next((word for word in words if normalised(word, every) != OTHER), None)
        yield path, str(path.relative_to(place)), known or (words[0] if words else "no sub-folder")


def _by_table(place: Path, layout: str, found: Labelled) -> Iterator[tuple[Path, str, str]]:
    table, root = _table(place, layout)
    by_path, by_stem = _index(root)
    for name, word in _rows(table, layout):
        path = by_path.get(name) or by_stem.get(_stem(name))
        if path is None:
            found.left_out["missing_file"] += 1
        else:
            yield path, str(path.relative_to(root)), word


def _table(place: Path, layout: str) -> tuple[Path, Path]:
    """Return the table and the folder below which its films lie."""
    suffix = ".txt" if layout == "mafw" else ".csv"
    if place.is_file():
        beside = place.parent
        return place, beside if _films(beside) else beside.parent
    tables = sorted(path for path in files(place) if path.suffix.lower() == suffix)
    if len(tables) != 1:
        some = ", ".join(str(path.relative_to(place)) for path in tables[:4])
        held = f"{len(tables)} {suffix} tables ({some})" if tables else f"no {suffix} table"
        raise UsageError(
            f"{place} holds {held}: name the table itself, for example "
            f"{place / 'label' / ('test' + suffix)}; its films may lie beside or above it"
        )
    return tables[0], place


def _index(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    films = _films(root)
    return (
        {path.relative_to(root).as_posix(): path for path in films},
        {_stem(path.name): path for path in reversed(films)},
    )


def _stem(name: str) -> str:
    """``00012.mp4``, ``12`` and ``clips/12.mp4`` are the same film: tables pad as they like."""
    base = name.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = base.rpartition(".")
    plain = stem if dot and f".{suffix.lower()}" in FILM else base
    return plain.lstrip("0") or plain


def _rows(table: Path, layout: str) -> Iterator[tuple[str, str]]:
    if layout == "mafw":
        yield from _lines(table)
        return
    for name, word in rows(table):
        if layout == "dfew" and word.isdecimal():
            number = int(word)
            yield name, _DFEW[number - 1] if 1 <= number <= len(_DFEW) else f"label {number}"
        else:
            yield name, word


def _lines(table: Path) -> Iterator[tuple[str, str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{table} cannot be read as lines of 'name.mp4 label': {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        parts = re.split(r"[\s,;]+", line.strip())
        if parts == [""]:
            continue
        if len(parts) != 2:
            raise UsageError(f"{table}, line {number}: needs a film and a label, '00001.mp4 anger'")
        yield parts[0], parts[1]
