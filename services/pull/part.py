"""A file that is not whole yet: ``NAME.part``, and beside it what tells whether it may go on."""

import errno
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services.pull.errors import PullFailed

_CHUNK: Final = 1 << 22


class Part:
    """Bytes of ``target`` so far; an open context. What was written stays for the next time.

    A part goes on only when the server still has the very file that it began with: same address,
    same strong ``ETag``.
    """

    def __init__(self, target: Path, url: str) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.etag")
        self._url = url
        self._file = -1
        self.size = 0

    def __enter__(self) -> Self:
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise PullFailed(f"{self.path} cannot be written: {error.strerror}") from None
        self.size = os.lseek(self._file, 0, os.SEEK_END)
        if self.size and self.tag is None:
            self.restart(None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    @property
    def tag(self) -> str | None:
        """The ``ETag`` to go on with, or None when it must begin again."""
        try:
            tag, _, url = self._note.read_text(encoding="utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):
            return None
        return tag if tag and url == self._url else None

    def restart(self, tag: str | None) -> None:
        """Begin again with a file of that ``ETag``; a weak one does not count."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self.size = 0
        if tag is None or tag.startswith("W/") or "\n" in tag:
            self._note.unlink(missing_ok=True)
        else:
            self._note.write_text(f"{tag}\n{self._url}", encoding="utf-8")

    def add(self, chunk: bytes) -> None:
        """Append; raises :class:`PullFailed` when the disk is full."""
        rest = memoryview(chunk)
        try:
            while rest:
                written = os.write(self._file, rest)
                rest = rest[written:]
                self.size += written
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise PullFailed(
                    f"the disk is full: make room in {self.path.parent} and give the same command "
                    "again, which goes on from here"
                ) from None
            raise PullFailed(f"{self.path} cannot be written: {error.strerror}") from None

    def digest(self) -> str:
        """Return the SHA-256 of what lies on the disk."""
        os.fsync(self._file)
        total = hashlib.sha256()
        os.lseek(self._file, 0, os.SEEK_SET)
        while chunk := os.read(self._file, _CHUNK):
            total.update(chunk)
        os.lseek(self._file, 0, os.SEEK_END)
        return total.hexdigest()

    def finish(self) -> None:
        """Give the file its name; it is whole and on the disk."""
        self.path.replace(self.target)
        self._note.unlink(missing_ok=True)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def drop(self) -> None:
        """Remove it: it is not what was promised."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
