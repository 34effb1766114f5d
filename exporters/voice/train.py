"""Train the voice network: balanced sampling, widened features, averaged weights.

Given the same clips, settings and seed on one machine, a run repeats; the order of clips and every
augmentation come from that seed.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from exporters.voice.augment import Strength, augment, collate, crop, mix
from exporters.voice.data import SPEED_SHARES, Corpus
from exporters.voice.model import Shape, VoiceNet
from pipeline.spec import LABELS


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training run."""

    epochs: int = 22
    clips_per_epoch: int = 4608
    batch: int = 64
    peak_rate: float = 2e-3
    weight_decay: float = 0.03
    smoothing: float = 0.1
    average: float = 0.99
    """Decay of the moving average of the weights, per step."""
    frames: tuple[int, int] = (140, 260)
    """Shortest and longest crop, 10 ms each."""
    corpus_power: float = 0.25
    """A corpus of n clips is drawn n ** power often: 1 by size, 0 all alike."""
    half: bool = True
    """Convolutions in bfloat16: a third faster where the CPU knows it."""
    seed: int = 0
    strength: Strength = field(default_factory=Strength)
    shape: Shape = field(default_factory=Shape)


def train(
    corpus: Corpus,
    chosen: NDArray[np.int64],
    recipe: Recipe,
    *,
    start: VoiceNet | None = None,
    report: Callable[[int, float, VoiceNet], None] | None = None,
) -> VoiceNet:
    """Return the network trained on the clips ``chosen`` (indices into ``corpus``).

    Training goes on from ``start``, if given, instead of from chance.
    ``report`` is called after every epoch with its number, the mean loss and the averaged network.
    """
    torch.manual_seed(recipe.seed)
    net = copy.deepcopy(start) if start else VoiceNet(recipe.shape)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs
    mean = copy.deepcopy(net).eval()
    optimiser = torch.optim.AdamW(_groups(net, recipe), lr=recipe.peak_rate, betas=(0.9, 0.98))
    per_epoch = recipe.clips_per_epoch // recipe.batch
    steps = recipe.epochs * per_epoch
    batches = _batches(corpus, chosen, recipe)
    losses: list[float] = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.peak_rate * _schedule(step, steps)
        net.train()
        features, mask, targets = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.half):
            logits = net(features, mask)
        loss = F.cross_entropy(logits.float(), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimiser.step()
        _average(mean, net, min(recipe.average, (1 + step) / (10 + step)))
        losses.append(loss.item())
        if (step + 1) % per_epoch == 0 and report:
            report((step + 1) // per_epoch, float(np.mean(losses[-per_epoch:])), mean)
    return mean


def infer(
    net: Callable[[Tensor, Tensor], Tensor],
    clips: Sequence[NDArray[np.float16]],
    *,
    batch: int = 32,
) -> NDArray[np.float64]:
    """Return logits f64[clips, 7] of whole clips; ``net`` maps features and mask to logits."""
    order = sorted(range(len(clips)), key=lambda k: len(clips[k]))
    logits: NDArray[np.float64] = np.zeros((len(clips), len(LABELS)))
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        longest = len(clips[part[-1]])
        features = np.zeros((len(part), longest, clips[0].shape[1]), np.float32)
        mask = np.zeros((len(part), longest), np.float32)
        for row, k in enumerate(part):
            features[row, : len(clips[k])] = clips[k]
            mask[row, : len(clips[k])] = 1.0
        with torch.inference_mode():
            logits[part] = net(torch.from_numpy(features), torch.from_numpy(mask)).numpy()
    return logits


def _groups(net: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Weight decay for matrices alone; norms and biases go free."""
    heavy = [p for p in net.parameters() if p.ndim > 1]
    light = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": heavy, "weight_decay": recipe.weight_decay},
        {"params": light, "weight_decay": 0.0},
    ]


def _schedule(step: int, steps: int) -> float:
    """Rise over 6 % of the steps, then half a cosine down to 1 %."""
    rise = max(1, int(0.06 * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (step - rise) / (steps - rise)))


def _average(mean: nn.Module, net: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for slow, fast in zip(mean.state_dict().values(), net.state_dict().values(), strict=True):
            if slow.dtype.is_floating_point:
                slow.lerp_(fast, 1.0 - decay)
            else:
                slow.copy_(fast)


def draw_weights(corpus: Corpus, chosen: NDArray[np.int64], power: float) -> NDArray[np.float64]:
    """Probability of each chosen clip: classes alike within a corpus, corpora by size ** power."""
    names = np.array([corpus.clips[k].take.corpus for k in chosen])
    labels = corpus.labels[chosen]
    weights = np.zeros(len(chosen))
    for name in set(names.tolist()):
        here = names == name
        kinds = set(labels[here].tolist())
        for label in kinds:
            both = here & (labels == label)
            weights[both] = here.sum() ** power / len(kinds) / both.sum()
    weights /= weights.sum()
    return weights


def _batches(
    corpus: Corpus, chosen: NDArray[np.int64], recipe: Recipe
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    rng = np.random.default_rng(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    weights = draw_weights(corpus, chosen, recipe.corpus_power)
    while True:
        picks = rng.choice(chosen, recipe.batch, p=weights)
        frames = int(rng.integers(recipe.frames[0] // 20, recipe.frames[1] // 20 + 1)) * 20
        speeds = rng.choice(len(corpus.features), recipe.batch, p=SPEED_SHARES)
        rows = [
            crop(corpus.features[s][k], frames, recipe.strength, rng)
            for s, k in zip(speeds, picks, strict=True)
        ]
        features, mask = collate(rows, frames)
        features = augment(features, mask, recipe.strength, generator)
        targets = _targets(corpus.labels[picks], recipe.smoothing)
        yield mix(features, mask, targets, recipe.strength, rng)


def _targets(labels: NDArray[np.int64], smoothing: float) -> Tensor:
    hot = F.one_hot(torch.from_numpy(labels), len(LABELS)).float()
    return hot * (1.0 - smoothing) + smoothing / len(LABELS)


def stopwatch() -> Callable[[], float]:
    """Return a function that tells the seconds since now."""
    start = time.perf_counter()
    return lambda: time.perf_counter() - start
