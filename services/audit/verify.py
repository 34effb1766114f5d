"""The proof that nobody changed the audit log: every row, every link, and the end."""

from dataclasses import dataclass
from pathlib import Path

from services.audit.chain import GENESIS, ChainBroken, Head, checked, name_of, read_head


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found."""

    rows: int
    """Rows that are as they were written."""
    hash: str
    """Hash of the last good row: write it down elsewhere and compare next time."""
    bad: str | None
    """The first thing that is not as it was written; None: all is."""


def verify(path: Path) -> Verdict:
    """Check a folder from its first row, or one file in itself.

    A folder's end, and that of its newest file, is compared with the head. Raises
    :class:`OSError` when something cannot be read.
    """
    return _folder(path) if path.is_dir() else _file(path)


def _folder(folder: Path) -> Verdict:
    files = sorted(folder.glob("audit-*.jsonl"))
    found = Verdict(0, GENESIS, None)
    for number, file in enumerate(files, 1):
        if file.name != name_of(number):
            return _bad(found, f"{name_of(number)} is missing")
        found = _rows(file, found, n=found.rows + 1, prev=found.hash)
        if found.bad is not None:
            return found
    return _against_head(found, folder, name_of(len(files) or 1), found.rows)


def _file(path: Path) -> Verdict:
    found = _rows(path, Verdict(0, GENESIS, None), n=None, prev=None)
    try:
        newest = name_of(read_head(path.parent).file) == path.name
    except ChainBroken:
        newest = False
    if found.bad is not None or not newest:
        return found
    return _against_head(found, path.parent, path.name, None)


def _rows(path: Path, before: Verdict, *, n: int | None, prev: str | None) -> Verdict:
    count, last = before.rows, before.hash
    with path.open("rb") as file:
        for line_number, line in enumerate(file, 1):
            row = checked(line, n, prev)
            if isinstance(row, str):
                return Verdict(count, last, f"{path.name}, line {line_number}: {row}")
            count, last = count + 1, row["hash"]
            n, prev = row["n"] + 1, last
    return Verdict(count, last, None)


def _against_head(found: Verdict, folder: Path, newest: str, rows: int | None) -> Verdict:
    try:
        head = read_head(folder)
    except ChainBroken as error:
        return _bad(found, str(error))
    if head == Head() and found.rows == 0:
        return found
    if rows is not None and rows < head.n:
        return _bad(found, f"{newest}: {head.n - rows} rows are missing at its end")
    if found.hash != head.hash or name_of(head.file) != newest:
        return _bad(found, f"{newest}: its last row is not the one that the head names")
    return found


def _bad(found: Verdict, why: str) -> Verdict:
    return Verdict(found.rows, found.hash, why)
