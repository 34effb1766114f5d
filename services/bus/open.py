"""Which bus a process uses: the server it was told, else one of its own, else memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from pipeline.errors import UsageError
from services.bus import binary, rights, server
from services.bus.embedded import EmbeddedServer
from services.bus.memory import MemoryBus
from services.bus.redis import RedisBus
from services.settings import Settings

MEMORY_URL = "memory://"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OpenBus:
    """An open bus and how to tell people about it."""

    bus: RedisBus | MemoryBus
    description: str
    """Such as ``valkey 9.1 (embedded, private socket)``."""
    embedded: EmbeddedServer | None = None


@asynccontextmanager
async def open_bus(settings: Settings) -> AsyncIterator[OpenBus]:
    """Open the bus that ``settings.redis_url`` names; empty: a server of our own.

    Call it from the main thread. Raises :class:`~pipeline.errors.BusError` when the server is
    away and :class:`~pipeline.errors.UsageError` when it or its address cannot be used.
    """
    url = settings.redis_url
    if url and url.startswith(MEMORY_URL):
        yield OpenBus(MemoryBus(), "memory (this process only)")
    elif url:
        password, ca = _password(settings.redis_password_file), settings.redis_ca
        await rights.examine(url, password, ca)
        async with RedisBus.at(url, password, ca) as bus:
            yield OpenBus(bus, f"{bus.name} at {server.where(url)}")
    else:
        async with _own() as opened:
            yield opened


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"the password file {file} of DEMEANOR_REDIS_PASSWORD_FILE cannot be read: {why}"
        ) from None
    if not password:
        raise UsageError(
            f"the password file {file} is empty: write the Redis password into it, on one line"
        )
    return password


@asynccontextmanager
async def _own() -> AsyncIterator[OpenBus]:
    found = binary.find()
    if found is None:
        _log.warning("no Redis or Valkey program found; results live in this process only")
        yield OpenBus(
            MemoryBus(),
            "memory (no server program found: set DEMEANOR_REDIS_URL=redis://HOST:6379)",
        )
        return
    async with (
        EmbeddedServer(found) as embedded,
        RedisBus.at(embedded.url, embedded.password) as bus,
    ):
        yield OpenBus(bus, f"{bus.name} (embedded, private socket)", embedded)
