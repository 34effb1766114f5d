"""Who writes which file: the kernel's own notices, for every file system or for some folders."""

import contextlib
import ctypes
import os
import select
import stat
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_FAN_CLOEXEC, _FAN_NONBLOCK, _FAN_UNLIMITED_QUEUE = 0x1, 0x2, 0x10
_FAN_MARK_ADD, _FAN_MARK_FILESYSTEM = 0x1, 0x100
_MODIFY, _CLOSE_WRITE, _MOVED_TO, _CREATE = 0x2, 0x8, 0x80, 0x100
_FAN_EVENT = struct.Struct("=IBBHQii")
_IN_EVENT = struct.Struct("=iIII")
_WITHOUT_FILES = {
    *("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "debugfs", "tracefs", "bpf"),
    *("securityfs", "pstore", "configfs", "fusectl", "hugetlbfs", "nsfs", "binfmt_misc"),
}


@dataclass
class Writes:
    """Files that were written: by whom, as far as the kernel tells, and how large they became."""

    everywhere: bool
    """Whether every file system is watched and writers are known; else only some folders are."""
    seen: dict[tuple[int, str], int] = field(default_factory=dict)
    """Process and path: largest size. The process is 0 where it is not known."""

    def of(self, pids: set[int]) -> dict[str, int]:
        """Return the files written by some processes and their sizes."""
        return {path: size for (pid, path), size in self.seen.items() if pid in pids | {0}}

    def note(self, pid: int, path: str, size: int) -> None:
        key = pid, path.removesuffix(" (deleted)")
        self.seen[key] = max(size, self.seen.get(key, 0))


@contextlib.contextmanager
def watching(*folders: Path) -> Iterator[Writes]:
    """Note every write while the context lasts; ``folders`` where the whole cannot be watched."""
    descriptor = _libc.fanotify_init(
        _FAN_CLOEXEC | _FAN_NONBLOCK | _FAN_UNLIMITED_QUEUE, os.O_RDONLY | os.O_CLOEXEC
    )
    writes = Writes(everywhere=descriptor >= 0 and _mark_all(descriptor))
    if not writes.everywhere:
        if descriptor >= 0:
            os.close(descriptor)
        descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    stop, stopped = os.pipe()
    read = _read_all if writes.everywhere else _Folders(descriptor, folders).read
    thread = threading.Thread(target=_follow, args=(descriptor, stop, read, writes))
    thread.start()
    try:
        yield writes
    finally:
        os.write(stopped, b"x")
        thread.join()
        for each in (descriptor, stop, stopped):
            os.close(each)


def _follow(descriptor: int, stop: int, read, writes: Writes) -> None:
    while True:
        ready, _, _ = select.select([descriptor, stop], [], [])
        with contextlib.suppress(BlockingIOError):
            while data := os.read(descriptor, 65536):
                read(data, writes)
        if stop in ready:
            return


def _mark_all(descriptor: int) -> bool:
    """Watch every file system that can hold files; False where that is not permitted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        if kind in _WITHOUT_FILES or "ro" in options.split(","):
            continue
        marked = _libc.fanotify_mark(
            descriptor,
            _FAN_MARK_ADD | _FAN_MARK_FILESYSTEM,
            ctypes.c_uint64(_MODIFY | _CLOSE_WRITE),
            -1,
            point.encode(),
        )
        if marked:
            return False
    return True


def _read_all(data: bytes, writes: Writes) -> None:
    at = 0
    while at < len(data):
        size, _, _, _, _, file, pid = _FAN_EVENT.unpack_from(data, at)
        at += size
        if file < 0:
            continue
        status = os.fstat(file)
        if stat.S_ISREG(status.st_mode):
            writes.note(pid, str(Path(f"/proc/self/fd/{file}").readlink()), status.st_size)
        os.close(file)


class _Folders:
    """Folders and what is in them, also those made later."""

    def __init__(self, descriptor: int, folders: tuple[Path, ...]) -> None:
        self._descriptor = descriptor
        self._watched: dict[int, Path] = {}
        for folder in folders:
            self._add(folder)

    def _add(self, folder: Path) -> None:
        mask = _MODIFY | _CLOSE_WRITE | _CREATE | _MOVED_TO
        number = _libc.inotify_add_watch(self._descriptor, str(folder).encode(), mask)
        if number < 0:
            return
        self._watched[number] = folder
        for inside in folder.iterdir():
            if inside.is_dir() and not inside.is_symlink():
                self._add(inside)

    def read(self, data: bytes, writes: Writes) -> None:
        at = 0
        while at < len(data):
            number, _, _, length = _IN_EVENT.unpack_from(data, at)
            name = data[at + _IN_EVENT.size : at + _IN_EVENT.size + length].rstrip(b"\0")
            at += _IN_EVENT.size + length
            path = self._watched.get(number, Path("/")) / name.decode()
            with contextlib.suppress(OSError):
                if path.is_dir():
                    self._add(path)
                elif path.is_file():
                    writes.note(0, str(path), path.stat().st_size)


def open_for_writing(pid: int) -> set[str]:
    """Return the regular files with a name that a process may write to."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                info = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text()
                flags = int(info.partition("flags:")[2].split()[0], 8)
                if flags & os.O_ACCMODE and stat.S_ISREG(entry.stat().st_mode):
                    found.add(str(entry.readlink()))
    return {path for path in found if not path.startswith("/memfd:")}
