"""How often a picture may change its size: a decoder starts anew with each change.

Told from the encoded key frames, before anything is decoded. Pure: time is an argument.
"""

import re
from typing import Final

from services.ingest.packets import Frame
from services.ingest.rates import TokenBucket

CHANGES_PER_S: Final = 2

_SPS: Final = re.compile(
    rb"\x00\x00\x01[\x07\x27\x47\x67](.{1,64}?)(?=\x00\x00\x01|\x00*\Z)", re.DOTALL
)
_VP8_HEADER_BYTES: Final = 10


def shape_of(codec: str, data: bytes) -> bytes:
    """Return bytes of a key frame that differ when its size does; empty when it says none.

    VP8: both sides (RFC 6386 §9.1). H.264: the sequence parameter sets as they stand (§7.3.2.1).
    """
    if codec == "VP8":
        return data[6:_VP8_HEADER_BYTES] if len(data) >= _VP8_HEADER_BYTES else b""
    return b"\n".join(_SPS.findall(data))


class ShapeWatch:
    """Refuses, for one video track, sizes that follow each other too fast."""

    def __init__(self) -> None:
        self._shape = b""
        self._changes = TokenBucket(CHANGES_PER_S, CHANGES_PER_S)
        self._refusing = False

    def accepts(self, codec: str, frame: Frame, now_s: float) -> bool:
        """Tell whether a frame may be decoded; after a refused key frame none may until the next.

        A frame is refused when its size would be the third new one within a second.
        """
        if frame.key and (shape := shape_of(codec, frame.data)):
            changed = shape != self._shape
            self._refusing = changed and bool(self._shape) and not self._changes.take(now_s)
            if not self._refusing:
                self._shape = shape
        return not self._refusing
