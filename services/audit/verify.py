"""The proof that nobody changed the audit log: every row, every link, and the end."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from services.audit.chain import (
    GENESIS,
    LOCK,
    ChainBroken,
    Head,
    checked,
    locked,
    name_of,
    read_head,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found."""

    rows: int
    """Rows that are as they were written."""
    hash: str
    """Hash of the last good row: write it down elsewhere and compare next time."""
    bad: str | None
    """The first thing that is not as it was written; None: all is."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What was there at one moment; rows that are written meanwhile come behind it."""

    sizes: dict[str, int]
    """Bytes by file, in order of their names."""
    head: Head | str
    """Where the chain ends, or why that is not known."""


def verify(path: Path) -> Verdict:
    """Check a folder from its first row, or one file in itself, also while it is written.

    A folder's end, and that of its newest file, is compared with the head. Raises
    :class:`OSError` when something cannot be read.
    """
    if path.is_dir():
        return _folder(path, _snapshot(path))
    return _file(path, _snapshot(path.parent))


def _snapshot(folder: Path) -> _Snapshot:
    with ExitStack() as held:
        if (folder / LOCK).exists():  # a copy elsewhere has no writers
            held.enter_context(locked(folder))
        files = sorted(folder.glob("audit-*.jsonl"))
        try:
            head: Head | str = read_head(folder)
        except ChainBroken as error:
            head = str(error)
        return _Snapshot({file.name: file.stat().st_size for file in files}, head)


def _folder(folder: Path, seen: _Snapshot) -> Verdict:
    found = Verdict(0, GENESIS, None)
    for number, (name, size) in enumerate(seen.sizes.items(), 1):
        if name != name_of(number):
            return _bad(found, f"{name_of(number)} is missing")
        found = _rows(folder / name, size, found, n=found.rows + 1, prev=found.hash)
        if found.bad is not None:
            return found
    if isinstance(seen.head, str):
        return _bad(found, seen.head)
    newest = name_of(len(seen.sizes) or 1)
    if found.rows < seen.head.n:
        return _bad(found, f"{newest}: {seen.head.n - found.rows} rows are missing at its end")
    return _against_head(found, seen.head, newest)


def _file(path: Path, seen: _Snapshot) -> Verdict:
    size = seen.sizes.get(path.name, path.stat().st_size)
    found = _rows(path, size, Verdict(0, GENESIS, None), n=None, prev=None)
    if found.bad is not None or isinstance(seen.head, str) or path.name != name_of(seen.head.file):
        return found
    return _against_head(found, seen.head, path.name)


def _rows(path: Path, size: int, before: Verdict, *, n: int | None, prev: str | None) -> Verdict:
    count, last, left = before.rows, before.hash, size
    with path.open("rb") as file:
        for line_number, line in enumerate(file, 1):
            if left <= 0:
                break
            left -= len(line)
            row = checked(line, n, prev)
            if isinstance(row, str):
                return Verdict(count, last, f"{path.name}, line {line_number}: {row}")
            count, last = count + 1, row["hash"]
            n, prev = row["n"] + 1, last
    return Verdict(count, last, None)


def _against_head(found: Verdict, head: Head, newest: str) -> Verdict:
    if found.hash != head.hash or (head.n and name_of(head.file) != newest):
        return _bad(found, f"{newest}: its last row is not the one that the head names")
    return found


def _bad(found: Verdict, why: str) -> Verdict:
    return Verdict(found.rows, found.hash, why)
