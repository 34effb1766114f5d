"""A look at a foreign server before anything depends on it: may the bus work there.

Every grant of :mod:`services.bus.acl` is tried once, in a form that changes nothing: on keys that
cannot exist, or with arguments that the command itself refuses after the rights were checked. A
right that lacks is told at the start, by name, and not as an outage in the middle of a call.
"""

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

import structlog
from redis.exceptions import NoPermissionError, RedisError

from pipeline.errors import UsageError
from services.bus import acl, server
from services.bus.acl import Grant
from services.bus.server import Client

_NOBODY: Final = "{:}"
"""No tenant and no stream have an empty name."""
_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "xrange": ("-", "-"),
    "xrevrange": ("-", "-"),
    "xadd": ("NOMKSTREAM", "1-1", "h", ""),
    "xdel": ("0-1",),
    "pexpire": ("1",),
    "hset": ("a", "b", "no value"),
    "hdel": ("",),
    "zadd": ("no number", ""),
    "zremrangebyscore": ("0", "0"),
    "zrangebyscore": ("0", "0"),
    "publish": ("",),
}
"""What follows the name, so that nothing changes."""

_log = structlog.get_logger(__name__)


async def examine(url: str, password: str | None, ca: Path | None) -> None:
    """Raise :class:`~pipeline.errors.UsageError` unless the bus can work at ``url``.

    Warns of a connection without TLS to another machine and of a server that writes to disk.
    """
    client = server.client(url, password, ca)
    async with aclosing(client):
        await server.greet(client, url)
        try:
            missing = await _missing(client)
            writes = await _writes_to_disk(client)
        except (RedisError, OSError) as error:
            raise server.unreachable(server.where(url), error) from error
    if missing:
        raise UsageError(server.lacking(server.where(url), ", ".join(missing)))
    if server.in_the_open(url):
        _log.warning(
            "Redis is on another machine and without TLS: scores and the password go in the open",
            hint="use rediss:// and DEMEANOR_REDIS_CA",
        )
    if writes:
        _log.warning(
            "this Redis writes to disk, scores among the rest",
            hint="CONFIG SET save '' and appendonly no, or keep its disk as private as scores",
        )


async def _missing(client: Client) -> list[str]:
    tries = [
        (command, name) for grant in acl.USERS[acl.ALL_IN_ONE] for command, name in _all(grant)
    ]
    pipe = client.pipeline(transaction=False)
    plain = [(command, name) for command, name in tries if "subscribe" not in command]
    for command, name in plain:
        words = command.replace("|", " ").split()
        places = [name.replace("*", _NOBODY)] if name else []
        pipe.execute_command(*words, *places, *_ARGUMENTS.get(command, ()))
    answers = await pipe.execute(raise_on_error=False)
    refused = [
        _told(*tried)
        for tried, answer in zip(plain, answers, strict=True)
        if isinstance(answer, NoPermissionError)
    ]
    channels = [name for command, name in tries if command == "subscribe"]
    return refused + [
        _told("subscribe", name) for name in channels if not await _hears(client, name)
    ]


def _all(grant: Grant) -> Iterator[tuple[str, str]]:
    for command in grant.commands:
        yield from ((command, name) for name in grant.names or ("",))


def _told(command: str, name: str) -> str:
    return f"{command.replace('|', ' ').upper()} {name}".rstrip()


async def _hears(client: Client, name: str) -> bool:
    feed = client.pubsub()
    async with aclosing(feed):
        try:
            await feed.subscribe(name.replace("*", _NOBODY))
            await feed.get_message(timeout=server.TIMEOUT_S)
        except NoPermissionError:
            return False
    return True


async def _writes_to_disk(client: Client) -> bool:
    """Tell whether the server keeps snapshots or a log; False when it does not let us ask."""
    try:
        found = {**await client.config_get("save"), **await client.config_get("appendonly")}
    except NoPermissionError:
        return False
    return bool(found.get("save")) or found.get("appendonly") == "yes"
