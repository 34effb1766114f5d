"""Reaching a Redis or Valkey server: one client, and a plain sentence for what is wrong with it."""

from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    RedisError,
    ResponseError,
)

from pipeline.errors import BusError, UsageError

Client = Any
"""``redis.asyncio.Redis``; its answers are typed as unions of everything it could ever say."""
SCHEMES = ("redis", "rediss", "unix")
FLOOR = {"redis": (7, 0), "valkey": (8, 0)}
"""Oldest version of each server that the bus runs on."""
_REFUSED = (AuthenticationError, AuthorizationError)
_TIMEOUT_S = 2.0
_CONNECTIONS = 32


def client(url: str, password: str | None = None) -> Client:
    """Return a client that never retries by itself: the bus decides what an outage means.

    Raises :class:`~pipeline.errors.UsageError` for a URL that names no server.
    """
    options = {} if password is None else {"password": password}
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT_S,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            **options,
        )
    except ValueError as error:
        raise UsageError(
            f"'{where(url)}' is no address of a Redis server: set DEMEANOR_REDIS_URL to "
            "redis://HOST:6379, rediss://HOST:6379 or unix:///PATH"
        ) from error
    return Redis.from_pool(pool)


def where(url: str) -> str:
    """Return ``url`` without user, password and query, for people."""
    bare = url.rpartition("@")[2].partition("?")[0]
    try:
        parts = urlsplit(url)
    except ValueError:
        return bare
    if not parts.scheme:
        return bare
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


async def greet(client: Client, url: str) -> str:
    """Authenticate, check the version and return a short name such as ``valkey 9.1``.

    Raises a retryable :class:`~pipeline.errors.BusError` when nobody answers and
    :class:`~pipeline.errors.UsageError` when the server cannot serve as a bus.
    """
    place = where(url)
    try:
        hello = await client.execute_command("HELLO")
        await client.ping()
    except ResponseError as error:  # servers before 6 do not know HELLO
        raise UsageError(
            f"{place} refused the greeting ({error}): use Redis >= 7.0 or Valkey >= 8, with user "
            "and password in DEMEANOR_REDIS_URL=redis://USER:PASSWORD@HOST:6379"
        ) from error
    except (RedisError, OSError) as error:
        # A refused password comes as the cause of a connection that could not be made.
        if isinstance(error, _REFUSED) or isinstance(error.__cause__, _REFUSED):
            raise UsageError(_wrong_password(place)) from error
        raise BusError(
            f"no Redis answers at {place}: start it, or set DEMEANOR_REDIS_URL "
            "(leave it empty to use the server that comes with Demeanor)",
            retryable=True,
        ) from error
    return _accepted(_fields(hello), place)


def _wrong_password(place: str) -> str:
    return (
        f"{place} refused the user or password: set them in "
        "DEMEANOR_REDIS_URL=redis://USER:PASSWORD@HOST:6379"
    )


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
