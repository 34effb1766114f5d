"""How a voice sounds in half a second: level, pitch and pace.

Comes in: one slot's 16 kHz samples with the sound before them, and which 10 ms frames are speech.
Goes out: three numbers. Nothing is remembered, so a slot's answer does not depend on which window
brought it; peaks and pitch are looked for at places that tile the time line without overlap.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipeline.types import LEAD_TICKS, SLOT_TICKS, TICKS_PER_S

SILENCE_DBFS = -120.0
"""What digital silence is called."""
PITCH_FLOOR_HZ, PITCH_CEILING_HZ = 60, 400
VOICED_STRENGTH = 0.45
"""Normalised autocorrelation from which on a frame is voiced (the standard value of Praat)."""
MIN_VOICED_FRAMES = 5
"""Voiced pitch frames below which a slot has no pitch: 100 ms."""
MIN_SPEECH_FRAMES = 20
"""Frames of speech below which a slot has no pace: 200 ms."""
MIN_DIP_DB = 2.0
"""How far the level rises to the middle of a syllable (de Jong & Wempe 2009)."""

Samples = NDArray[np.int16]
Floats = NDArray[np.float32]
Speech = NDArray[np.bool_]

_FULL_SCALE = 32_768.0
_STEP = 160
"""Samples of one frame of speech activity."""
_LEAD_STEPS = LEAD_TICKS // _STEP

# Pitch: Boersma's window of three periods of the lowest pitch, every 20 ms.
_PITCH_SPAN = 3 * TICKS_PER_S // PITCH_FLOOR_HZ
_PITCH_HOP = 2 * _STEP
_SHORTEST, _LONGEST = TICKS_PER_S // PITCH_CEILING_HZ, TICKS_PER_S // PITCH_FLOOR_HZ
_FFT = 1_080  # at least span + longest lag + 1, a product of small primes
_BAND = _FFT * 4_000 // TICKS_PER_S + 1
"""Bins up to 4 kHz. What is above would make peaks so sharp that high voices, whose period is 40
samples, look weaker than an octave below where a peak falls between two samples."""
_OCTAVE_COST = 0.01
_QUIET = 10.0 ** (-30 / 20)

# Pace: a peak is the highest within 50 ms either side; the dip is looked for 100 ms back.
_AROUND, _BACK = 5, 10


def measure(pcm: Samples, speech: Speech) -> tuple[float, float | None, float | None]:
    """Return loudness in dBFS, pitch and syllable rate in Hz of one slot.

    ``pcm`` has shape ``(LEAD_TICKS + SLOT_TICKS,)``, ``speech`` one value for each 10 ms of the
    slot, shape ``(50,)``. Pitch and rate are None where there is too little to measure.
    """
    return (
        loudness_dbfs(pcm[LEAD_TICKS:]),
        pitch_hz(pcm, speech),
        syllable_rate_hz(pcm, speech),
    )


def loudness_dbfs(samples: Samples) -> float:
    """Return the RMS level against a full-scale square wave, :data:`SILENCE_DBFS` at least."""
    if not samples.any():
        return SILENCE_DBFS
    power = float(np.square(samples, dtype=np.float32).mean())
    return float(10 * np.log10(power / _FULL_SCALE**2))


def pitch_hz(pcm: Samples, speech: Speech) -> float | None:
    """Return the median fundamental frequency of the voiced part of a slot's speech.

    Source: P. Boersma, "Accurate short-term analysis of the fundamental frequency and the
    harmonics-to-noise ratio of a sampled sound", IFA Proceedings 17 (1993), 97-110: the
    autocorrelation of a Hann-windowed frame over that of the window, best peak by strength with a
    small cost for long periods. Without his path finder: the median forgives single frames.
    """
    frames = _pitch_frames(pcm)[speech[1::2][:_PITCH_FRAMES]]
    if len(frames) < MIN_VOICED_FRAMES:
        return None
    frames = frames - frames.mean(axis=1, keepdims=True)
    peak = np.abs(frames).max(axis=1)
    frames = frames[peak > max(_QUIET * float(peak.max()), 1.0)]
    lags, strengths = _best_lags(_correlations(frames * _HANN))
    voiced = lags[strengths >= VOICED_STRENGTH]
    if len(voiced) < MIN_VOICED_FRAMES:
        return None
    return float(TICKS_PER_S / np.median(voiced))


def syllable_rate_hz(pcm: Samples, speech: Speech) -> float | None:
    """Return peaks of the level a second of speech; the slot is looked at 50 ms late.

    Source: N. de Jong & T. Wempe, "Praat script to detect syllable nuclei and measure speech rate
    automatically", Behavior Research Methods 41 (2009), 385-390: a nucleus is a peak of the level
    with a dip of 2 dB before it; voicing is replaced by speech activity.
    """
    spoken = np.concatenate([np.repeat(speech[:1], _AROUND), speech[:-_AROUND]])
    seconds = np.count_nonzero(spoken) * _STEP / TICKS_PER_S
    if np.count_nonzero(spoken) < MIN_SPEECH_FRAMES:
        return None
    level = _level_db(pcm)
    at = np.arange(_LEAD_STEPS, len(level)) - _AROUND
    highest = sliding_window_view(level, 2 * _AROUND + 1)[at - _AROUND].max(axis=1)
    lowest = sliding_window_view(level, _BACK + 1)[at - _BACK].min(axis=1)
    peaks = (level[at] == highest) & (level[at] > level[at - 1])
    loud = level[at] > level.max() - 25.0
    count = np.count_nonzero(peaks & loud & spoken & (level[at] - lowest >= MIN_DIP_DB))
    return float(count / seconds)


_PITCH_STARTS = np.arange(
    LEAD_TICKS + _STEP - _PITCH_SPAN // 2, LEAD_TICKS + SLOT_TICKS - _PITCH_SPAN + 1, _PITCH_HOP
)
"""Where pitch frames begin: their middles lie on the border of two frames of speech activity."""
_PITCH_FRAMES = len(_PITCH_STARTS)
_HANN: Floats = np.hanning(_PITCH_SPAN + 2)[1:-1].astype(np.float32)


def _pitch_frames(pcm: Samples) -> Floats:
    frames: Floats = sliding_window_view(pcm, _PITCH_SPAN)[_PITCH_STARTS].astype(np.float32)
    return frames


def _autocorrelation(frames: Floats) -> Floats:
    """Return the autocorrelation of ``(n, span)`` over that of lag 0, for each lag."""
    spectrum = np.fft.rfft(frames, _FFT)[:, :_BAND]
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    raw = np.fft.irfft(power, _FFT)[:, : _LONGEST + 2]
    scaled: Floats = (raw / np.maximum(raw[:, :1], np.float32(1e-6))).astype(np.float32)
    return scaled


_WINDOW_CORRELATION = _autocorrelation(_HANN[None])


def _correlations(frames: Floats) -> Floats:
    return _autocorrelation(frames) / _WINDOW_CORRELATION


def _best_lags(rows: Floats) -> tuple[Floats, Floats]:
    """Return each row's best peak: its lag in samples, between the grid, and its strength."""
    lags = np.arange(_SHORTEST, _LONGEST + 1)
    before, here, after = rows[:, lags - 1], rows[:, lags], rows[:, lags + 1]
    peaks = (here > before) & (here >= after)
    # The top of a parabola through three points.
    bend = np.where(peaks, before - 2 * here + after, -1)
    shift = (before - after) / (2 * bend)
    top = here - (before - after) * shift / 4
    worth = np.where(peaks, top - _OCTAVE_COST * np.log2(lags), -np.inf)
    best = np.arange(len(rows)), worth.argmax(axis=1)
    return (lags + shift)[best], np.where(peaks, top, 0)[best]


def _level_db(pcm: Samples) -> Floats:
    """Return the level of each 10 ms, smoothed over about 50 ms, in dB."""
    energy = np.square(pcm, dtype=np.float32).reshape(-1, _STEP).mean(axis=1)
    smooth = np.convolve(energy, _SMOOTH, "same")
    level: Floats = (10 * np.log10(smooth + 1.0)).astype(np.float32)
    return level


_SMOOTH: Floats = (np.hanning(9)[1:-1] / np.hanning(9).sum()).astype(np.float32)
