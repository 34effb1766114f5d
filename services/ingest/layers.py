"""Temporal layers: which frames of a video need not be decoded for windows to see enough.

A publisher that codes in temporal layers (``scalabilityMode: "L1T3"``) sends a base layer that
stands alone. Where that is fast enough for sampling, the layers above it are left undecoded, which
saves two thirds of the work. Pure: time is the RTP timestamp.
"""

from typing import Final

from services.ingest.packets import VIDEO_CLOCK_HZ

ENOUGH_TICKS: Final = VIDEO_CLOCK_HZ // 5
"""Base frames closer than this (5 a second) are enough: windows sample 4 a second."""
STREAK: Final = 8
"""So many base frames in a row must be fast before others are left out, or slow before they are
wanted again."""

_REF_IDC: Final = 0x60
_STAP_A: Final = 24


def temporal_layer(codec: str, payload: bytes) -> int:
    """Return the temporal layer of an RTP payload: 0 for base, or when it cannot be told.

    VP8 names it in the payload descriptor (RFC 7741 §4.2). H.264 does not: only pictures that no
    other refers to (``nal_ref_idc`` 0, RFC 6184 §1.3) count as a layer above.
    """
    if codec == "H264":
        return 0 if _referred_to(payload) else 1
    if len(payload) < 2 or not payload[0] & 0x80 or not payload[1] & 0x20:
        return 0
    place = 2
    if payload[1] & 0x80:
        place += 2 if len(payload) > place and payload[place] & 0x80 else 1
    if payload[1] & 0x40:
        place += 1
    return payload[place] >> 6 if len(payload) > place else 0


def _referred_to(payload: bytes) -> bool:
    """Tell whether an H.264 payload may be referred to; when it cannot be told, it may.

    FFmpeg leaves the field of an aggregate's own header (STAP-A, RFC 6184 §5.7.1) empty: that of
    its parts counts.
    """
    if not payload or payload[0] & 0x1F != _STAP_A:
        return not payload or bool(payload[0] & _REF_IDC)
    at, parts = 1, []
    while at + 3 <= len(payload):
        parts.append(payload[at + 2] & _REF_IDC)
        at += 2 + int.from_bytes(payload[at : at + 2], "big")
    return not parts or any(parts)


class LayerFilter:
    """Chooses for one video track, frame by frame."""

    def __init__(self) -> None:
        self.skipping = False
        """Whether frames above the base layer are left out at present."""
        self._base: int | None = None
        self._fast = 0
        self._slow = 0
        self._layered = False

    def needs(self, layer: int, timestamp: int) -> bool:
        """Tell whether a frame must be decoded.

        When :attr:`skipping` turns from True to False, frames of higher layers may refer to ones
        left out: ask for a key frame then.
        """
        if layer == 0:
            self._note(timestamp)
            return True
        self._layered = True
        return not self.skipping

    def _note(self, timestamp: int) -> None:
        if self._base is not None:
            apart = (timestamp - self._base) % (1 << 32)
            fast = apart <= ENOUGH_TICKS
            self._fast, self._slow = (self._fast + 1, 0) if fast else (0, self._slow + 1)
            if self._layered and self._fast >= STREAK:
                self.skipping = True
            elif self._slow >= STREAK:
                self.skipping = False
        self._base = timestamp
