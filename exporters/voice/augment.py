"""Widen a batch of log powers: other throats, rooms, microphones, noises and tempi.

Everything works on features, not on sound, so a batch costs milliseconds. Random numbers come from
the generator given by the caller; the same generator state gives the same batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.voice.frontend import LOWS, MEL_HZ, MELS, hz_to_mel, low_bands_hz
from exporters.voice.model import RANGE_NAT, WORD_BANDS, WORD_MARGIN, WORD_RANGE_NAT


@dataclass(frozen=True, slots=True)
class Strength:
    """How hard each change is; the probabilities are per clip."""

    stretch: tuple[float, float] = (0.85, 1.2)
    throat: float = 0.12
    """Formants move by up to this share (vocal tract length perturbation)."""
    pitch: float = 0.12
    equaliser_nat: float = 0.35
    reverb: float = 0.3
    noise: float = 0.4
    snr_db: tuple[float, float] = (8.0, 35.0)
    masks: float = 0.7
    mixup: float = 0.2
    """Beta parameter; 0 switches mixing off."""


def crop(
    rows: NDArray[np.float16], frames: int, strength: Strength, rng: np.random.Generator
) -> tuple[NDArray[np.float32], int]:
    """Cut ``frames`` rows of speech at a random tempo; return them and how many are real."""
    first, last = speech_bounds(rows) if rng.random() < 0.8 else (0, len(rows))
    rate = float(np.exp(rng.uniform(*np.log(strength.stretch))))
    span = int(frames * rate)
    start = first + int(rng.integers(0, max(1, last - first - span + 1)))
    positions = start + np.arange(frames) * rate
    positions = positions[positions <= min(last, len(rows)) - 1]
    below = positions.astype(np.int64)
    above = np.minimum(below + 1, len(rows) - 1)
    share = (positions - below).astype(np.float32)[:, None]
    out = np.zeros((frames, rows.shape[1]), np.float32)
    out[: len(positions)] = rows[below] * (1.0 - share) + rows[above] * share
    return out, len(positions)


def speech_bounds(rows: NDArray[np.float16]) -> tuple[int, int]:
    """First and one-past-last frame within 26 dB of the loudest, widened by 100 ms."""
    energy = rows[:, slice(*WORD_BANDS)].astype(np.float32).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() - WORD_RANGE_NAT)
    return max(0, int(loud[0]) - WORD_MARGIN), min(len(rows), int(loud[-1]) + WORD_MARGIN + 1)


def augment(
    features: Tensor, mask: Tensor, strength: Strength, generator: torch.Generator
) -> Tensor:
    """Return a changed copy of log powers f32[B, T, FEATURES]; ``mask`` f32[B, T] stays true."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    size = features.shape[0]
    mel, low = features[..., :MELS], features[..., MELS:]
    throat = torch.exp(uniform(-strength.throat, strength.throat, size, 1))
    pitch = torch.exp(uniform(-strength.pitch, strength.pitch, size, 1))
    features = torch.cat([_warp(mel, throat), _shift(low, pitch)], dim=-1)
    features = features + _equaliser(size, strength.equaliser_nat, generator)
    power = features.exp() * mask[:, :, None]
    wet = (uniform(0, 1, size) < strength.reverb).nonzero()[:, 0]
    if wet.numel():
        power[wet] = _reverb(power[wet], uniform(0.15, 0.6, wet.numel(), 1, 1))
    noisy = (uniform(0, 1, size) < strength.noise).nonzero()[:, 0]
    if noisy.numel():
        power[noisy] += _noise(power, mask, noisy, strength, generator)
    features = torch.log(power + 1e-8)
    return _mask(features, strength, generator)


