"""A model file's bytes, read once and only from where they were said to be.

Comes in: the path that a person gave. Goes out: the bytes of a plain file in that very folder, of
the size and SHA-256 that a ``manifest.json`` beside it records, if there is one that names it
(``python -m exporters`` writes it). It does not look inside: :mod:`pipeline.session` does.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from pipeline import models
from pipeline.errors import ModelRefused

LARGEST_BYTES: Final = 2**31 - 1
"""A protobuf message, and so an ONNX file, cannot be longer."""


def read(path: Path) -> bytes:
    """Return the bytes of ``path``.

    Raises :class:`ModelRefused`, naming the file, when it cannot be read, is no plain file, is a
    link out of its folder, is too large, or is not what the manifest beside it records.
    """
    try:
        real = path.resolve(strict=True)
        if real.parent != path.parent.resolve():
            raise ModelRefused(f"the model {path} is a link out of its folder: copy the file there")
        found = _plain(real, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        why = getattr(error, "strerror", None) or "it is a loop of links"
        raise ModelRefused(f"cannot read the model {path}: {why}") from None
    _prove(path, found)
    return found


def _plain(real: Path, path: Path) -> bytes:
    """Read a regular file; a pipe or a device would have no end."""
    handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ModelRefused(f"cannot read the model {path}: it is no file")
        if status.st_size > LARGEST_BYTES:
            raise ModelRefused(f"the model {path} is larger than an ONNX file can be (2 GiB)")
        return file.read(LARGEST_BYTES)


def _prove(path: Path, found: bytes) -> None:
    beside = path.parent / models.MANIFEST_FILE
    if not beside.is_file():
        return
    try:
        manifest = models.decode(beside.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelRefused(
            f"{beside} cannot be used ({error}): write it again, or remove it"
        ) from None
    for entry in manifest.models.values():
        if entry.file == path.name and not models.is_what_it_was(entry, found):
            raise ModelRefused(
                f"{path} is damaged: it holds {len(found)} bytes with SHA-256 "
                f"{hashlib.sha256(found).hexdigest()}, {beside} says {entry.bytes} and "
                f"{entry.sha256}; fetch it again"
            )
