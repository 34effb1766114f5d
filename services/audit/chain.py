"""The files of the audit log: JSON lines, each with the hash of the one before.

``hash = sha256(prev + row)``, where ``row`` is the line's JSON without ``hash``, keys sorted, no
blanks, and ``prev`` the hash of the row before, in hex (64 zeros before the first). The numbers
``n`` are dense over all files. ``head.json`` holds the newest row's number and hash and how long
its file is: without it, rows cut off the end would not be missed. Whoever can write every file of
the folder can forge all of it; keep the hash that ``demeanor audit verify`` prints elsewhere.

Several processes of one machine share a folder: each batch is written under a file lock.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.errors import DemeanorError

GENESIS: Final = "0" * 64
FILE_BYTES: Final = 16 * 1024 * 1024
"""A file that is this long is followed by the next."""
HEAD: Final = "head.json"
LOCK: Final = "lock"
Row = dict[str, Any]


class ChainBroken(DemeanorError):
    """The files are not what their head says: somebody, or a disk, changed them."""


class Head(msgspec.Struct, frozen=True):
    """Where the chain ends."""

    n: int = 0
    hash: str = GENESIS
    file: int = 1
    size: int = 0
    """Bytes of the newest file."""


def digest(prev: str, row: Mapping[str, Any]) -> str:
    """Return the hash of a row without its ``hash``."""
    return hashlib.sha256(prev.encode() + canonical(row)).hexdigest()


def canonical(row: Mapping[str, Any]) -> bytes:
    """Return the one spelling of a row."""
    return json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def name_of(file: int) -> str:
    """Return the name of the n-th file."""
    return f"audit-{file:06d}.jsonl"


def read_head(folder: Path) -> Head:
    """Return where the chain ends; a new folder has an empty one.

    Raises :class:`ChainBroken` when there are rows and no head that can be read.
    """
    try:
        return msgspec.json.decode((folder / HEAD).read_bytes(), type=Head)
    except FileNotFoundError:
        if any(folder.glob("audit-*.jsonl")):
            raise ChainBroken(f"{folder / HEAD} is missing beside rows it should count") from None
        return Head()
    except msgspec.MsgspecError:
        raise ChainBroken(f"{folder / HEAD} cannot be read: it is no head of a chain") from None


class Chain:
    """Appends to the files of one folder; synchronous, for one thread."""

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES) -> None:
        self._folder = folder
        self._file_bytes = file_bytes

    def open(self) -> Head:
        """Make the folder (0700) and look at its end.

        Raises :class:`OSError` when it cannot be used and :class:`ChainBroken` when it was changed.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self._folder):
            return self._settled()

    def append(self, rows: Iterable[Row]) -> Head:
        """Write rows and wait until the disk has them, all or none; return where the chain ends.

        Raises :class:`OSError` (disk full) and :class:`ChainBroken`; then nothing was written.
        """
        with locked(self._folder):
            head = self._settled()
            if head.size >= self._file_bytes:
                head = msgspec.structs.replace(head, file=head.file + 1, size=0)
            lines, n, last = bytearray(), head.n, head.hash
            for row in rows:
                n += 1
                full = {**row, "n": n, "prev": last}
                last = digest(last, full)
                lines += canonical({**full, "hash": last}) + b"\n"
            path = self._folder / name_of(head.file)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                return self._write(descriptor, bytes(lines), head, n, last)
            finally:
                os.close(descriptor)

    def _write(self, descriptor: int, lines: bytes, head: Head, n: int, last: str) -> Head:
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
            after = Head(n, last, head.file, head.size + len(lines))
            self._put_head(after)
        except OSError:
            os.ftruncate(descriptor, head.size)  # a row is there whole and counted, or not at all
            raise
        return after

    def _put_head(self, head: Head) -> None:
        fresh = self._folder / f".{HEAD}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(head))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(self._folder / HEAD)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _settled(self) -> Head:
        """Return the head after taking in what a crash left behind it: rows that it missed."""
        head = read_head(self._folder)
        path = self._folder / name_of(head.file)
        size = path.stat().st_size if path.exists() else 0
        if size < head.size:
            raise ChainBroken(f"{path} lost {head.size - size} bytes at its end")
        if size == head.size:
            return head
        with path.open("r+b") as file:
            file.seek(head.size)
            tail = file.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            after = _followed(head, whole, path)
            file.truncate(after.size)
        self._put_head(after)
        return after


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every process out of the folder's files while inside. Raises :class:`OSError`."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _followed(head: Head, tail: bytes, path: Path) -> Head:
    """Return the head behind whole lines that follow it. Raises :class:`ChainBroken`."""
    for line in tail.splitlines(keepends=True):
        row = checked(line, head.n + 1, head.hash)
        if isinstance(row, str):
            raise ChainBroken(f"{path} holds a row behind its head that does not belong: {row}")
        head = Head(row["n"], row["hash"], head.file, head.size + len(line))
    return head


def checked(line: bytes, n: int | None, prev: str | None) -> Row | str:
    """Return the row of a line, or what is wrong with it; None: whatever comes first."""
    try:
        row = json.loads(line)
        found = row.pop("hash")
        number, before = row["n"], row["prev"]
    except (ValueError, KeyError, AttributeError, TypeError):
        return "it is no row of an audit log"
    if n is not None and number != n:
        return f"it has number {number} where {n} should be"
    if prev is not None and before != prev:
        return "it does not follow the row before"
    if found != digest(before, row) or canonical({**row, "hash": found}) + b"\n" != line:
        return "it was changed"
    return {**row, "hash": found}
