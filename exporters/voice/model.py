"""Frame features to the seven probabilities: two small residual towers and attentive pooling.

One tower reads the mel bands, one the pitch bands; both shrink their band axis, a few dilated
convolutions along time follow, and attention weighs the frames. The level of the sound is taken
out inside the graph, so a quiet microphone and a loud one look alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.voice.frontend import LOWS, MELS
from pipeline.spec import LABELS

RANGE_NAT = 9.0
"""Anything this far under the level of the window (39 dB) counts as silence."""
WORD_BANDS = (4, 48)
"""Mel bands that tell words from silence: 200 Hz to 3.5 kHz."""
WORD_RANGE_NAT = 6.0
WORD_MARGIN = 10
"""Frames."""
QUIET_NAT = -2.5
"""Frames this far under the window's mean power (11 dB) have half a say in its level."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of the network; part of every checkpoint."""

    mel: tuple[int, ...] = (16, 32, 48, 64)
    low: tuple[int, ...] = (12, 16, 24, 24)
    time: int = 160
    dilations: tuple[int, ...] = (1, 2, 4)
    dropout: float = 0.3
    """Before the answer; a third of it between the convolutions along time."""


def spoken(features: Tensor, mask: Tensor) -> Tensor:
    """Return ``mask`` f32[B, T] without the silence before the first and after the last word.

    Speech is what lies within 26 dB of the loudest frame, 100 ms more on either side; pauses
    inside stay. Training crops are cut the same way (:func:`exporters.voice.augment.crop`).
    """
    energy = features[:, :, WORD_BANDS[0] : WORD_BANDS[1]].mean(dim=2) - 1e4 * (1.0 - mask)
    near = (energy > energy.amax(dim=1, keepdim=True) - WORD_RANGE_NAT).float()
    near = F.max_pool1d(near[:, None], 2 * WORD_MARGIN + 1, 1, WORD_MARGIN)[:, 0]
    since = near.cumsum(dim=1)
    until = near.sum(dim=1, keepdim=True) - since + near
    return mask * (since > 0.5).float() * (until > 0.5).float()


class Normalise(nn.Module):
    """Log powers f32[B, T, F] to two planes f32[B, 2, T, F]: against the level, against the band.

    The first plane keeps the spectrum's tilt (how pressed a voice is) and loses the gain; the
    second loses the tilt and with it the microphone and the room. Level and bands are means over
    the frames that are loud for this window, so that pauses around a sentence do not move them.
    """

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """``mask`` f32[B, T, 1]: 1 where there is sound to judge."""
        power = features.exp().mean(dim=2, keepdim=True)
        rough = torch.log(_mean(power, mask) + 1e-9)
        loud = mask * torch.sigmoid(2.0 * (torch.log(power + 1e-9) - rough - QUIET_NAT))
        level = torch.log(_mean(power, loud) + 1e-9)
        above = (features - level).clamp(min=-RANGE_NAT) * mask - RANGE_NAT * (1.0 - mask)
        band = _mean(above, loud)
        return torch.stack([above / 3.0 + 1.0, (above - band) / 2.5 * mask], dim=1)


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over time, f32[B, 1, F]."""
    total = weight.sum(dim=1, keepdim=True).clamp(min=1e-3)
    return (x * weight).sum(dim=1, keepdim=True) / total


class Residual(nn.Module):
    """Two 3x3 convolutions; the first may shrink time and bands."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride != (1, 1) else None
        self.match = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x' + f(x))."""
        y = F.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        x = x if self.pool is None else self.pool(x)
        x = x if self.match is None else self.match(x)
        return F.relu(x + y)


def _tower(widths: tuple[int, ...], bands: int) -> tuple[nn.Sequential, int]:
    """Quarter the time axis, divide the bands by 16; return the tower and its flattened width."""
    stem, *rest = widths
    layers: list[nn.Module] = [
        nn.Conv2d(2, stem, 5, (2, 2), 2, bias=False),
        nn.BatchNorm2d(stem),
        nn.ReLU(),
    ]
    inputs = stem
    for number, width in enumerate(rest):
        layers.append(Residual(inputs, width, (2 if number == 0 else 1, 2)))
        inputs = width
    return nn.Sequential(*layers), inputs * (bands >> len(widths))


class Temporal(nn.Module):
    """A dilated residual convolution along time."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` f32[B, C, T]."""
        y: Tensor = self.drop(F.relu(self.norm(self.conv(x))))
        return x + y


class Pool(nn.Module):
    """Attentive statistics: weighted mean and deviation over time (arXiv:1803.10963)."""

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(width, hidden, 1)
        self.score = nn.Conv1d(hidden, width, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``mask`` f32[B, 1, T] takes frames out of the weights."""
        score = self.score(torch.tanh(self.hidden(x))).float() - 1e4 * (1.0 - mask)
        x = x.float()  # the difference of squares below needs the digits
        weight = torch.softmax(score, dim=2)
        mean = (weight * x).sum(dim=2)
        square = (weight * x * x).sum(dim=2)
        deviation = torch.sqrt((square - mean * mean).clamp(min=1e-5))
        return torch.cat([mean, deviation], dim=1)


class VoiceNet(nn.Module):
    """Features f32[B, T, FEATURES] and mask f32[B, T] to logits f32[B, 7] in wire order."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape or Shape()
        self.normalise = Normalise()
        self.mel, mel = _tower(self.shape.mel, MELS)
        self.low, low = _tower(self.shape.low, LOWS)
        width = self.shape.time
        self.join = nn.Conv1d(mel + low, width, 1, bias=False)
        self.join_norm = nn.BatchNorm1d(width)
        self.temporal = nn.ModuleList(
            Temporal(width, d, self.shape.dropout / 3.0) for d in self.shape.dilations
        )
        self.pool = Pool(width)
        self.head = nn.Sequential(
            nn.BatchNorm1d(2 * width),
            nn.Dropout(self.shape.dropout),
            nn.Linear(2 * width, len(LABELS)),
        )

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return logits; the temperature is not applied."""
        mask = spoken(features, mask)
        planes = self.normalise(features, mask[:, :, None])
        planes = planes.contiguous(memory_format=torch.channels_last) if self.training else planes
        mel = self.mel(planes[..., :MELS])
        low = self.low(planes[..., MELS:])
        x = torch.cat([_flat(mel), _flat(low)], dim=1)
        x = F.relu(self.join_norm(self.join(x)))
        for layer in self.temporal:
            x = layer(x)
        # Every fourth frame, as the towers' strides keep them.
        logits: Tensor = self.head(self.pool(x, mask[:, None, ::4]))
        return logits


def _flat(x: Tensor) -> Tensor:
    """[B, C, T, F] to [B, C * F, T]."""
    return x.permute(0, 1, 3, 2).flatten(1, 2)


class Scorer(nn.Module):
    """What is exported: networks that vote, the temperature, an offset a class, the softmax."""

    offset: Tensor

    def __init__(
        self, nets: Sequence[VoiceNet], temperature: float, offset: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.temperature = temperature
        self.register_buffer("offset", torch.tensor(offset or [0.0] * len(LABELS)))

    def logits(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the networks' logits f32[B, 7]."""
        return torch.stack([net(features, mask) for net in self.nets]).mean(dim=0)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return probabilities f32[B, 7]."""
        logits = self.logits(features, mask) / self.temperature + self.offset
        return torch.softmax(logits, dim=1)
