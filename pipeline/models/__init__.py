"""The built-in ONNX files, their manifest, licences and model cards.

Comes in: a model's name (``face-expression``). Goes out: the bytes of its file, proven against the
manifest's SHA-256, its manifest entry, or the golden answers it must give. Nothing is read at
import. :mod:`pipeline.session` turns the bytes into something that runs.
"""

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelRefused
from pipeline.spec import Kind

MANIFEST_FILE = "manifest.json"
GOLDEN_FILE = "golden.npz"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One built-in model file."""

    name: str
    """Name it is asked for by: the file name without its suffix."""
    file: str
    kind: Kind
    version: str
    bytes: int
    sha256: str
    licence: str
    source: str
    card: str
    """File of the model card."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All built-in model files, by name."""

    models: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Golden:
    """One input of a model and what it answered when it was exported."""

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]


@cache
def manifest() -> Manifest:
    """Return the manifest; raises :class:`ModelRefused` when it is missing or malformed."""
    try:
        return decode(path(MANIFEST_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelRefused(
            f"the built-in models' {MANIFEST_FILE} is damaged or missing ({error}): "
            "reinstall demeanor"
        ) from None


def decode(manifest: bytes) -> Manifest:
    """Read a manifest. Raises :class:`ValueError` for anything else, and for a file elsewhere."""
    read = msgspec.json.decode(manifest, type=Manifest)
    for each in read.models.values():
        if PurePath(each.file).name != each.file:
            raise ValueError(f"'{each.file}' is no plain file name")
    return read


def is_what_it_was(entry: Entry, found: bytes) -> bool:
    """Tell whether ``found`` are the very bytes that ``entry`` records."""
    return len(found) == entry.bytes and hashlib.sha256(found).hexdigest() == entry.sha256


def path(file: str) -> Traversable:
    """Return the place of ``file`` among the built-in files; it need not exist."""
    return files(__package__) / file


def entry(name: str) -> Entry:
    """Return the manifest entry of ``name``; raises :class:`ModelRefused` for an unknown one."""
    models = manifest().models
    if name not in models:
        raise ModelRefused(f"no built-in model '{name}': choose from {', '.join(sorted(models))}")
    return models[name]


def verified_bytes(name: str) -> bytes:
    """Return the bytes of the built-in model ``name``.

    Raises :class:`ModelRefused`, naming the file and both digests, unless they are exactly the
    bytes that the manifest records.
    """
    wanted = entry(name)
    try:
        found = path(wanted.file).read_bytes()
    except OSError as error:
        raise ModelRefused(
            f"the built-in model {wanted.file} cannot be read ({error.strerror}): "
            "reinstall demeanor"
        ) from None
    if not is_what_it_was(wanted, found):
        digest = hashlib.sha256(found).hexdigest()
        raise ModelRefused(
            f"the built-in model {wanted.file} is damaged: its SHA-256 is {digest}, the manifest "
            f"says {wanted.sha256}; reinstall demeanor"
        )
    return found


def golden(name: str) -> Golden:
    """Return the golden answers of ``name``: ask its session for them and expect them within 1e-3.

    Raises :class:`ModelRefused` when the file is damaged or knows no such model.
    """
    try:
        with np.load(io.BytesIO(path(GOLDEN_FILE).read_bytes()), allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files if key.startswith(f"{name}/")}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelRefused(f"{GOLDEN_FILE} is damaged ({error}): reinstall demeanor") from None
    if not arrays:
        raise ModelRefused(f"{GOLDEN_FILE} holds no answers of '{name}': reinstall demeanor")
    return Golden(_side(arrays, f"{name}/in/"), _side(arrays, f"{name}/out/"))


def _side(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if prefix in key}
