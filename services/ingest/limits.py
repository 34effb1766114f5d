"""How many publishers may be at the door at once, and how often they may knock.

Three limits beside capacity: connections that are not yet made, of the node and of one token, and
offers a second of one tenant. The public token ``dev`` works on this machine only, so what comes
with it is one operator who may start many publishers at once: for it the node's limit alone counts.
Pure: time is an argument.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.auth import DEV_TOKEN, Principal
from services.ingest.rates import TokenBucket

MAX_TENANTS: Final = 1024
"""Tenants whose pace is remembered; the one unheard of for longest is forgotten first."""
REST_S: Final = 10.0
"""How long a stream rests whose publisher sent media that must not be decoded: each new connection
costs a handshake, and the same publisher would send the same again."""
MAX_RESTING: Final = 1024
CONNECT_RETRY_S: Final = 5
"""Most publishers connect, or are given up, within this long."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an offer is not looked at now."""

    status: int
    code: str
    detail: str
    retry_after_s: int


class Limits:
    """The limits of one WHIP endpoint."""

    def __init__(self, *, half_open: int, half_open_per_token: int, posts_per_s: int) -> None:
        self._half_open = half_open
        self._half_open_per_token = half_open_per_token
        self._posts_per_s = posts_per_s
        self._tenants: OrderedDict[str, TokenBucket] = OrderedDict()
        self._resting: OrderedDict[tuple[str, str], float] = OrderedDict()

    def knock(self, principal: Principal, now_s: float) -> Refused | None:
        """Count one offer; call once for each, before its body is read."""
        if principal.token_id == DEV_TOKEN:
            return None
        bucket = self._tenants.setdefault(
            principal.tenant, TokenBucket(self._posts_per_s, self._posts_per_s)
        )
        self._tenants.move_to_end(principal.tenant)
        if len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)
        if bucket.take(now_s):
            return None
        return Refused(
            429,
            "too_many_offers",
            f"more than {self._posts_per_s} offers a second: send fewer, and wait as "
            "'Retry-After' says before the next",
            max(1, math.ceil(bucket.wait_s(now_s))),
        )

    def rest(self, tenant: str, stream: str, now_s: float) -> None:
        """Note that a session of this stream was ended for its media (``bad_media``)."""
        self._resting[tenant, stream] = now_s + REST_S
        self._resting.move_to_end((tenant, stream))
        if len(self._resting) > MAX_RESTING:
            self._resting.popitem(last=False)

    def rested(self, tenant: str, stream: str, now_s: float) -> Refused | None:
        """Tell whether a stream may be published again after :meth:`rest`."""
        left_s = self._resting.get((tenant, stream), now_s) - now_s
        if left_s <= 0:
            self._resting.pop((tenant, stream), None)
            return None
        return Refused(
            429,
            "bad_media",
            "the last session of this stream was ended because its media could not be taken: send "
            "at most 1920x1088 pixels and what a camera sends, and wait as 'Retry-After' says",
            math.ceil(left_s),
        )

    def room(self, principal: Principal, half_open: Mapping[str, int]) -> Refused | None:
        """Tell whether one more may begin to connect.

        ``half_open`` counts by token the publishers that are connecting now.
        """
        if sum(half_open.values()) >= self._half_open:
            return Refused(
                503,
                "too_many_connecting",
                f"{self._half_open} publishers are connecting at this moment: try again in a few "
                "seconds",
                CONNECT_RETRY_S,
            )
        token = principal.token_id
        if token == DEV_TOKEN or half_open.get(token, 0) < self._half_open_per_token:
            return None
        return Refused(
            429,
            "token_connecting",
            f"{self._half_open_per_token} publishers with this token are still connecting: wait "
            "until one has connected",
            CONNECT_RETRY_S,
        )
