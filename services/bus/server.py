"""Reaching a Redis or Valkey server: one client, and a plain sentence for what is wrong with it."""

import ipaddress
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from pipeline.errors import BusError, UsageError
from services.bus.connections import translate

Client = Any
"""``redis.asyncio.Redis``; its answers are typed as unions of everything it could ever say."""
SCHEMES = ("redis", "rediss", "unix")
FLOOR = {"redis": (7, 0), "valkey": (8, 0)}
"""Oldest version of each server that the bus runs on."""
_REFUSED = (AuthenticationError, AuthorizationError)
TIMEOUT_S = 2.0
_CONNECTIONS = 32
_LOGIN = (
    "with DEMEANOR_REDIS_URL=redis://USER@HOST:6379 and its password in the file that "
    "DEMEANOR_REDIS_PASSWORD_FILE names"
)


def client(url: str, password: str | None = None, ca: Path | None = None) -> Client:
    """Return a client that never retries by itself: the bus decides what an outage means.

    ``rediss://`` proves the server's certificate and host name, always: against ``ca`` (PEM) and
    the authorities of the system. Raises :class:`~pipeline.errors.UsageError` for a URL that names
    no server, and for a password or authority that cannot be used with it.
    """
    options: dict[str, Any] = {} if password is None else {"password": password}
    try:
        _check(url, password, ca)
        if ca is not None:
            options |= {"ssl_ca_certs": str(ca)}
        if url.startswith("rediss://"):
            options |= {"ssl_min_version": ssl.TLSVersion.TLSv1_2}
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,  # its commands need a right of their own
            **options,
        )
    except ValueError as error:
        raise UsageError(
            f"'{where(url)}' is no address of a Redis server: set DEMEANOR_REDIS_URL to "
            "redis://HOST:6379, rediss://HOST:6379 or unix:///PATH"
        ) from error
    translate(pool)
    return Redis.from_pool(pool)


def _check(url: str, password: str | None, ca: Path | None) -> None:
    """Refuse what would weaken the connection or be ignored; ValueError for what is no URL."""
    parts = urlsplit(url)
    if parse_qs(parts.query, keep_blank_values=True).keys() - {"db"}:
        # Options of the client could put the password into the open or the proof of TLS out. They
        # are not named here: what looks like one may be half a password.
        raise UsageError(
            "DEMEANOR_REDIS_URL may carry no option but db: use DEMEANOR_REDIS_PASSWORD_FILE and "
            "DEMEANOR_REDIS_CA, and write ? and # in a password as %3F and %23"
        )
    if password is not None and parts.password:
        raise UsageError(
            "DEMEANOR_REDIS_URL and DEMEANOR_REDIS_PASSWORD_FILE both give a password: "
            "keep the file, and write redis://USER@HOST:6379"
        )
    if ca is None:
        return
    if parts.scheme != "rediss":
        raise UsageError(
            "DEMEANOR_REDIS_CA needs TLS: set DEMEANOR_REDIS_URL to rediss://HOST:6379"
        )
    try:
        ssl.create_default_context(cafile=ca)
    except OSError as error:
        why = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"the authority {ca} of DEMEANOR_REDIS_CA cannot be used: {why}") from None


def in_the_open(url: str) -> bool:
    """Tell whether what goes to ``url`` leaves this machine without TLS."""
    parts = urlsplit(url)
    if parts.scheme != "redis":
        return False
    host = parts.hostname or "localhost"
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def where(url: str) -> str:
    """Return ``url`` without user, password and query, for people.

    What is no proper address may hold a password in odd places, so only what surely is none shows.
    """
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.rpartition("@")[2].partition("?")[0].partition("/")
    if not mark or scheme not in SCHEMES:
        return url.rpartition("@")[2].partition("?")[0]
    host = re.sub(r"(?<![:\d]):(?!\d*$).*", "", host) if "[" not in host else host
    return f"{scheme}://{host}{slash}{path}"


async def greet(client: Client, url: str) -> str:
    """Authenticate, check the version and return a short name such as ``valkey 9.1``.

    Raises a retryable :class:`~pipeline.errors.BusError` when nobody answers and
    :class:`~pipeline.errors.UsageError` when the server cannot serve as a bus.
    """
    place = where(url)
    try:
        hello = await client.execute_command("HELLO")
        await client.ping()
    except NoPermissionError as error:
        raise UsageError(lacking(place, "PING")) from error
    except ResponseError as error:  # servers before 6 do not know HELLO
        raise UsageError(
            f"{place} refused the greeting ({error}): use Redis >= 7.0 or Valkey >= 8, {_LOGIN}"
        ) from error
    except (RedisError, OSError) as error:
        raise unreachable(place, error) from error
    return _accepted(_fields(hello), place)


def lacking(place: str, rights: str) -> str:
    """Return the sentence about a user that may not do what the bus needs."""
    return (
        f"{place} does not let this user run {rights}: give it the rights that "
        "deploy/redis/users.acl lists (python -m services.bus.acl prints them)"
    )


def unreachable(place: str, error: BaseException) -> BusError | UsageError:
    """Return what to tell about a connection that could not be made, from its chain of causes."""
    for cause in _causes(error):
        if isinstance(cause, _REFUSED):
            return UsageError(f"{place} refused the user or password: connect {_LOGIN}")
        if isinstance(cause, NoPermissionError):
            return UsageError(lacking(place, "SELECT"))
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UsageError(
                f"{place} cannot prove who it is ({cause.verify_message}): set DEMEANOR_REDIS_CA "
                "to the PEM file of its authority, and use the host name that its certificate has"
            )
        if isinstance(cause, ssl.SSLError):
            return UsageError(
                f"{place} speaks no TLS that can be used ({cause.reason or 'broken off'}): is it a "
                "redis:// address, or does it ask for a client certificate?"
            )
    silent = " (or does it speak no TLS?)" if place.startswith("rediss:") else ""
    return BusError(
        f"no Redis answers at {place}{silent}: start it, or set DEMEANOR_REDIS_URL "
        "(leave it empty to use the server that comes with Demeanor)",
        retryable=True,
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _fields(hello: list[object]) -> dict[str, str]:
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in hello]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def _accepted(hello: dict[str, str], place: str) -> str:
    kind, version = hello["server"], hello["version"]
    floor = FLOOR.get(kind, FLOOR["redis"])
    if version_of(version) < floor:
        least = ".".join(map(str, floor))
        raise UsageError(
            f"{place} runs {kind} {version}, the bus needs {kind} >= {least}: upgrade it, or "
            "leave DEMEANOR_REDIS_URL empty to use the server that comes with Demeanor"
        )
    if hello.get("mode") == "cluster":
        raise UsageError(
            f"{place} is a node of a Cluster: set DEMEANOR_REDIS_URL to a standalone server"
        )
    if hello.get("role") not in (None, "master"):
        raise UsageError(f"{place} is a replica: set DEMEANOR_REDIS_URL to its primary")
    return f"{kind} {'.'.join(version.split('.')[:2])}"


def version_of(text: str) -> tuple[int, int]:
    """Return (major, minor) of ``9.1.2``."""
    major, _, rest = text.partition(".")
    return int(major), int(rest.partition(".")[0] or 0)
