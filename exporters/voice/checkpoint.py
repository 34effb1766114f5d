"""Trained networks on disk: weights, shapes, calibration and what was held out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch

from exporters.voice.model import Scorer, Shape, VoiceNet
from pipeline.errors import UsageError
from pipeline.spec import LABELS


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What training leaves behind."""

    nets: tuple[VoiceNet, ...]
    """One or more networks that vote."""
    temperature: float
    held: tuple[str, ...]
    """Speakers (``corpus/speaker``) that no weight ever heard; empty: all were heard."""
    validation: str | None
    """One sentence on whom it was validated."""
    offset: tuple[float, ...] = (0.0,) * len(LABELS)
    """Added to the tempered logits, one a label."""

    @property
    def scorer(self) -> Scorer:
        """The networks as one calibrated scorer."""
        return Scorer(self.nets, self.temperature, self.offset).eval()


def joined(parts: Sequence[Checkpoint]) -> Checkpoint:
    """Let the networks of several runs vote; only what all held out stays held out."""
    if len(parts) == 1:
        return parts[0]
    nets = tuple(net for part in parts for net in part.nets)
    held = set(parts[0].held).intersection(*(part.held for part in parts))
    temperature = sum(part.temperature for part in parts) / len(parts)
    offset = tuple(
        round(sum(of) / len(parts), 2) for of in zip(*(p.offset for p in parts), strict=True)
    )
    return Checkpoint(nets, round(temperature, 2), tuple(sorted(held)), None, offset)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write ``checkpoint``; tensors and plain values only."""
    record = {
        "shapes": [asdict(net.shape) for net in checkpoint.nets],
        "states": [net.state_dict() for net in checkpoint.nets],
        "temperature": checkpoint.temperature,
        "held": list(checkpoint.held),
        "validation": checkpoint.validation,
        "offset": list(checkpoint.offset),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(record, path)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint without running any code of the file.

    Raises :class:`UsageError` when ``path`` is no checkpoint of this recipe.
    """
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        nets = []
        for shape, state in zip(record["shapes"], record["states"], strict=True):
            nets.append(VoiceNet(Shape(**shape)).eval())
            nets[-1].load_state_dict(state)
        held = tuple(record["held"])
        offset = tuple(record.get("offset", (0.0,) * len(LABELS)))
        return Checkpoint(tuple(nets), record["temperature"], held, record["validation"], offset)
    except OSError as error:
        raise UsageError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, RuntimeError, UnpicklingError, EOFError) as error:
        raise UsageError(
            f"{path} is no checkpoint of the voice recipe: train one with python -m exporters voice"
        ) from error