def mix(
    features: Tensor, mask: Tensor, targets: Tensor, strength: Strength, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup of neighbours in the batch, levels aligned (arXiv:1710.09412)."""
    if not strength.mixup:
        return features, mask, targets
    size = features.shape[0]
    share = torch.from_numpy(rng.beta(strength.mixup, strength.mixup, size).astype(np.float32))
    share = torch.maximum(share, 1.0 - share)
    other = torch.from_numpy(rng.permutation(size))
    count = mask.sum(1).clamp(min=1.0)
    level = ((features.exp().mean(2) * mask).sum(1) / count + 1e-9).log()[:, None, None]
    flat = (features - level).clamp(min=-RANGE_NAT)
    wide = share[:, None, None]
    both = wide * flat + (1.0 - wide) * flat[other] * mask[other][:, :, None]
    tall = share[:, None]
    return both, mask, tall * targets + (1.0 - tall) * targets[other]


def _mel_positions() -> tuple[Tensor, Tensor]:
    """Centres of the mel and the low bands on the mel axis, unit: one mel band."""
    low, high = (hz_to_mel(hz) for hz in MEL_HZ)
    step = (high - low) / (MELS + 1)
    lows = [(hz_to_mel(float(hz)) - low) / step - 1.0 for hz in low_bands_hz()]
    return torch.arange(MELS, dtype=torch.float32), torch.tensor(lows)


def _gather(x: Tensor, positions: Tensor) -> Tensor:
    """Linear interpolation along the last axis; ``positions`` f32[B, bands], clamped."""
    positions = positions.clamp(0, x.shape[-1] - 1)
    below = positions.floor().long()
    above = (below + 1).clamp(max=x.shape[-1] - 1)
    share = (positions - below)[:, None, :]
    shape = x.shape
    low = torch.gather(x, 2, below[:, None, :].expand(shape))
    high = torch.gather(x, 2, above[:, None, :].expand(shape))
    return low * (1.0 - share) + high * share


def _warp(mel: Tensor, factor: Tensor) -> Tensor:
    low, high = (hz_to_mel(hz) for hz in MEL_HZ)
    step = (high - low) / (MELS + 1)
    centres = low + (torch.arange(MELS) + 1) * step
    hz = 700.0 * (10.0 ** (centres / 2595.0) - 1.0)
    moved = 2595.0 * torch.log10(1.0 + hz[None] * factor / 700.0)
    return _gather(mel, (moved - low) / step - 1.0)


def _shift(low: Tensor, factor: Tensor) -> Tensor:
    hz = low_bands_hz()
    step = float(np.log(hz[1] / hz[0]))
    return _gather(low, torch.arange(LOWS)[None] + factor.log() / step)


def _equaliser(size: int, nat: float, generator: torch.Generator) -> Tensor:
    """Smooth random curves over the bands, the same for mel and low bands; f32[B, 1, FEATURES]."""
    places = torch.cat(_mel_positions()) / MELS
    orders = torch.arange(1, 6)
    waves = torch.cos(torch.pi * orders[:, None] * places[None])
    weights = torch.randn(size, orders.numel(), generator=generator) * nat / orders.sqrt()
    return (weights @ waves)[:, None]


def _reverb(power: Tensor, rt60_s: Tensor) -> Tensor:
    """Add a tail that decays by 60 dB in ``rt60_s``; ten frames a 100 ms, by doubling."""
    decay = torch.exp(-13.8 * 0.010 / rt60_s)
    tail = power
    for shift in (1, 2, 4, 8, 16):
        moved = torch.zeros_like(tail)
        if shift < tail.shape[1]:
            moved[:, shift:] = tail[:, :-shift]
        tail = tail + decay**shift * moved
    return power + 0.3 * (1.0 - decay) * tail / decay


def _noise(
    power: Tensor, mask: Tensor, where: Tensor, strength: Strength, generator: torch.Generator
) -> Tensor:
    """Babble of three other clips, or steady noise of a random colour, at a random distance."""
    size, (_, frames, bands) = where.numel(), power.shape
    level = _level(power, mask)
    voices = torch.zeros(size, frames, bands)
    for _ in range(3):
        others = torch.randint(power.shape[0], (size,), generator=generator)
        turn = int(torch.randint(frames, (1,), generator=generator))
        voices += power[others].roll(turn, 1) / level[others].clamp(min=1e-12)
    colour = _equaliser(size, 1.5, generator).exp()
    flutter = torch.randn(size, frames, bands, generator=generator).mul_(0.5).exp()
    kind = torch.rand(size, 1, 1, generator=generator)
    noise = torch.where(kind < 0.4, voices, colour * flutter)
    noise = noise / noise.mean(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    low, high = strength.snr_db
    snr_db = low + (high - low) * torch.rand(size, 1, 1, generator=generator)
    return noise * level[where] * 10.0 ** (-snr_db / 10.0)


def _level(power: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum(1).clamp(min=1.0)[:, None, None]
    return power.mean(2, keepdim=True).sum(1, keepdim=True) / count


def _mask(features: Tensor, strength: Strength, generator: torch.Generator) -> Tensor:
    """Two stripes of bands and two of frames become silence (SpecAugment, arXiv:1904.08779)."""
    size, frames, bands = features.shape
    chosen = torch.rand(size, 1, generator=generator) < strength.masks
    hidden = torch.zeros(size, frames, bands, dtype=torch.bool)
    for _ in range(2):
        hidden |= _stripe(size, bands, 10, generator)[:, None, :]
        hidden |= _stripe(size, frames, 25, generator)[:, :, None]
    return torch.where(hidden & chosen[:, :, None], torch.tensor(-18.4), features)


def _stripe(size: int, length: int, widest: int, generator: torch.Generator) -> Tensor:
    start = torch.rand(size, 1, generator=generator) * length
    width = torch.rand(size, 1, generator=generator) * widest
    place = torch.arange(length)[None]
    return (place >= start) & (place < start + width)


def collate(rows: Sequence[tuple[NDArray[np.float32], int]], frames: int) -> tuple[Tensor, Tensor]:
    """Stack cropped clips: features f32[B, frames, FEATURES] and mask f32[B, frames]."""
    features = torch.from_numpy(np.stack([row for row, _ in rows]))
    real = torch.tensor([count for _, count in rows])
    return features, (torch.arange(frames)[None] < real[:, None]).float()
