"""Packages by name and checksum, fetched with their ecosystem's ordinary client.

Comes in: a package's name, version and SHA-256. Goes out: the archive's bytes, proven. Nothing is
installed and nothing is kept: the client writes into a folder that goes away.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.errors import ModelRefused, UsageError


def npm_package(name: str, version: str, sha256: str) -> bytes:
    """Return the archive that ``npm pack name@version`` writes.

    Raises :class:`UsageError` when npm is missing or fails, :class:`ModelRefused` for other bytes.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError(f"npm is needed to fetch {name}: install it, or give --package FILE")
    return _fetched([npm, "pack", "--silent", f"{name}@{version}"], sha256)


def wheel(name: str, version: str, sha256: str) -> bytes:
    """Return the wheel that ``pip download --no-deps name==version`` writes; raises as above."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    return _fetched([*pip, f"{name}=={version}"], sha256)


def proven(archive: bytes, sha256: str, *, file: str) -> bytes:
    """Return ``archive`` itself; raises :class:`ModelRefused` unless its digest is ``sha256``."""
    digest = hashlib.sha256(archive).hexdigest()
    if digest != sha256:
        raise ModelRefused(f"{file} has SHA-256 {digest}, expected {sha256}: fetch it again")
    return archive


def read(path: Path, sha256: str) -> bytes:
    """Return the bytes of a package that lies on this machine already, proven."""
    try:
        return proven(path.read_bytes(), sha256, file=path.name)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _fetched(command: list[str], sha256: str) -> bytes:
    with TemporaryDirectory() as folder:
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            command, cwd=folder, check=False, capture_output=True, text=True
        )
        files = sorted(Path(folder).iterdir())
        if done.returncode != 0 or len(files) != 1:
            reason = (done.stderr.strip().splitlines() or ["no file was written"])[-1]
            raise UsageError(f"{' '.join(command[1:])} failed: {reason}")
        return read(files[0], sha256)
