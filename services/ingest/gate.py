"""Which datagrams reach ICE, DTLS and SRTP at all: the first look at what a stranger sends.

One :class:`Gate` stands before all sockets of one connection. Media and handshakes pass only from
an address that passed an authenticated connectivity check (RFC 8445 §7.3), only in the ranges of
RFC 7983, and only as fast as the settings allow. Of STUN (RFC 8489) it lets pass what can belong to
this connection: requests that name our user fragment, and answers that we wait for. Everything
else is dropped unparsed and counted.
"""

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aioice import Connection
from aioice.ice import StunProtocol
from aioice.stun import Class, Message

from services.ingest.rates import TokenBucket

MAX_REMOTES: Final = 32
"""Addresses that one publisher may prove. Each costs a candidate pair, and up to seven checks that
we send there; a telephone that roams has a handful."""
STUN_PER_S: Final = 100
"""STUN messages a second that are parsed; a browser sends at most one every 5 ms, for a moment."""

_UNPARSED: Final = (struct.error, ValueError, LookupError, AssertionError)
"""What aioice's parser raises beside its own refusals: for attributes cut short or left out."""
_STUN_LAST: Final = 3
_STUN_HEADER_BYTES: Final = 20
_CLASS_BITS: Final = 0x0110
_REQUEST: Final = 0x0000
_ANSWERS: Final = (0x0100, 0x0110)
_MEDIA: Final = bytes(20 <= byte < 64 or 128 <= byte < 192 for byte in range(256))
"""1 for the first byte of DTLS and of SRTP/SRTCP (RFC 7983 §7)."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What one session may send."""

    packets_per_s: int = 4000
    kbits_per_s: int = 12_000


class Gate:
    """The first look at the datagrams of one connection."""

    def __init__(self, now: Callable[[], float], rate: Rate | None = None) -> None:
        """Make a gate; ``now`` is a monotonic clock in seconds."""
        rate = rate or Rate()
        bytes_per_s = rate.kbits_per_s * 125
        self.dropped: Counter[str] = Counter()
        """Datagrams that did not pass, by reason."""
        self._now = now
        self._packets = TokenBucket(rate.packets_per_s, rate.packets_per_s)
        self._bytes = TokenBucket(bytes_per_s, bytes_per_s)
        self._stun = TokenBucket(STUN_PER_S, 2 * STUN_PER_S)
        self._remotes: set[tuple[str, int]] = set()

    @property
    def remotes(self) -> frozenset[tuple[str, int]]:
        """Addresses that passed an authenticated check."""
        return frozenset(self._remotes)

    def stand_before(self, protocol: StunProtocol, connection: Connection) -> None:
        """Look at every datagram of ``protocol`` first, and learn who was authenticated."""
        pass_on, answer = protocol.datagram_received, protocol.send_stun
        ours = f"{connection.local_username}:".encode()

        def receive(data: bytes, addr: tuple[Any, ...]) -> None:
            remote = (addr[0], addr[1])
            if not data:
                self.dropped["empty"] += 1
            elif data[0] > _STUN_LAST:
                if self._media_passes(data, remote):
                    connection.data_received(data, protocol.local_candidate.component)
            elif self._stun_passes(data, remote, ours, protocol):
                try:
                    pass_on(data, remote)
                except _UNPARSED:
                    self.dropped["bad_stun"] += 1

        def send(message: Message, addr: tuple[str, int]) -> None:
            if message.message_class == Class.RESPONSE:
                self._remotes.add((addr[0], addr[1]))  # only an authenticated check is answered so
            answer(message, addr)

        setattr(protocol, "datagram_received", receive)  # noqa: B010 - one object, not all
        setattr(protocol, "send_stun", send)  # noqa: B010

    def _media_passes(self, data: bytes, remote: tuple[str, int]) -> bool:
        if remote not in self._remotes:
            self.dropped["stranger"] += 1
            return False
        if not _MEDIA[data[0]]:
            self.dropped["no_media"] += 1
            return False
        now_s = self._now()
        if not (self._packets.take(now_s) and self._bytes.take(now_s, len(data))):
            self.dropped["too_fast"] += 1
            return False
        return True

    def _stun_passes(
        self, data: bytes, remote: tuple[str, int], ours: bytes, protocol: StunProtocol
    ) -> bool:
        kind = int.from_bytes(data[:2], "big") & _CLASS_BITS
        if len(data) < _STUN_HEADER_BYTES:
            belongs = False
        elif kind in _ANSWERS:
            belongs = data[8:20] in protocol.transactions
        else:
            belongs = kind == _REQUEST and ours in data
        if not belongs:
            self.dropped["strange_stun"] += 1
            return False
        if remote not in self._remotes and len(self._remotes) >= MAX_REMOTES:
            self.dropped["too_many_addresses"] += 1
            return False
        if not self._stun.take(self._now()):
            self.dropped["too_much_stun"] += 1
            return False
        return True
