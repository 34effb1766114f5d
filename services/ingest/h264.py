"""The size an H.264 stream declares, read from its sequence parameter sets before anything decodes.

Only what stands before the size is parsed (ITU-T H.264 §7.3.2.1.1). Pure; never raises for bad
bytes.
"""

import re
from typing import Final

MAX_SPS_BYTES: Final = 256
"""Longer than any with full scaling lists."""

_SPS: Final = re.compile(
    rb"\x00\x00\x01[\x07\x27\x47\x67](.{3,%d}?)(?=\x00\x00\x01|\x00*\Z)" % MAX_SPS_BYTES, re.DOTALL
)
_HIGH_PROFILES: Final = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
_MACROBLOCK_PX: Final = 16


def sizes(data: bytes) -> list[tuple[int, int]]:
    """Return width and height, before cropping, of every readable set of an Annex B frame."""
    read = []
    for body in _SPS.findall(data):
        try:
            read.append(_size(body))
        except ValueError:
            continue
    return read


class _Bits:
    """Reads a bit string from its front. Raises :class:`ValueError` at its end."""

    def __init__(self, data: bytes) -> None:
        self._left = 8 * len(data)
        self._value = int.from_bytes(data, "big")

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the parameter set ends too soon")
        return self._value >> self._left & (1 << count) - 1

    def unsigned(self) -> int:
        """Return an Exp-Golomb number (§9.1)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("a number has too many digits")
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        number = self.unsigned()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def _size(body: bytes) -> tuple[int, int]:
    bits = _Bits(body.replace(b"\x00\x00\x03", b"\x00\x00"))
    profile = bits.take(8)
    bits.take(16)
    bits.unsigned()
    if profile in _HIGH_PROFILES:
        _skip_colours(bits)
    bits.unsigned()
    _skip_order(bits)
    bits.unsigned()
    bits.take(1)
    width, height = bits.unsigned() + 1, bits.unsigned() + 1
    whole_frames = bits.take(1)
    return width * _MACROBLOCK_PX, height * _MACROBLOCK_PX * (2 - whole_frames)


def _skip_colours(bits: _Bits) -> None:
    chroma = bits.unsigned()
    if chroma == 3:
        bits.take(1)
    bits.unsigned()
    bits.unsigned()
    bits.take(1)
    if bits.take(1):
        for number in range(12 if chroma == 3 else 8):
            if bits.take(1):
                _skip_scaling(bits, 16 if number < 6 else 64)


def _skip_scaling(bits: _Bits, count: int) -> None:
    """Skip a scaling list (§7.3.2.1.1.1)."""
    last = following = 8
    for _ in range(count):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _skip_order(bits: _Bits) -> None:
    """Skip how the order of pictures is told."""
    match bits.unsigned():
        case 0:
            bits.unsigned()
        case 1:
            bits.take(1)
            bits.signed()
            bits.signed()
            for _ in range(min(bits.unsigned(), 255)):
                bits.signed()
