"""One file over HTTP: resumed where it broke off, bounded in size, by https or from this machine.

Redirects are followed by hand: only to https, only a few. A connection that breaks or a server that
is busy is tried again with growing pauses; as long as bytes arrive it does not give up.
"""

import asyncio
import re
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, urljoin, urlsplit

import aiohttp

from pipeline.errors import UsageError
from services.auth import is_loopback
from services.pull.errors import Missing, Passing, PullFailed
from services.pull.part import Part

REDIRECTS: Final = 5
PLACES: Final = "/{repo}/resolve/{revision}/{file}"
"""How hubs lay out their files; added to an address without places of its own."""
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_PARTIAL: Final = 206
_BEYOND: Final = 416
_CHUNK: Final = 1 << 18
_ROOM: Final = 64 << 20
"""Bytes of the disk that stay free."""
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")

Told = Callable[[int, int | None], None]
"""Told the bytes there are and how many it will be, None while unknown."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try."""

    tries: int = 6
    """Failures in a row, without a byte in between."""
    pause_s: float = 1.0
    """After the first failure; doubles."""
    longest_s: float = 30.0
    connect_s: float = 20.0
    quiet_s: float = 60.0
    """Without a byte, until the connection counts as broken."""


def template(base: str) -> str:
    """Return the address of a file with its places, of what a person gave.

    Raises :class:`UsageError` for anything but https, or http to this machine.
    """
    if not reachable(base):
        raise UsageError(
            f"'{base.partition('?')[0]}' cannot be pulled from: give an https:// address without "
            "user name and password, or http:// of this machine"
        )
    return base if "{file}" in base else base.rstrip("/") + PLACES


def reachable(url: str) -> bool:
    """Tell whether an address is https, or http on this machine, without a password in it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or parts.username or parts.password:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def address(places: str, repository: str, revision: str, file: str) -> str:
    """Return the address of one file."""
    given = {"repo": repository, "revision": revision, "file": file}
    for name, value in given.items():
        places = places.replace(f"{{{name}}}", quote(value))
    return places


class Fetcher:
    """Fetches files over one connection pool; an open context."""

    def __init__(self, patience: Patience, *, proxies: bool = True) -> None:
        self._patience = patience
        self._proxies = proxies
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "demeanor-models-pull"},
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._patience.connect_s,
                sock_read=self._patience.quiet_s,
            ),
            trust_env=self._proxies,
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch(self, url: str, part: Part, most: int, told: Told) -> None:
        """Fill ``part``; ``most`` bytes are taken.

        Raises :class:`Missing` and :class:`PullFailed`; what came stays in the part.
        """
        failures = 0
        while True:
            before = part.size
            try:
                await self._once(url, part, most, told)
            except aiohttp.ClientConnectorCertificateError as error:
                raise PullFailed(
                    f"the certificate of {error.host} is not trusted: check the address, or name "
                    "the authority that signed it in the variable SSL_CERT_FILE"
                ) from None
            except (Passing, aiohttp.ClientError, TimeoutError) as error:
                failures = 1 if part.size > before else failures + 1
                if failures >= self._patience.tries:
                    raise PullFailed(
                        f"{part.target.name} could not be fetched ({_why(error)}): give the same "
                        "command again later, which goes on from here"
                    ) from None
            else:
                return
            pause_s = self._patience.pause_s * 2 ** (failures - 1)
            await asyncio.sleep(min(pause_s, self._patience.longest_s))

    async def _once(self, url: str, part: Part, most: int, told: Told) -> None:
        headers = {}
        if part.size and part.tag:
            headers = {"Range": f"bytes={part.size}-", "If-Range": part.tag}
        async with self._opened(url, headers) as response:
            _accept(response, part)
            length = response.content_length
            total = None if length is None else part.size + length
            _check_room(part, total, most)
            told(part.size, total)
            async for chunk in response.content.iter_chunked(_CHUNK):
                if part.size + len(chunk) > most:
                    raise PullFailed(_too_large(part, most))
                part.add(chunk)
                told(part.size, total)
        if total is not None and part.size != total:
            raise Passing(f"{part.size} of {total} bytes came")

    @asynccontextmanager
    async def _opened(
        self, url: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the fetcher is not open")
        for _ in range(REDIRECTS + 1):
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status not in _MOVED:
                    yield response
                    return
                url = _moved(url, response.headers.get("Location", ""))
        raise PullFailed(f"the server redirects more than {REDIRECTS} times: is the address right?")


def _moved(url: str, location: str) -> str:
    """Return where a redirect leads; only https will do."""
    target = urljoin(url, location)
    if urlsplit(target).scheme != "https" or not reachable(target):
        scheme = urlsplit(target).scheme or "nothing"
        raise PullFailed(f"the server redirects to {scheme}, which is not followed: only https is")
    return target


def _accept(response: aiohttp.ClientResponse, part: Part) -> None:
    """Bring ``part`` to where this answer's bytes belong, or raise."""
    name, status = part.target.name, response.status
    tag = response.headers.get("ETag")
    if status == _PARTIAL:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != part.size or tag not in (None, part.tag):
            part.restart(None)
            raise Passing("the server sent another part than was asked for")
    elif status == 200:
        part.restart(tag)
    elif status == _BEYOND:
        part.restart(None)
        raise Passing("the server's file is shorter than what was there")
    elif status in (404, 410):
        raise Missing(f"the server has no {name} of this repository and revision")
    elif status in (401, 403):
        raise PullFailed(
            f"the server refuses {name} ({status}): accept its terms there and fetch it by hand, "
            "or check the repository's name"
        )
    elif status in _BUSY:
        raise Passing(f"the server answered {status}")
    else:
        raise PullFailed(f"the server answered {status} for {name}: is the address right?")


def _check_room(part: Part, total: int | None, most: int) -> None:
    if total is None:
        return
    if total > most:
        raise PullFailed(_too_large(part, most))
    free = shutil.disk_usage(part.path.parent).free
    if total - part.size > free - _ROOM:
        raise PullFailed(
            f"{part.target.name} needs {(total - part.size) >> 20} MiB more and "
            f"{part.path.parent} has {free >> 20} MiB free: make room, or choose another --to"
        )


def _too_large(part: Part, most: int) -> str:
    return f"{part.target.name} is larger than {most >> 20} MiB: is the address right?"


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
