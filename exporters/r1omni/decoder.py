"""One decoder for Qwen2.5, Qwen3 and Qwen3-MoE, driven by :class:`DecoderSpec`.

Embedding and head stay outside: text, picture and sound rows are spliced before it, and the head is
applied to a few chosen positions only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.r1omni.layers import RMSNorm, attend, joined, split
from exporters.r1omni.spec import DecoderSpec, MoeSpec

MASKED = -1e9
"""Added to fp32 scores: finite, so that a fully masked row gives no NaN."""
Past = tuple[Tensor, Tensor]
"""Keys and values, ``(batch, kv_heads, past, head_dim)`` each."""


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions and a cache."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.spec = spec
        wide, narrow = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.q_proj = nn.Linear(spec.hidden, wide, bias=spec.qkv_bias)
        self.k_proj = nn.Linear(spec.hidden, narrow, bias=spec.qkv_bias)
        self.v_proj = nn.Linear(spec.hidden, narrow, bias=spec.qkv_bias)
        self.o_proj = nn.Linear(wide, spec.hidden, bias=False)
        if spec.qk_norm:
            self.q_norm = RMSNorm(spec.head_dim, spec.rms_eps)
            self.k_norm = RMSNorm(spec.head_dim, spec.rms_eps)

    def forward(self, x: Tensor, angles: Past, mask: Tensor, past: Past) -> tuple[Tensor, Past]:
        """``(batch, new, hidden)`` → the same, and keys and values with the new ones appended."""
        q = split(self.q_proj(x), self.spec.heads)
        k = split(self.k_proj(x), self.spec.kv_heads)
        v = split(self.v_proj(x), self.spec.kv_heads)
        if self.spec.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        k = torch.cat([past[0], rotated(k, angles)], 2)
        v = torch.cat([past[1], v], 2)
        groups = self.spec.heads // self.spec.kv_heads
        seen = attend(rotated(q, angles), repeated(k, groups), repeated(v, groups), mask)
        return self.o_proj(joined(seen)), (k, v)


def rotated(x: Tensor, angles: Past) -> Tensor:
    """Apply rotary positions (arXiv 2104.09864) in the rotate-half form."""
    cosine, sine = angles
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine


def repeated(x: Tensor, groups: int) -> Tensor:
    """Give each KV head to ``groups`` consecutive query heads."""
    if groups == 1:
        return x
    return x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, hidden)`` → the same."""
        answer: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return answer


class DenseMoe(nn.Module):
    """Mixture of experts computed over all experts, zero weight outside the top k: exact, plain.

    ``experts.*`` hold the checkpoint's matrices stacked, ``(experts, out, in)``.
    """

    def __init__(self, hidden: int, spec: MoeSpec) -> None:
        super().__init__()
        self.spec = spec
        self.gate = nn.Linear(hidden, spec.experts, bias=False)
        inner = (spec.experts, spec.intermediate, hidden)
        self.experts = nn.ParameterDict(
            {
                "gate_proj": nn.Parameter(torch.empty(inner)),
                "up_proj": nn.Parameter(torch.empty(inner)),
                "down_proj": nn.Parameter(torch.empty(spec.experts, hidden, spec.intermediate)),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, new, hidden)`` → the same."""
        rows = x.flatten(0, 1)
        routed = self._weights(rows).to(x.dtype)
        parts = self.experts
        gate = functional.silu(rows[None] @ parts["gate_proj"].transpose(1, 2))
        inner = gate * (rows[None] @ parts["up_proj"].transpose(1, 2))
        answers = inner @ parts["down_proj"].transpose(1, 2)
        answer: Tensor = (answers * routed.transpose(0, 1)[:, :, None]).sum(0).reshape(x.shape)
        return answer

    def _weights(self, rows: Tensor) -> Tensor:
        """Return ``(rows, experts)`` fp32: the softmax, kept for the best k only."""
        probabilities = self.gate(rows).float().softmax(-1)
        best, index = probabilities.topk(self.spec.top_k, -1)
        if self.spec.norm_topk:
            best = best / best.sum(-1, keepdim=True)
        return torch.zeros_like(probabilities).scatter(-1, index, best)


class Layer(nn.Module):
    """Pre-norm decoder layer."""

    def __init__(self, spec: DecoderSpec, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(spec.hidden, spec.rms_eps)
        self.self_attn = SelfAttention(spec)
        self.post_attention_layernorm = RMSNorm(spec.hidden, spec.rms_eps)
        self.mlp: nn.Module = (
            DenseMoe(spec.hidden, spec.moe)
            if spec.moe is not None and index in spec.moe.layers
            else Mlp(spec.hidden, spec.intermediate)
        )

    def forward(self, x: Tensor, angles: Past, mask: Tensor, past: Past) -> tuple[Tensor, Past]:
        """``(batch, new, hidden)`` → the same, and the grown cache."""
        seen, cache = self.self_attn(self.input_layernorm(x), angles, mask, past)
        x = x + seen
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class Decoder(nn.Module):
    """All layers and the final norm: the graph ``decoder`` without its head."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleList(Layer(spec, index) for index in range(spec.layers))
        self.norm = RMSNorm(spec.hidden, spec.rms_eps)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        logits_index: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        """``(batch, new, hidden)``, ``(batch, past + new)``, ``(batch, new)``, ``(chosen,)``.

        ``past`` is key and value of each layer in turn. Returns the normed rows at
        ``logits_index``, ``(batch, chosen, hidden)``, then the grown keys and values.
        """
        angles = self._angles(position_ids, inputs_embeds.dtype)
        mask = causal(attention_mask, inputs_embeds.shape[1])
        x = inputs_embeds
        grown: list[Tensor] = []
        for layer, key, value in zip(self.layers, past[::2], past[1::2], strict=True):
            x, cache = layer(x, angles, mask, (key, value))
            grown += cache
        return (self.norm(x.index_select(1, logits_index)), *grown)

    def _angles(self, positions: Tensor, dtype: torch.dtype) -> Past:
        """Return cosine and sine, ``(batch, 1, new, head_dim)``; computed in fp32, cast last."""
        half = torch.arange(0, self.spec.head_dim, 2, dtype=torch.float32) / self.spec.head_dim
        turns = positions[:, None, :, None].float() * (1.0 / self.spec.rope_theta**half)
        both = torch.cat([turns, turns], -1)
        return both.cos().to(dtype), both.sin().to(dtype)


def causal(attention_mask: Tensor, new: int) -> Tensor:
    """Return what is added to the scores: ``(batch, 1, new, past + new)``, 0 or :data:`MASKED`."""
    place = torch.ones_like(attention_mask[:1]).cumsum(1)  # 1, 2, … of all positions
    later = place[:, None, :] > place[:, -new:, None]
    hidden = later | (attention_mask[:, None, :] == 0)
    return hidden[:, None].float() * MASKED


class Head(nn.Module):
    """Chosen rows to fp32 logits with the given embedding or head matrix."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(spec.vocab, spec.hidden))

    def forward(self, rows: Tensor) -> Tensor:
        """``(…, hidden)`` → ``(…, vocab)`` fp32."""
        return functional.linear(rows, self.weight).float()
