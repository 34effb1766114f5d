"""How many streams this machine holds, as ``demeanor calibrate`` measured it.

Kept in the user's state folder, one entry for each machine and model, so that a result does not
follow a home directory to another machine.
"""

import os
import platform
from pathlib import Path
from typing import Final

import msgspec

from services.load import cores
from services.settings import Settings

FILE: Final = "calibration.json"
MOST_ENTRIES: Final = 64


class Calibration(msgspec.Struct, frozen=True):
    """One result."""

    max_streams: int
    """Streams that ran with nothing skipped and every limit kept."""
    measured_at: str
    """Day of the measurement, ISO 8601."""
    machine: str
    model: str


_decoder = msgspec.json.Decoder(dict[str, Calibration])


def state_folder() -> Path:
    """Return the folder for what outlives a process; it may not exist yet."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    return base / "demeanor"


def machine() -> str:
    """Return what the number of streams depends on: processor and usable cores."""
    return f"{_processor()}, {cores():g} cores"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "cpu model"):
                return " ".join(value.split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def stored(model: str, folder: Path | None = None) -> Calibration | None:
    """Return the result for this machine and the model of digest ``model``, or None."""
    return _read(folder).get(_key(model))


def store(result: Calibration, folder: Path | None = None) -> Path:
    """Keep a result; return the file it is in. Raises :class:`OSError`."""
    where = folder or state_folder()
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    entries = _read(where)
    entries.pop(_key(result.model), None)
    kept = dict([*entries.items(), (_key(result.model), result)][-MOST_ENTRIES:])
    path = where / FILE
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    fresh.replace(path)
    return path


def effective(settings: Settings, model: str) -> tuple[Settings, str]:
    """Return the settings to run with, and where their ``max_streams`` comes from.

    What somebody set counts; else what was measured here; else the default.
    """
    if "max_streams" in settings.model_fields_set:
        return settings, "as configured"
    found = stored(model)
    if found is None:
        return settings, "not measured: demeanor calibrate"
    measured = settings.model_copy(update={"max_streams": found.max_streams})
    return measured, f"measured here on {found.measured_at}"


def _key(model: str) -> str:
    return f"{machine()} / {model}"


def _read(folder: Path | None) -> dict[str, Calibration]:
    """Return all entries; a file that cannot be read is as good as none."""
    try:
        return _decoder.decode(((folder or state_folder()) / FILE).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
