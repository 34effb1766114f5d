"""Shapes of an R1-Omni style checkpoint, as plain data; nothing here reads a file.

Source: HumanMLLM/R1-Omni and HumanMLLM/HumanOmni (model code), arXiv 2503.05379; Qwen2.5 and Qwen3
technical reports for the decoders.
"""

from dataclasses import dataclass
from typing import Final

GATE_HIDDEN: Final = 3584
"""Width of the gate's hidden layer: a constant of the published model code, whatever the BERT."""
BRANCHES: Final = ("video", "body", "face")
"""Order of the gate's three probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """Mixture-of-experts part of a decoder layer (Qwen3-MoE)."""

    experts: int
    top_k: int
    intermediate: int
    norm_topk: bool
    layers: frozenset[int]
    """Layers whose MLP is a mixture; the others are dense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder-only language model with grouped-query attention and rotary positions."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    qkv_bias: bool
    qk_norm: bool
    rope_theta: float
    rms_eps: float
    tied: bool
    eos: int
    moe: MoeSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSpec:
    """A SigLIP tower. ``used_layers`` stops before the last: ``hidden_states[-2]`` is wanted."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    image: int
    patch: int
    eps: float

    @property
    def used_layers(self) -> int:
        """Encoder layers that are computed."""
        return self.layers - 1

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image // self.patch


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSpec:
    """A Whisper encoder."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    mels: int
    positions: int

    @property
    def frames(self) -> int:
        """Mel frames it takes (30 s)."""
        return 2 * self.positions

    @property
    def tokens(self) -> int:
        """Tokens after the average over three."""
        return self.positions // 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSpec:
    """BERT, which turns the instruction into three branch weights."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    types: int
    eps: float = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class OmniSpec:
    """The whole model."""

    decoder: DecoderSpec
    vision: VisionSpec
    audio: AudioSpec
    gate: GateSpec
    frames: int
