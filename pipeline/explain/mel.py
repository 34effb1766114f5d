"""Whisper's log-mel spectrogram in numpy; the filters are computed, never downloaded.

Source: arXiv 2212.04356 and its published feature extraction: 400-sample Hann windows every 160
samples at 16 kHz, slaney-style mel filters, log10 clipped eight decades below the loudest, and
moved to about [-1, 1].
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

RATE_HZ: Final = 16_000
WINDOW: Final = 400
HOP: Final = 160
_FLOOR: Final = 1e-10
_DECADES: Final = 8.0
_BREAK_HZ: Final = 1000.0
"""Below, mels are linear in frequency; above, logarithmic."""
_PER_MEL_HZ: Final = 200.0 / 3
_LOG_STEP: Final = np.log(6.4) / 27.0


def log_mel(sound: NDArray[np.float32], mels: int, frames: int) -> NDArray[np.float32]:
    """Return ``(1, mels, frames)`` of 16 kHz mono sound in [-1, 1], padded or cut to fit.

    NaN counts as -1.5, as in the published code, so that a broken file shows instead of vanishing.
    """
    samples = np.nan_to_num(np.asarray(sound, np.float32), nan=-1.5)[: frames * HOP]
    samples = np.pad(samples, (0, frames * HOP - len(samples)))
    padded = np.pad(samples.astype(np.float64), WINDOW // 2, mode="reflect")
    rows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:frames]
    power = np.abs(np.fft.rfft(rows * _hann(), axis=1)) ** 2
    loud = np.log10(np.maximum(power @ filters(mels), _FLOOR)).T
    loud = np.maximum(loud, loud.max() - _DECADES)
    spectrogram: NDArray[np.float32] = ((loud + 4.0) / 4.0).astype(np.float32)[None]
    return spectrogram


@lru_cache(maxsize=1)
def _hann() -> NDArray[np.float64]:
    """The periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


@lru_cache(maxsize=2)
def filters(mels: int) -> NDArray[np.float64]:
    """Return ``(201, mels)``: triangles of equal area on the slaney mel scale, 0 to 8 kHz."""
    top = _to_mel(np.array([RATE_HZ / 2]))[0]
    corners = _to_hz(np.linspace(0.0, top, mels + 2))
    bins = np.linspace(0, RATE_HZ / 2, WINDOW // 2 + 1)
    widths = np.diff(corners)
    slopes = corners[None, :] - bins[:, None]
    falling = slopes[:, 2:] / widths[1:]
    rising = -slopes[:, :-2] / widths[:-1]
    return np.maximum(0, np.minimum(rising, falling)) * (2.0 / (corners[2:] - corners[:-2]))


def _to_mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _BREAK_HZ / _PER_MEL_HZ + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _PER_MEL_HZ, above)


def _to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    bent = _BREAK_HZ / _PER_MEL_HZ
    above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, bent) - bent))
    return np.where(mel < bent, mel * _PER_MEL_HZ, above)
