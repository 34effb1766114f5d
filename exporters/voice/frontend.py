"""PCM to frame features: log-mel bands and finely spaced low bands that resolve the pitch.

Every frame is a linear map of the last :data:`KERNEL` samples (windowed cosines and sines), then
power, a band matrix and a logarithm. The linear map runs in float64: in float32 the rounding of a
loud band would show in the third decimal of a quiet one's logarithm, and differ between processors.
Frames are cut as rows of one matrix, not by a strided
convolution operator: a row's sums then run in one order however many rows there are, so a stream
cut anywhere gives bit for bit the frames of the whole.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

RATE_HZ = 16_000
HOP = 160
KERNEL = 7 * HOP
"""Samples that one frame sees: its own hop and six hops before it."""
CONTEXT = KERNEL - HOP
MELS = 64
LOWS = 32
FEATURES = MELS + LOWS
MEL_HZ = (60.0, 7000.0)
LOW_HZ = (60.0, 600.0)
SHORT = 400
"""25 ms window of the mel bands; its middle is the middle of the long window."""
LONG = 1024
"""64 ms window of the low bands: 80 Hz and 90 Hz come apart."""
FFT = 512
FLOOR = 1e-8
"""Added to every power: about the rounding noise of 16-bit sound."""

_BINS = np.arange(2, 225)
"""Bins of the DFT that lie under a mel band: 62.5 Hz to 7 kHz."""
_SHORT_START = KERNEL - LONG // 2 - SHORT // 2
_LONG_START = KERNEL - LONG


class FrontEnd(nn.Module):
    """``pcm`` f32[B, CONTEXT + n * HOP] to log powers f32[B, n, FEATURES], natural logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.short: Tensor
        self.long: Tensor
        self.mel: Tensor
        # The long window is scaled so that noise has the same power per band in both.
        gain = math.sqrt(SHORT / LONG)
        buffers = {
            "short": _basis(SHORT, _BINS * RATE_HZ / FFT),
            "long": _basis(LONG, low_bands_hz()) * np.float32(gain),
            "mel": mel_matrix()[_BINS],
        }
        for name, matrix in buffers.items():
            self.register_buffer(name, torch.from_numpy(matrix), persistent=False)

    def forward(self, pcm: Tensor) -> Tensor:
        """Return one row of features per hop after the context."""
        hops = pcm.double().reshape(pcm.shape[0], -1, HOP)
        mel = (
            _power(_frames(hops, _SHORT_START, SHORT) @ self.short.double(), _BINS.size) @ self.mel
        )
        low = _power(_frames(hops, _LONG_START, LONG) @ self.long.double(), LOWS)
        return torch.log(torch.cat([mel, low], dim=-1) + FLOOR)


def _frames(hops: Tensor, start: int, size: int) -> Tensor:
    """Samples ``start`` to ``start + size`` of each frame's kernel, f32[B, n, size]."""
    spare = KERNEL // HOP - 1
    first, last = start // HOP, -(-(start + size) // HOP)
    parts = [hops[:, k : k - spare if k < spare else None] for k in range(first, last)]
    inside = start - first * HOP
    return torch.cat(parts, dim=-1)[..., inside : inside + size]


def _power(both: Tensor, half: int) -> Tensor:
    """Squared modulus, float32; the first ``half`` of the columns is real, the rest imaginary."""
    squares = both * both
    return (squares[..., :half] + squares[..., half:]).float()


def hz_to_mel(hz: float) -> float:
    """Mel scale of HTK."""
    return 2595.0 * math.log10(1.0 + hz / 700.0)


def mel_matrix() -> NDArray[np.float32]:
    """Triangles of height 1 over the bins of a 512-point DFT, shape ``(257, MELS)``."""
    low, high = (hz_to_mel(hz) for hz in MEL_HZ)
    mels = np.linspace(low, high, MELS + 2)
    edges = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins = np.arange(FFT // 2 + 1)[:, None] * RATE_HZ / FFT
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32)


def low_bands_hz() -> NDArray[np.float64]:
    """Centres of the low bands: equal steps of pitch."""
    return np.geomspace(*LOW_HZ, LOWS)


def _hann(size: int) -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * (np.arange(size) + 0.5) / size)


def _basis(size: int, hz: NDArray[np.float64]) -> NDArray[np.float32]:
    """Windowed cosines, then windowed sines, at ``hz``: shape ``(size, 2 * hz.size)``."""
    angle = 2.0 * np.pi * np.arange(size)[:, None] * hz[None, :] / RATE_HZ
    waves = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    return (waves * _hann(size)[:, None]).astype(np.float32)
