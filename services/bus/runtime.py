"""A private folder for sockets and locks of this user, and the lock of one running instance."""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Self, TextIO

from pipeline.errors import DemeanorError, UsageError

_LONGEST_SOCKET_PATH = 100
"""Unix socket paths end at 107 bytes; this leaves room for a name."""


class AlreadyRunning(DemeanorError):
    """Another instance holds the lock (exit 75)."""

    def __init__(self, name: str, pid: int | None, note: str) -> None:
        self.pid = pid
        self.note = note
        who = f" as process {pid}" if pid else ""
        where = f" at {note}" if note else ""
        super().__init__(
            f"Demeanor already runs here{who}{where}: use that one, stop it, "
            f"or choose other ports ({name})"
        )


def folder(base: Path | None = None) -> Path:
    """Return this user's runtime folder, made with mode 0700.

    Raises :class:`~pipeline.errors.UsageError` when somebody else owns it or may enter it.
    """
    path = base or _default()
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UsageError(
            f"{path} must be a folder that only you can enter: remove it, "
            "or set XDG_RUNTIME_DIR to a folder of your own"
        )
    return path


def _default() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given and Path(given).is_dir() and len(given) < _LONGEST_SOCKET_PATH // 2:
        return Path(given) / "demeanor"
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _LONGEST_SOCKET_PATH // 2:
        base = Path("/tmp")  # noqa: S108 - the folder below is checked for owner and mode
    return base / f"demeanor-{os.getuid()}"


class InstanceLock:
    """Holds ``name`` for this process until closed or dead, by ``flock``.

    ::

        with InstanceLock("8080-8081", note="http://localhost:8080"):
            ...
    """

    def __init__(self, name: str, *, note: str = "", base: Path | None = None) -> None:
        self._name = name
        self._note = note
        self._base = base
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises :class:`AlreadyRunning` with what its holder noted."""
        path = folder(self._base) / f"{self._name}.lock"
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            raise AlreadyRunning(self._name, *holder) from None
        self._file = file
        self.tell(self._note)
        return self

    def tell(self, note: str) -> None:
        """Note where the holder really listens, for whoever finds the lock taken."""
        if self._file is None:
            raise RuntimeError("the lock is not held")
        self._file.seek(0)
        self._file.truncate()
        json.dump({"pid": os.getpid(), "note": note}, self._file)
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        # The file stays: removing it would let two holders lock two files of one name.
        if self._file is not None:
            self._file.close()
            self._file = None


def _holder(file: TextIO) -> tuple[int | None, str]:
    file.seek(0)
    try:
        noted = json.load(file)
        return int(noted["pid"]), str(noted["note"])
    except (ValueError, KeyError, TypeError):
        return None, ""  # its holder is just writing
