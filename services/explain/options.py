"""How the explain model is asked; plain data that crosses to its process."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Options:
    """How the model is asked."""

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    labels: Literal["dfew", "mafw", "ravdess"] = "mafw"
    aspect: Literal["squash", "pad"] = "squash"
    """Published inference squashes pictures to a square, training padded them."""
    thinking: int = 96
    """Tokens of thinking before the answer is forced."""
    prefix: str = ""
    """What is written for the model before ``<answer>`` when labels are scored."""
