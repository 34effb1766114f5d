"""Everybody who reads with a token: how many at once with one, and when each must go.

A token that ends while its holder is connected is announced :data:`WARNING_MS` before; without a
new one the connection ends :data:`GRACE_MS` after. A revoked one ends it at once. Time comes in as
unix ms, nothing is awaited: the gateway calls :meth:`Holders.sweep` every :data:`SWEEP_S`.
"""

import heapq
import itertools
from collections import Counter
from typing import Final

from services.auth import Guard, Principal
from services.gateway.notices import Notices
from services.gateway.outbox import Outbox
from services.gateway.protocol import Closing, Code

SWEEP_S: Final = 0.5
WARNING_MS: Final = 30_000
GRACE_MS: Final = 15_000
"""With a sweep, a reader that takes nothing (5 s) and a close (2 s), all is over 25 s after."""
RETRY_MS: Final = 5_000
_SPARE: Final = 64


class Holder:
    """One connection and the token it reads with."""

    __slots__ = ("due_ms", "outbox", "principal", "told")

    def __init__(self, principal: Principal, outbox: Outbox) -> None:
        self.principal = principal
        self.outbox = outbox
        self.told = False
        """Whether it knows that its token ends soon."""
        self.due_ms: int | None = None
        """When it is looked at next; None: never."""

    def expired(self, now_ms: int) -> bool:
        """Tell whether the token has ended; then it opens nothing new any more."""
        ends_ms = _ends_ms(self.principal)
        return ends_ms is not None and now_ms >= ends_ms


class Holders:
    """All connections of one gateway that told who they are."""

    def __init__(self, guard: Guard, notices: Notices, *, per_token: int) -> None:
        self._guard = guard
        self._notices = notices
        self._per_token = per_token
        self._holders: set[Holder] = set()
        self._seats: Counter[tuple[str, str]] = Counter()
        self._due: list[tuple[int, int, Holder]] = []
        self._numbers = itertools.count()
        self.expired = 0
        """Connections that ended with their token."""
        self.revoked = 0

    def __len__(self) -> int:
        return len(self._holders)

    def check(self, principal: Principal) -> None:
        """Raise :class:`Closing` (4529) when no further connection may have this token."""
        if principal.expires_s is None:
            return  # 'dev' is no secret, so it names nobody
        if self._seats[_seat(principal)] >= self._per_token:
            raise Closing(
                Code.RATE_LIMITED,
                "too_many_connections",
                f"this token has {self._per_token} connections already: close one first",
                retry_after_ms=RETRY_MS,
            )

    def enter(self, principal: Principal, outbox: Outbox) -> Holder:
        """Take a seat. Raises :class:`Closing` (4529)."""
        self.check(principal)
        holder = Holder(principal, outbox)
        self._holders.add(holder)
        self._seats[_seat(principal)] += 1
        self._schedule(holder)
        return holder

    def renew(self, holder: Holder, principal: Principal) -> None:
        """Go on with another token. Raises :class:`Closing` (4529); then the old one stands."""
        if _seat(principal) != _seat(holder.principal):
            self.check(principal)
            self._rise(holder)
            self._seats[_seat(principal)] += 1
        holder.principal = principal
        holder.told = False
        self._schedule(holder)

    def leave(self, holder: Holder) -> None:
        """Give the seat back; may be called twice."""
        if holder in self._holders:
            self._holders.remove(holder)
            self._rise(holder)
            holder.due_ms = None

    def sweep(self, now_ms: int) -> None:
        """Warn and end whose time has come."""
        while self._due and self._due[0][0] <= now_ms:
            due_ms, _, holder = heapq.heappop(self._due)
            if holder.due_ms != due_ms:
                continue  # it has left or has a new token
            if holder.told:
                self.expired += 1
                holder.due_ms = None
                holder.outbox.close(
                    Code.UNAUTHORISED, "token_expired", "the token has expired: bring a new one"
                )
            else:
                self._warn(holder, now_ms)

    def check_revoked(self) -> None:
        """End every connection whose token was revoked."""
        for holder in self._holders:
            if self._guard.revoked(holder.principal) and holder.outbox.closing is None:
                self.revoked += 1
                holder.outbox.close(
                    Code.UNAUTHORISED, "token_revoked", "the token was revoked: bring another one"
                )

    def _warn(self, holder: Holder, now_ms: int) -> None:
        left_s = max(0, ((_ends_ms(holder.principal) or now_ms) - now_ms) // 1000)
        holder.told = True
        holder.outbox.answer(
            self._notices.error(
                "token_expiring",
                f"the token expires in {left_s} s: send 'auth' with a new one, or connect again",
            )
        )
        self._schedule(holder)

    def _schedule(self, holder: Holder) -> None:
        ends_ms = _ends_ms(holder.principal)
        if ends_ms is None:
            holder.due_ms = None
            return
        due_ms = ends_ms + GRACE_MS if holder.told else ends_ms - WARNING_MS
        holder.due_ms = due_ms
        heapq.heappush(self._due, (due_ms, next(self._numbers), holder))
        if len(self._due) > 2 * len(self._holders) + _SPARE:
            self._due = [entry for entry in self._due if entry[2].due_ms == entry[0]]
            heapq.heapify(self._due)

    def _rise(self, holder: Holder) -> None:
        seat = _seat(holder.principal)
        self._seats[seat] -= 1
        if not self._seats[seat]:
            del self._seats[seat]


def _seat(principal: Principal) -> tuple[str, str]:
    return principal.tenant, principal.token_id


def _ends_ms(principal: Principal) -> int | None:
    return None if principal.expires_s is None else int(principal.expires_s * 1000)
