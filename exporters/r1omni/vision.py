"""Eight frames to visual tokens: SigLIP, two convolutional branches, one plain one, and their mix.

Time runs along the first axis: a frame is a row of the batch. The projector is causal with a reach
of two: tokens of frame t depend on frames t-1 and t only.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.r1omni.layers import Attention, LayerNorm, mlp2
from exporters.r1omni.spec import VisionSpec

NORM2D_EPS: Final = 1e-5
SE_RATIO: Final = 0.25


class SiglipMlp(nn.Module):
    """Feed-forward part with tanh GELU."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.fc1 = nn.Linear(spec.hidden, spec.intermediate)
        self.fc2 = nn.Linear(spec.intermediate, spec.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, hidden)`` → the same."""
        answer: Tensor = self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
        return answer


class SiglipLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        self.layer_norm1 = LayerNorm(spec.hidden, eps=spec.eps)
        self.self_attn = Attention(spec.hidden, spec.heads)
        self.layer_norm2 = LayerNorm(spec.hidden, eps=spec.eps)
        self.mlp = SiglipMlp(spec)

    def forward(self, x: Tensor) -> Tensor:
        """``(frames, patches, hidden)`` → the same."""
        x = x + self.self_attn(self.layer_norm1(x))
        answer: Tensor = x + self.mlp(self.layer_norm2(x))
        return answer


class SiglipTower(nn.Module):
    """Patches and the encoder layers up to the last but one; no class token, no final norm."""

    def __init__(self, spec: VisionSpec) -> None:
        super().__init__()
        patch = nn.Conv2d(3, spec.hidden, spec.patch, spec.patch)
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = patch
        self.embeddings.position_embedding = nn.Embedding(spec.grid**2, spec.hidden)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(SiglipLayer(spec) for _ in range(spec.used_layers))

    def forward(self, pixels: Tensor) -> Tensor:
        """``(frames, 3, image, image)`` in [-1, 1] → ``(frames, patches, hidden)``."""
        x = self.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)  # type: ignore[operator]  # children of a bare Module
        x = x + self.embeddings.position_embedding.weight  # type: ignore[union-attr]  # the same
        for layer in self.encoder.layers:  # type: ignore[union-attr]  # the same
            x = layer(x)
        answer: Tensor = x
        return answer


class Norm2d(nn.Module):
    """LayerNorm over the channels of ``(frames, channels, height, width)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise in fp32."""
        weight, bias = self.weight.float(), self.bias.float()
        last = x.permute(0, 2, 3, 1).float()
        normal = functional.layer_norm(last, weight.shape, weight, bias, NORM2D_EPS)
        return normal.permute(0, 3, 1, 2).to(x.dtype)


class ConvNorm(nn.Module):
    """Convolution without bias, Norm2d, SiLU unless ``act`` is off."""

    def __init__(
        self, channels_in: int, channels: int, size: int, *, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels, size, padding=size // 2, groups=groups, bias=False
        )
        self.bn = Norm2d(channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Keep height and width."""
        x = self.bn(self.conv(x))
        return functional.silu(x) if self.act else x


