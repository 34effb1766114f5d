"""Which pages may connect: our own and the configured ones, by exact scheme, host and port.

A browser says in ``Origin`` (RFC 6454) which page sends a request, and a page cannot change that.
Nothing here compares parts of names: what is not equal is another origin, and ``null`` is nobody's.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from pipeline.errors import UsageError
from services.auth import is_loopback

_ORIGIN: Final = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?")
"""As browsers write it: lower case, punycode, no default port, no path."""
_PORTS: Final = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """Where a page comes from."""

    scheme: str
    host: str
    """Without brackets."""
    port: int


def parse(text: str) -> Origin | None:
    """Return the origin that a browser names; None for ``null`` and for anything else."""
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, host, port = found.groups()
    return Origin(scheme, host.strip("[]"), int(port) if port else _PORTS[scheme])


class Origins:
    """The pages that may connect to one gateway."""

    def __init__(self, configured: Iterable[str], *, host: str, secure: bool) -> None:
        """``host``: what the doors are bound to; ``secure``: they speak TLS.

        Raises :class:`~pipeline.errors.UsageError` for something that is no origin.
        """
        self.listed = frozenset(map(_configured, configured))
        self.ports: set[int] = set()
        """Ports of our own pages."""
        self._scheme = "https" if secure else "http"
        self._host = host.lower().strip("[]")

    def allows(self, text: str | None, local: str | None) -> bool:
        """Tell whether a page of this origin may connect; None is no page.

        ``local``: the address of this machine that the connection reached.
        """
        if text is None:
            return True
        origin = parse(text)
        return origin is not None and (origin in self.listed or self._own(origin, local))

    def lists(self, text: str | None) -> bool:
        """Tell whether an origin is one of the configured ones, which may read REST answers."""
        return text is not None and parse(text) in self.listed

    def _own(self, origin: Origin, local: str | None) -> bool:
        here = _plain(local) if local is not None else self._host
        known = origin.host in (self._host, here) or (
            is_loopback(origin.host) and is_loopback(here)
        )
        return known and origin.scheme == self._scheme and origin.port in self.ports


def _configured(text: str) -> Origin:
    origin = parse(text.lower())
    if origin is None:
        raise UsageError(
            f"'{text}' is no origin: write https://HOST or https://HOST:PORT, without a path"
        )
    return origin


def _plain(address: str) -> str:
    """Return an address as it would stand in an origin."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
