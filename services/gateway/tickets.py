"""One-use event tickets: what a page puts into an address, because it must not put a token there.

``EventSource`` cannot send a header. So a page trades its token for a ticket that works once, for
:data:`LIFE_S`, for the session it names, and reads events only. Kept by the process that gave it.
"""

import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Final

from services.auth import EVERYTHING, Principal, Unauthorised
from services.clock import Clock
from services.gateway.access import narrowed
from services.queues import Registered, Registry

LIFE_S: Final = 10.0
LARGEST: Final = 4096
"""Tickets that may be out at once."""
LARGEST_PER_TOKEN: Final = 64
_BYTES: Final = 16


class TooManyTickets(Exception):
    """There is no room for another ticket until one was used or has expired."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    principal: Principal
    session: str
    expires_s: float


class Tickets:
    """The tickets that are out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._out: dict[str, _Ticket] = {}
        self._refused: Counter[str] = Counter()

    def registered(self, queues: Registry) -> Registered:
        """Put the store into the registry."""
        return queues.add(
            "gw_tickets",
            bound=LARGEST,
            unit="tickets",
            rule="reject",
            depth=lambda: len(self._out),
            dropped=lambda: self._refused,
        )

    def issue(self, principal: Principal, session: str) -> str:
        """Return a ticket for a session or for ``*``. Raises :class:`TooManyTickets`."""
        now_s = self._clock.monotonic_s()
        self._forget(now_s)
        holder = principal.tenant, principal.token_id
        held = sum((each.principal.tenant, each.principal.token_id) == holder for each in self._all)
        if held >= LARGEST_PER_TOKEN or len(self._out) >= LARGEST:
            self._refused["full"] += 1
            raise TooManyTickets(f"too many tickets are unused: use them, or wait {LIFE_S:.0f} s")
        ticket = secrets.token_urlsafe(_BYTES)
        self._out[ticket] = _Ticket(narrowed(principal, session), session, now_s + LIFE_S)
        return ticket

    def redeem(self, ticket: str, session: str | None = None) -> Principal:
        """Return who brings a ticket, once; ``session``: the one that is asked for.

        Raises :class:`~services.auth.Unauthorised` for one that was used, has expired, was never
        given or names another session; after that it is void in any case.
        """
        found = self._out.pop(ticket, None)
        if found is None or found.expires_s <= self._clock.monotonic_s():
            raise Unauthorised("this ticket was used, has expired or was not given here: get one")
        if session is not None and found.session not in (EVERYTHING, session):
            raise Unauthorised("this ticket is for another session: get one for this address")
        return found.principal

    @property
    def _all(self) -> list[_Ticket]:
        return list(self._out.values())

    def _forget(self, now_s: float) -> None:
        """Drop what has expired; the oldest come first."""
        for ticket, found in list(self._out.items()):
            if found.expires_s > now_s:
                return
            del self._out[ticket]
