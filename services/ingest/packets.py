"""RTP payloads of one track to encoded frames: in order, whole, and decodable.

Depacketised payloads come in as they arrive, frames go out. A video frame leaves with its last
packet (the marker bit), not with the first of the next frame. Behind a hole that no retransmission
fills within :data:`HOPE_TICKS` a key frame is asked for, and the first whole one goes on; after
:data:`STALL_TICKS` the hole is given up anyway, and frames that need what was lost are left out
until a key frame comes, at most :data:`KEY_WAIT_TICKS`. Pure: time is the RTP timestamp.
"""

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

VIDEO_CLOCK_HZ: Final = 90_000
HOPE_TICKS: Final = VIDEO_CLOCK_HZ // 10
"""How long a missing packet is only asked for again: 100 ms of media, so that with a round trip of
100 ms the picture is back after 300 ms."""
STALL_TICKS: Final = VIDEO_CLOCK_HZ // 4
"""How long newer frames wait for a missing packet: 250 ms of media."""
KEY_WAIT_TICKS: Final = 2 * VIDEO_CLOCK_HZ
"""After this much media without a key frame, damaged pictures are better than none."""
KEY_ASK_TICKS: Final = VIDEO_CLOCK_HZ // 2
"""Shortest time between two requests for a key frame."""
CAPACITY: Final = 512
"""Packets that may wait for a missing one."""
_OLD = 4096
"""A packet this far behind is an old one; further back, the sender's numbers begin anew."""
_HALF_SEQ = 1 << 15
_HALF_TIME = 1 << 31
_H264_KEY = re.compile(rb"\x00\x00\x01[\x05\x07\x25\x27\x45\x47\x65\x67]")


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """One RTP packet after depacketisation."""

    sequence: int
    timestamp: int
    marker: bool
    data: bytes
    layer: int = 0
    """Temporal layer; see :mod:`services.ingest.layers`."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One encoded frame."""

    timestamp: int
    """RTP timestamp, 32 bits, as sent."""
    data: bytes
    key: bool
    layer: int = 0
    """Temporal layer; frames of layer 0 need no other layer."""


def is_key(codec: str, data: bytes) -> bool:
    """Tell whether a frame can be decoded without any other (RFC 6386 §9.1, H.264 §7.4.1)."""
    if codec == "VP8":
        return bool(data) and not data[0] & 1
    return _H264_KEY.search(data) is not None