class SqueezeExcite(nn.Module):
    """Channel weights from the mean picture."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        mean = x.float().mean((2, 3), keepdim=True).to(x.dtype)
        answer: Tensor = x * self.fc2(functional.silu(self.fc1(mean))).sigmoid()
        return answer


class RegBlock(nn.Module):
    """RegNet-Y bottleneck with a depthwise 3×3 (arXiv 2003.13678); the width stays the group."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels_in, channels, 1)
        self.conv2 = ConvNorm(channels, channels, 3, groups=channels)
        self.se = SqueezeExcite(channels, round(SE_RATIO * channels_in))
        self.conv3 = ConvNorm(channels, channels, 1, act=False)
        self.downsample = (
            ConvNorm(channels_in, channels, 1, act=False) if channels_in != channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(frames, in, h, w)`` → ``(frames, channels, h, w)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.silu(self.conv3(self.se(self.conv2(self.conv1(x)))) + shortcut)


def stage(channels_in: int, channels: int) -> nn.ModuleDict:
    """Two blocks, named as in the checkpoint."""
    return nn.ModuleDict(
        {"b1": RegBlock(channels_in, channels), "b2": RegBlock(channels, channels)}
    )


class Sampler(nn.Conv3d):
    """Conv3d over two frames and 2×2 pixels whose last time slice is dropped.

    Written as two 2-D convolutions of the frame before and the frame itself: exactly the same sum,
    and it exports without a time axis.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 2)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """``(frames, channels, h, w)`` → ``(frames, channels, h/2, w/2)``."""
        before = torch.cat([torch.zeros_like(input[:1]), input[:-1]])
        past = functional.conv2d(before, self.weight[:, :, 0], stride=2)
        return past + functional.conv2d(input, self.weight[:, :, 1], self.bias, stride=2)


class Projector(nn.Module):
    """The three branches of ``all_in_one_small`` and their mix."""

    def __init__(self, vision: int, hidden: int) -> None:
        super().__init__()
        self.s1_video = stage(vision, hidden)
        self.sampler_video = nn.Sequential(Sampler(hidden))
        self.s2_video = stage(hidden, hidden)
        self.readout_video = mlp2(hidden, hidden)
        self.s1_body = stage(vision, hidden)
        self.sampler_body = nn.Sequential(Sampler(hidden))
        self.s2_body = stage(hidden, hidden)
        self.readout_body = mlp2(hidden, hidden)
        self.mlp_2xgelu_face = mlp2(vision, hidden)

    def forward(self, features: Tensor, probs: Tensor, grid: int) -> Tensor:
        """``(frames, patches, vision)``, ``(3,)`` → ``(frames * patches / 4, hidden)``."""
        picture = squared(features, grid)
        video = self._branch(
            picture, self.s1_video, self.sampler_video, self.s2_video, self.readout_video
        )
        body = self._branch(
            picture, self.s1_body, self.sampler_body, self.s2_body, self.readout_body
        )
        face = squared(self.mlp_2xgelu_face(features), grid)
        # Bilinear halving of an even grid is the mean of 2×2.
        pooled = rows(functional.avg_pool2d(face, 2))
        return video * probs[0] + body * probs[1] + pooled * probs[2]

    @staticmethod
    def _branch(
        x: Tensor, s1: nn.ModuleDict, sampler: nn.Module, s2: nn.ModuleDict, readout: nn.Module
    ) -> Tensor:
        x = functional.silu(sampler(s1["b2"](s1["b1"](x))))
        answer: Tensor = readout(rows(s2["b2"](s2["b1"](x))))
        return answer


def squared(x: Tensor, grid: int) -> Tensor:
    """``(frames, patches, channels)`` → ``(frames, channels, grid, grid)``."""
    frames, _, channels = x.shape
    return x.transpose(1, 2).reshape(frames, channels, grid, grid)


def rows(x: Tensor) -> Tensor:
    """``(frames, channels, h, w)`` → ``(frames * h * w, channels)``, frame- then row-major."""
    return x.flatten(2).transpose(1, 2).flatten(0, 1)


class VisionFusion(nn.Module):
    """Pixels and branch weights to visual tokens: the graph ``vision_fusion``."""

    def __init__(self, spec: VisionSpec, hidden: int) -> None:
        super().__init__()
        self.grid = spec.grid
        self.tower = SiglipTower(spec)
        self.projector = Projector(spec.hidden, hidden)

    def forward(self, pixel_values: Tensor, branch_probs: Tensor) -> Tensor:
        """``(frames, 3, image, image)``, ``(3,)`` → ``(frames * grid² / 4, hidden)``."""
        answer: Tensor = self.projector(self.tower(pixel_values), branch_probs, self.grid)
        return answer
