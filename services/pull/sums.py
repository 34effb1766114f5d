"""Digests as ``sha256sum`` writes and checks them: who has them by a trusted way brings them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.errors import UsageError

FILE: Final = "SHA256SUMS"
"""Written beside what was pulled; ``sha256sum -c SHA256SUMS`` checks it without us."""
LONGEST: Final = 1 << 20
_LINE: Final = re.compile(r"\\?([0-9a-fA-F]{64})\s[ *]?(\S.*)")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_KINDS: Final = (".safetensors", ".json", ".txt")


def plain(name: str) -> bool:
    """Tell whether ``name`` is a plain file name of a kind that is fetched; no pickle is."""
    return _NAME.fullmatch(name) is not None and name.endswith(_KINDS)


def read(path: Path) -> dict[str, str]:
    """Return file name → digest in lower case, of files of our kinds; others are left out.

    Raises :class:`UsageError` for a file that cannot be read, or in which a line is no digest.
    """
    try:
        with path.open(encoding="utf-8") as opened:
            text = opened.read(LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as digests: {error}") from None
    if len(text) > LONGEST:
        raise UsageError(f"{path} is too long for a list of digests: is it the right file?")
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise UsageError(
                f"{path}, line {number}: is no line of sha256sum (64 hexadecimal digits, two "
                "spaces, a file name)"
            )
        name, digest = match[2].removeprefix("./"), match[1].lower()
        if found.get(name, digest) != digest:
            raise UsageError(f"{path}, line {number}: another digest of {name} stands above")
        found[name] = digest
    return {name: digest for name, digest in found.items() if plain(name)}


def write(path: Path, digests: Mapping[str, str]) -> None:
    """Write all digests at once: the old file or the new one stays, never half of one."""
    made = path.with_name(f"{path.name}.new")
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    with made.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    made.replace(path)
