"""Exit codes, and the one place where an error becomes one.

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong use or configuration |
| 3 | no evidence at all |
| 75 | already running |
| 78 | model refused |
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipeline.errors import DemeanorError, ModelError, PolicyRefused, SpecError, UsageError
from services.bus.runtime import AlreadyRunning

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


_LONGEST = 2000


class Exit(IntEnum):
    """What the command tells its caller."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_EVIDENCE = 3
    ALREADY_RUNNING = 75
    MODEL_REFUSED = 78


def code_of(error: Exception) -> Exit:
    """Return the exit code of an error raised on purpose."""
    if isinstance(error, AlreadyRunning):
        return Exit.ALREADY_RUNNING
    if isinstance(error, (ModelError, SpecError)):
        return Exit.MODEL_REFUSED
    if isinstance(error, (UsageError, ValidationError, PolicyRefused)):
        return Exit.USAGE
    return Exit.FAILED


def interruptible() -> None:
    """Let Ctrl-C raise from here on: there is something to tidy up."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def complain(message: str) -> None:
    """Say what went wrong on stderr, in one line."""
    print(f"demeanor: {message}", file=sys.stderr)


def sentence(error: Exception) -> str:
    """Return the error as one line for the person who can mend it."""
    words = str(error)
    if isinstance(error, ValidationError):
        words = _of_setting(error.errors()[0])
    line = " ".join(words.split())
    # It may quote a file or a peer: no colours, no cursor moves, no screenful.
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:_LONGEST]


def _of_setting(found: "ErrorDetails") -> str:
    """Say which setting cannot be what it was set to; a Redis address may hold a password."""
    from services.settings import Settings, alike

    name = str(found["loc"][0]) if found["loc"] else "settings"
    if found["type"] == "extra_forbidden":
        meant = alike(name)
        known = f"did you mean '{meant}'?" if meant else f"use {', '.join(Settings.model_fields)}"
        return f"'{name}' is no setting: {known}"
    if found["type"] == "value_error":  # our own words
        said = found["msg"].removeprefix("Value error, ")
        return said if said.startswith(name) else f"{name}: {said}"
    said = found["msg"].partition(", unable")[0].replace("a valid tuple", "a list")
    said = said.replace("Input should", f"{name} must").replace("String should", f"{name} must")
    return said if name == "redis_url" else f"{said}, not {found['input']!r}"


@contextmanager
def guarded() -> Iterator[None]:
    """Turn errors raised on purpose into one line and an exit code; let bugs through."""
    try:
        yield
    except (DemeanorError, ValidationError) as error:
        complain(sentence(error))
        raise SystemExit(code_of(error)) from None
