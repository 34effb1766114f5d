"""Where the public keys lie: a file or an ``https`` address, followed while the server runs.

A set that cannot be read changes nothing: the keys known so far stay, a failure is counted and
logged once. A key that left the set is gone with the next reading.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp
import structlog

from pipeline.errors import UsageError
from services.auth import is_loopback
from services.clock import Clock
from services.identity.keys import MAX_BYTES, Key, KeySet, parse
from services.tasks import cancelled

FILE_POLL_S: Final = 1.0
FETCH_S: Final = 300.0
AGAIN_S: Final = 10.0
"""The least time between two fetches, however many unknown keys are named."""
FETCH_TIMEOUT_S: Final = 5.0
STALE_S: Final = 3600.0
"""Keys that could not be fetched again for so long are no longer trusted."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Held:
    """The newest good set, and how reading it goes."""

    keys: KeySet = field(default_factory=dict)
    readings: int = 0
    failures: int = 0
    failing: bool = False

    def take(self, data: bytes) -> None:
        """Replace the set. Raises :class:`UsageError`."""
        self.keys = parse(data, self.keys)
        self.readings += 1
        self.failing = False

    def fail(self, why: Exception) -> None:
        """Count a failure and log the first of a row."""
        self.failures += 1
        if not self.failing:
            _log.warning("token keys cannot be read; the old ones stay", why=str(why))
        self.failing = True

    def statistics(self) -> dict[str, float]:
        """Return gauges and counters."""
        return {
            "keys": len(self.keys),
            "key_readings_total": self.readings,
            "key_failures_total": self.failures,
        }


class FileKeys:
    """Keys of a JWKS file, read again when it changes; an async context manager."""

    def __init__(self, path: Path, poll_s: float = FILE_POLL_S) -> None:
        self._path = path
        self._poll_s = poll_s
        self._held = _Held()
        self._seen: tuple[int, ...] = ()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Read the file. Raises :class:`~pipeline.errors.UsageError`."""
        self._seen, data = await asyncio.to_thread(_read, self._path)
        try:
            self._held.take(data)
        except UsageError as error:
            raise UsageError(f"--token-keys: {self._path}: {error}") from None
        self._task = asyncio.create_task(self._follow(), name="token-keys")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await cancelled(self._task)

    def find(self, kid: str) -> Key | None:
        """Return the key of that name as of now."""
        return self._held.keys.get(kid)

    def missed(self) -> None:
        """Nothing to do: the file is looked at each second anyway."""

    def statistics(self) -> dict[str, float]:
        """Return gauges and counters."""
        return self._held.statistics()

    async def refresh(self) -> None:
        """Read the file again if it changed."""
        try:
            seen = await asyncio.to_thread(_mark, self._path)
            if seen == self._seen:
                return
            seen, data = await asyncio.to_thread(_read, self._path)
            self._held.take(data)
            self._seen = seen
        except UsageError as error:
            self._seen = ()
            self._held.fail(error)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await _guarded(self.refresh, self._held)


class UrlKeys:
    """Keys of an address, fetched every few minutes; an async context manager."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._held = _Held()
        self._wanted = asyncio.Event()
        self._fetched_s = clock.monotonic_s()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Fetch the set. Raises :class:`~pipeline.errors.UsageError`."""
        timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
        self._http = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        try:
            self._held.take(await self._fetch())
        except UsageError as error:
            await self._http.close()
            raise UsageError(f"--token-keys: {self._url}: {error}") from None
        self._task = asyncio.create_task(self._follow(), name="token-keys")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await cancelled(self._task)
        await self._http.close()

    def find(self, kid: str) -> Key | None:
        """Return the key of that name, unless the set could not be fetched for an hour."""
        if self._clock.monotonic_s() - self._fetched_s > STALE_S:
            return None
        return self._held.keys.get(kid)

    def missed(self) -> None:
        """Fetch soon: a new key may be in use."""
        self._wanted.set()

    def statistics(self) -> dict[str, float]:
        """Return gauges and counters."""
        age_s = self._clock.monotonic_s() - self._fetched_s
        return {**self._held.statistics(), "keys_age_seconds": age_s}

    async def refresh(self) -> None:
        """Fetch now; the old keys stay when that fails."""
        try:
            self._held.take(await self._fetch())
            self._fetched_s = self._clock.monotonic_s()
        except UsageError as error:
            self._held.fail(error)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            try:
                async with asyncio.timeout(FETCH_S - AGAIN_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            await _guarded(self.refresh, self._held)

    async def _fetch(self) -> bytes:
        try:
            async with self._http.get(self._url, allow_redirects=False) as response:
                if response.status != HTTPStatus.OK:
                    raise UsageError(f"it answers HTTP {response.status} instead of a key set")
                return await _bounded(response.content)
        except (aiohttp.ClientError, OSError) as error:
            raise UsageError(f"it cannot be fetched ({type(error).__name__})") from None


FollowedKeys = FileKeys | UrlKeys


def follow(where: str, hosts: Sequence[str], clock: Clock) -> FollowedKeys:
    """Return the keys that setting ``token_keys`` names, to be entered.

    Raises :class:`~pipeline.errors.UsageError` for an address that is not allowed.
    """
    if "://" not in where:
        return FileKeys(Path(where))
    parts = urlsplit(where)
    host = (parts.hostname or "").lower()
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise UsageError("--token-keys must be a file or an https:// address")
    if parts.username is not None or parts.password is not None:
        raise UsageError("--token-keys: the address of public keys needs no user and no password")
    if host not in [allowed.lower() for allowed in hosts]:
        raise UsageError(
            f"--token-keys names the host '{host}': allow it with --token-key-hosts {host}"
        )
    return UrlKeys(where, clock)


async def _guarded(refresh: Callable[[], Awaitable[None]], held: _Held) -> None:
    """Read again; a fault of ours must not be the last reading, or a lost key would stay good."""
    try:
        await refresh()
    except Exception as error:  # noqa: BLE001 - the task boundary; counted and logged by its type
        held.fail(UsageError(f"a fault of ours ({type(error).__name__})"))


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    data = bytearray()
    async for chunk in content.iter_any():
        data += chunk
        if len(data) > MAX_BYTES:
            raise UsageError(f"the key set is longer than {MAX_BYTES} bytes")
    return bytes(data)


def _mark(path: Path) -> tuple[int, ...]:
    """Return what changes when the file does, also when a link to it is turned."""
    try:
        found = path.stat()
    except OSError as error:
        raise UsageError(f"--token-keys: {path} cannot be read: {error.strerror}") from None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> tuple[tuple[int, ...], bytes]:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--token-keys: {path} cannot be read: {error.strerror}") from None
    return (found.st_mtime_ns, found.st_size, found.st_ino), data
