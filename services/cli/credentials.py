"""How verbs that talk to a server get its token and trust its certificate.

A token never stands on a command line, where every process list shows it: it comes from a file,
from standard input or from ``DEMEANOR_TOKEN``. ``dev`` is sent by itself, to this machine only.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from pipeline.errors import UsageError
from services.auth import DEV_TOKEN, is_loopback
from services.cli.exits import complain

if TYPE_CHECKING:
    import aiohttp

VARIABLE: Final = "DEMEANOR_TOKEN"
_MAX_CHARS: Final = 3000
_ASK_S: Final = 10.0

TokenFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help=f"File with the bearer token, - is standard input. [{VARIABLE}; 'dev' on loopback]",
        show_default=False,
    ),
]
"""Option ``--token-file``."""
Authority = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="Authority that signed the server's certificate (PEM). [the system's]",
        show_default=False,
    ),
]
"""Option ``--ca``."""


def token_for(url: str, token_file: str | None) -> str | None:
    """Return the token for ``url``, or None when there is none to send.

    Says on stderr when it would travel in clear. Raises :class:`~pipeline.errors.UsageError` for a
    file that cannot be read or holds no token.
    """
    here = is_loopback(urlsplit(url).hostname or "")
    token = given(token_file)
    if token is None:
        return DEV_TOKEN if here else None
    if not here and urlsplit(url).scheme in ("http", "ws"):
        complain("the token travels in clear: use https:// or wss:// if the server has TLS")
    return token


def given(token_file: str | None) -> str | None:
    """Return the token that was given by file, standard input or variable; None without one.

    Raises :class:`~pipeline.errors.UsageError`.
    """
    if token_file is None:
        text, where = os.environ.get(VARIABLE, ""), VARIABLE
        if not text.strip():
            return None
    elif token_file == "-":  # noqa: S105 - a file name
        text, where = sys.stdin.read(_MAX_CHARS + 2), "standard input"
    else:
        text, where = _read(token_file), token_file
    token = text.strip()
    if not token or len(token) > _MAX_CHARS or not token.isascii() or len(token.split()) != 1:
        raise UsageError(f"{where} holds no token: it must be one word, as it was issued")
    return token


def base_of(to: str) -> str:
    """Return ``http(s)://HOST:PORT`` of what a person typed.

    Raises :class:`~pipeline.errors.UsageError`.
    """
    try:
        parts = urlsplit(to if "://" in to else f"http://{to}")
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"'{to}' is no address of a server: write http://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@asynccontextmanager
async def talking(
    base: str, token_file: str | None, ca: Path | None
) -> AsyncIterator["aiohttp.ClientSession"]:
    """Yield a client for the server at ``base``, with its token and its authority.

    Raises :class:`~pipeline.errors.UsageError` for files that cannot be used, and
    :class:`~services.tls.Untrusted`.
    """
    import aiohttp

    from services.tls import check_certificate, client_context

    token = token_for(base, token_file)
    tls = client_context(ca)
    await asyncio.to_thread(check_certificate, base, tls)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(ssl=tls)
    limit = aiohttp.ClientTimeout(total=_ASK_S)
    async with aiohttp.ClientSession(headers=headers, timeout=limit, connector=connector) as client:
        yield client


def _read(name: str) -> str:
    try:
        with Path(name).open(encoding="utf-8") as file:
            return file.read(_MAX_CHARS + 2)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} holds no token: it must be one word, as it was issued") from None
