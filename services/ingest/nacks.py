"""Which packets of a video track are missing and worth asking for again (RFC 4585 §6.2.1).

Stands where aiortc has its own list, which walks every number of a jump: one packet with a far
sequence number costs it 10 ms of the event loop. Here a packet costs at most
:data:`HISTORY` steps, whatever it says.
"""

from typing import Final

from aiortc.rtp import RtpPacket

HISTORY: Final = 128
"""Packets behind the newest that are still asked for; senders keep about as many."""
_NUMBERS: Final = 1 << 16
_HALF: Final = 1 << 15


class NackGenerator:
    """The missing packets of one track."""

    def __init__(self) -> None:
        self.missing: set[int] = set()
        """Sequence numbers to ask for, 16 bits each."""
        self._newest: int | None = None

    def add(self, packet: RtpPacket) -> bool:
        """Note an arrival; True when it showed that packets before it are missing."""
        number = packet.sequence_number
        if self._newest is None:
            self._newest = number
            return False
        ahead = (number - self._newest) % _NUMBERS
        if not 0 < ahead < _HALF:
            self.missing.discard(number)
            return False
        self._newest = number
        self.missing = {old for old in self.missing if (number - old) % _NUMBERS <= HISTORY}
        if not 1 < ahead <= HISTORY:
            return False  # next in turn; or so far ahead that the sender began anew
        self.missing.update((number - step) % _NUMBERS for step in range(1, ahead))
        return True
