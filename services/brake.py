"""A brake on guessing tokens: who fails too often in a short time is not even checked.

Checking a signature costs the server more than making up a token costs the sender, so an address
that failed :data:`FAILURES` times within :data:`WINDOW_S` waits. Time comes in; nothing is awaited.
"""

import ipaddress
import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Final

from services.auth import is_loopback
from services.queues import Registered, Registry

FAILURES: Final = 10
WINDOW_S: Final = 10.0
ADDRESSES: Final = 4096
"""Addresses that are remembered; the one that failed longest ago gives way."""
_IPV6_PREFIX: Final = 64
"""What one holder of IPv6 addresses usually has."""


class Braked(Exception):
    """This address failed too often (HTTP 429, close 4529)."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = max(1, math.ceil(wait_s))
        super().__init__(
            f"too many tokens from this address were refused: wait {self.wait_s} s, then send a "
            "valid one"
        )


class Brake:
    """The last failures of each address."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self.braked = 0
        """Requests that were turned away unchecked."""
        self.forgotten = 0
        """Addresses that gave way to others."""

    def registered(self, queues: Registry, name: str) -> Registered:
        """Put the table into the registry."""
        return queues.add(
            name,
            bound=ADDRESSES,
            unit="addresses",
            rule="drop_oldest",
            depth=lambda: len(self._failures),
            dropped=lambda: {"table_full": self.forgotten},
        )

    def check(self, address: str, now_s: float) -> None:
        """Raise :class:`Braked` when ``address`` must wait."""
        failures = self._failures.get(address)
        if failures is None:
            return
        while failures and now_s - failures[0] >= WINDOW_S:
            failures.popleft()
        if not failures:
            del self._failures[address]
        elif len(failures) >= FAILURES:
            self.braked += 1
            raise Braked(failures[0] + WINDOW_S - now_s)

    def failed(self, address: str, now_s: float) -> None:
        """Note that a token from ``address`` was refused."""
        if address not in self._failures and len(self._failures) >= ADDRESSES:
            self._failures.popitem(last=False)
            self.forgotten += 1
        self._failures.setdefault(address, deque(maxlen=FAILURES)).append(now_s)
        self._failures.move_to_end(address)


def sender(address: str | None, headers: Mapping[str, str]) -> str:
    """Return who sent a request: the peer, or whom a proxy on this very machine names.

    Such a proxy puts the address that it saw last into ``X-Forwarded-For``; what stands before
    that came from the client and is worth nothing.
    """
    told = address or ""
    if is_loopback(told):
        forwarded = [text for name, text in headers.items() if name.lower() == "x-forwarded-for"]
        told = forwarded[-1].rpartition(",")[2].strip() if forwarded else told
    try:
        parsed = ipaddress.ip_address(told.partition("%")[0])
    except ValueError:
        return address or ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