class Assembler:
    """Frames of one video track."""

    def __init__(self, codec: str) -> None:
        self.lost: Counter[str] = Counter()
        """Packets and frames left out, by reason."""
        self._codec = codec
        self._waiting: dict[int, Payload] = {}
        self._next: int | None = None
        self._newest = 0
        self._newest_time = 0
        self._damaged_since: int | None = None
        self._asked_at: int | None = None
        self._ask = False
        self._begun = False

    @property
    def waiting(self) -> int:
        """Packets that wait for the rest of their frame."""
        return len(self._waiting)

    def add(self, payload: Payload) -> list[Frame]:
        """Take one packet and return the frames that are complete now, in order."""
        sequence = self._unwrapped(payload.sequence)
        if self._next is not None and not -_OLD <= sequence - self._newest <= CAPACITY:
            self._restart()
            sequence = self._unwrapped(payload.sequence)
        if self._next is not None and sequence < self._next:
            self.lost["late_packets"] += 1
            return []
        self._next = sequence if self._next is None else self._next
        self._waiting[sequence] = payload
        self._newest = max(self._newest, sequence)
        if _later(payload.timestamp, self._newest_time):
            self._newest_time = payload.timestamp
        frames = self._complete()
        if self._waiting:
            self._look_behind_hole(sequence, payload)
            frames += self._complete()
        while self._stalled():
            self._give_up()
            frames += self._complete()
        return frames

    def damaged(self) -> None:
        """Note that a frame that left could not be decoded or was dropped: a key frame is due."""
        if self._damaged_since is None:
            self._damaged_since = self._newest_time

    def asks_for_key(self) -> bool:
        """Tell whether a key frame should be asked for now; True once per request."""
        asked, self._ask = self._ask, False
        return asked

    def _restart(self) -> None:
        """Forget everything: the sender started its numbers anew, or a long stretch was lost."""
        self._waiting.clear()
        self._next = None
        self._newest = 0
        self._begun = False

    def _unwrapped(self, sequence: int) -> int:
        if self._next is None:
            self._newest = self._newest_time = 0
            return sequence + (1 << 16)
        return self._newest + (sequence - self._newest + _HALF_SEQ) % (1 << 16) - _HALF_SEQ

    def _complete(self) -> list[Frame]:
        frames = []
        while packets := self._first_whole():
            frame = self._joined(packets)
            if self._usable(frame):
                frames.append(frame)
        return frames

    def _first_whole(self) -> list[Payload]:
        """Take the packets of the next frame out, or return none when it is not whole yet."""
        position = self._next or 0
        packets: list[Payload] = []
        while (payload := self._waiting.get(position)) is not None:
            if packets and payload.timestamp != packets[0].timestamp:
                break
            packets.append(payload)
            position += 1
            if payload.marker:
                break
        else:
            return []
        for taken in range(self._next or 0, position):
            del self._waiting[taken]
        self._next = position
        return packets

    def _joined(self, packets: list[Payload]) -> Frame:
        data = b"".join([payload.data for payload in packets])
        layer = min(payload.layer for payload in packets)
        return Frame(packets[0].timestamp, data, is_key(self._codec, data), layer)

    def _usable(self, frame: Frame) -> bool:
        """Leave frames out that lean on something lost; note when a key frame is due."""
        if not frame.data:
            return False  # padding that probes the bandwidth
        if frame.key:
            self._begun, self._damaged_since = True, None
            return True
        if not self._begun and self._damaged_since is None:
            self._damaged_since = frame.timestamp
        if self._damaged_since is None:
            return True
        self._ask_for_key(frame.timestamp)
        if _elapsed(frame.timestamp, self._damaged_since) <= KEY_WAIT_TICKS:
            self.lost["undecodable_frames"] += 1
            return False
        self._begun = True
        return True

    def _ask_for_key(self, now: int) -> None:
        if self._asked_at is None or _elapsed(now, self._asked_at) >= KEY_ASK_TICKS:
            self._asked_at = now
            self._ask = True

    def _look_behind_hole(self, sequence: int, payload: Payload) -> None:
        """Ask for a key frame when hope is gone; go on with one that has just become whole."""
        if self._waited() > HOPE_TICKS:
            self._ask_for_key(self._newest_time)
        if not payload.marker or sequence not in self._waiting:
            return
        if (start := self._whole_since(sequence)) is not None:
            data = b"".join(self._waiting[at].data for at in range(start, sequence + 1))
            if is_key(self._codec, data):
                self._go_on_at(start)

    def _whole_since(self, last: int) -> int | None:
        """Return where the frame that ends with packet ``last`` begins, or None if unsure."""
        timestamp, start = self._waiting[last].timestamp, last
        while (before := self._waiting.get(start - 1)) is not None:
            if before.marker or before.timestamp != timestamp:
                return start
            start -= 1
        return None

    def _waited(self) -> int:
        """Return for how much media the oldest packet has waited for one before it."""
        oldest = self._waiting[min(self._waiting)]
        return _elapsed(self._newest_time, oldest.timestamp)

    def _stalled(self) -> bool:
        if not self._waiting:
            return False
        return self._waited() > STALL_TICKS or len(self._waiting) > CAPACITY

    def _give_up(self) -> None:
        """Go on behind the hole, at the first packet that surely begins a frame."""
        order = sorted(self._waiting)
        start = next((b for a, b in pairwise(order) if self._begins(a, b)), None)
        self._go_on_at(self._newest + 1 if start is None else start)
        self.damaged()
        self._ask_for_key(self._newest_time)

    def _go_on_at(self, start: int) -> None:
        dropped = [sequence for sequence in self._waiting if sequence < start]
        for sequence in dropped:
            del self._waiting[sequence]
        self.lost["packets_behind_a_hole"] += len(dropped)
        self._next = start

    def _begins(self, before: int, sequence: int) -> bool:
        if sequence != before + 1:
            return False
        previous = self._waiting[before]
        return previous.marker or previous.timestamp != self._waiting[sequence].timestamp


def _elapsed(later: int, earlier: int) -> int:
    """Return the signed distance of two 32-bit RTP timestamps."""
    return (later - earlier + _HALF_TIME) % (1 << 32) - _HALF_TIME


def _later(a: int, b: int) -> bool:
    return b == 0 or _elapsed(a, b) > 0
