"""Building blocks that more than one tower uses. Module names follow the published checkpoints."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose statistics are fp32 whatever the weights are; one op in the graph.

    Decomposed in fp16 it overflows in Whisper and stays finite but wrong.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise the last axis."""
        weight, bias = self.weight.float(), self.bias.float()
        normal = functional.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps)
        return normal.to(input.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm: fp32 inside, cast back, then the weight (Qwen2's order)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class Attention(nn.Module):
    """Bidirectional multi-head attention of the encoders, softmax in fp32.

    ``out`` names the output projection; Whisper's key projection has no bias.
    """

    def __init__(self, width: int, heads: int, *, key_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=key_bias)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, tokens, width)`` → the same."""
        q, k, v = (split(f(x), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        answer: Tensor = self.out_proj(joined(attend(q, k, v)))
        return answer


def split(x: Tensor, heads: int) -> Tensor:
    """``(batch, tokens, heads * dim)`` → ``(batch, heads, tokens, dim)``."""
    batch, tokens, _ = x.shape
    answer: Tensor = x.reshape(batch, tokens, heads, -1).transpose(1, 2)
    return answer


def joined(x: Tensor) -> Tensor:
    """Undo :func:`split`."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention; ``mask`` is added to the fp32 scores."""
    # Scaling the query first keeps fp16 products small.
    scores = ((q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1).to(v.dtype) @ v


def mlp2(width_in: int, width_out: int) -> nn.Sequential:
    """Linear, GELU (erf), Linear: the projector's read-outs."""
    return nn.Sequential(nn.Linear(width_in, width_out), nn.GELU(), nn.Linear(width_out, width_out))
