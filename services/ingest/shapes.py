"""The size of a picture as its key frame declares it, and how often it may change.

A decoder starts anew with each change. Told before anything is decoded. Pure: time is an argument.
"""

from typing import Final

from services.ingest import h264
from services.ingest.packets import Frame
from services.ingest.rates import TokenBucket

CHANGES_PER_S: Final = 2
PIXELS_PER_S: Final = 72 * 1920 * 1088
"""What one session may have decoded: the largest picture 60 times a second, and some wavering.
Pictures in which nothing moves cost a publisher nothing to send, and everybody else the decoder."""
LEAST_PIXELS: Final = 96_000
"""What a picture counts at least: a small one costs more than its pixels."""
_VP8_HEADER_BYTES: Final = 10
_VP8_SIDE: Final = 0x3FFF


def declared(codec: str, data: bytes) -> list[tuple[int, int]]:
    """Return the sizes that a key frame declares, in pixels; empty when it says none.

    VP8 says one in its first ten bytes (RFC 6386 §9.1), H.264 one in each parameter set.
    """
    if codec != "VP8":
        return h264.sizes(data)
    if len(data) < _VP8_HEADER_BYTES:
        return []
    width, height = (int.from_bytes(data[at : at + 2], "little") & _VP8_SIDE for at in (6, 8))
    return [(width, height)]


class ShapeWatch:
    """Refuses, for one video track, sizes that follow each other too fast."""

    def __init__(self) -> None:
        self.pixels = 0
        """Pixels of the present picture; the largest where several sizes are declared."""
        self._sizes: list[tuple[int, int]] = []
        self._changes = TokenBucket(CHANGES_PER_S, CHANGES_PER_S)
        self._refusing = False

    def accepts(self, codec: str, frame: Frame, now_s: float) -> bool:
        """Tell whether a frame may be decoded; after a refused key frame none may until the next.

        A frame is refused when its size would be the third new one within a second.
        """
        if frame.key and (sizes := declared(codec, frame.data)):
            changed = sizes != self._sizes
            self._refusing = changed and bool(self._sizes) and not self._changes.take(now_s)
            if not self._refusing:
                self._sizes = sizes
                self.pixels = max(width * height for width, height in sizes)
        return not self._refusing
