"""Who may do what on the Redis server: one table, from which every access list is made.

A service is a user, a user is a set of grants, and a grant is commands × keys (or channels):
exactly what :class:`services.bus.redis.RedisBus` sends on that service's behalf. It becomes the
embedded server's only user, ``deploy/redis/users.acl``, and the look at a foreign server before
anything depends on it (:mod:`services.bus.rights`). No scripts, no channel patterns, no ``KEYS``,
no ``CONFIG``. Needs Redis >= 7 (selectors, ``%R~``).

``python -m services.bus.acl [USER=PASSWORD_FILE …]`` prints the file; a user without a password
cannot log in.
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.bus import keys

ALL_IN_ONE: Final = "demeanor"
"""The user of ``demeanor up``: every service in one process."""
LOG: Final = "demeanor:r:*"
LIVE: Final = "demeanor:live:*"
SESSION: Final = "demeanor:s:*"
RESULTS: Final = "demeanor:res:*"
"""Patterns of the names that :mod:`services.bus.keys` makes."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Each of ``commands`` on each of ``names``."""

    commands: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Keys, or channels."""
    access: str = "~"
    """``~`` any access to the keys, ``%R~`` reading only, ``&`` they are channels."""

    def rules(self) -> str:
        """Return it as the rules of an ACL selector."""
        names = (f"{self.access}{name}" for name in self.names)
        return " ".join([*names, "-@all", *(f"+{command}" for command in self.commands)])


_ALIVE = Grant(("ping",))
_READ_LOG = Grant(("exists", "xinfo|stream", "xrange", "xrevrange"), (LOG,), "%R~")
_WRITE_LOG = Grant(("xadd", "pexpire"), (LOG,))
_ERASE_LOG = Grant(("del", "xdel"), (LOG,))
_KEEP_LOG = Grant(("pexpire",), (LOG,))
_READ_DIRECTORY = Grant(("hgetall",), (SESSION, keys.ORDERS), "%R~")
_LIST = Grant(("zrangebyscore",), (LIVE,), "%R~")
_ANNOUNCE = (
    Grant(("hset", "pexpire"), (SESSION,)),
    Grant(("zadd", "zremrangebyscore", "pexpire"), (LIVE,)),
    Grant(("publish",), (keys.CTL,), "&"),
)
_GIVE_ORDERS = Grant(("hset", "hdel"), (keys.ORDERS,))
_TELL_RESULTS = Grant(("publish",), (RESULTS,), "&")
_LISTEN = (
    Grant(("subscribe", "unsubscribe"), (RESULTS,), "&"),
    Grant(("subscribe",), (keys.CTL,), "&"),
)

_INGEST = (_ALIVE, _READ_LOG, _WRITE_LOG, _ERASE_LOG, _READ_DIRECTORY, *_ANNOUNCE, _TELL_RESULTS)
_GATEWAY = (
    _ALIVE, _READ_LOG, _KEEP_LOG, _ERASE_LOG, _READ_DIRECTORY, _LIST, *_ANNOUNCE, _GIVE_ORDERS,
    *_LISTEN,
)  # fmt: skip
USERS: Final[Mapping[str, tuple[Grant, ...]]] = {
    ALL_IN_ONE: tuple(dict.fromkeys((*_INGEST, *_GATEWAY))),
    "ingest": _INGEST,
    "gateway": _GATEWAY,
}
"""User → what it may do. A window bus on Redis, and with it a scorer, does not exist yet."""


def line(user: str, secret: str) -> str:
    """Return the user's line of an ACL file or ``redis.conf``.

    ``secret`` is ``>password``, ``#`` and its SHA-256, or nothing: then nobody can log in.
    """
    first, *rest = USERS[user]
    selectors = (f"({grant.rules()})" for grant in rest)
    words = ("user", user, "on", secret, "resetchannels", first.rules(), *selectors)
    return " ".join(filter(None, words))


def file(secrets: Mapping[str, str]) -> str:
    """Return an ACL file with every user; ``secrets`` as in :func:`line`, by user."""
    lines = ["user default off resetkeys resetchannels -@all"]
    return "\n".join([*lines, *(line(user, secrets.get(user, "")) for user in USERS)]) + "\n"


def _hashed(argument: str) -> tuple[str, str]:
    user, _, path = argument.partition("=")
    password = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    if user not in USERS or not password:
        sys.exit(f"write USER=PASSWORD_FILE with one of {', '.join(USERS)} and a password in it")
    return user, f"#{hashlib.sha256(password.encode()).hexdigest()}"


if __name__ == "__main__":
    sys.stdout.write(file(dict(map(_hashed, sys.argv[1:]))))
