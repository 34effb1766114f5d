"""Thirty seconds of sound to 500 tokens: Whisper's encoder, an average over three, two layers."""

from torch import Tensor, nn
from torch.nn import functional

from exporters.r1omni.layers import Attention, LayerNorm, mlp2
from exporters.r1omni.spec import AudioSpec


class WhisperLayer(nn.Module):
    """Pre-norm transformer layer with erf GELU."""

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        self.self_attn_layer_norm = LayerNorm(spec.hidden)
        self.self_attn = Attention(spec.hidden, spec.heads, key_bias=False)
        self.final_layer_norm = LayerNorm(spec.hidden)
        self.fc1 = nn.Linear(spec.hidden, spec.intermediate)
        self.fc2 = nn.Linear(spec.intermediate, spec.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """``(1, positions, hidden)`` → the same."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        answer: Tensor = x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))
        return answer


class WhisperEncoder(nn.Module):
    """The encoder of Whisper (arXiv 2212.04356)."""

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(spec.mels, spec.hidden, 3, padding=1)
        self.conv2 = nn.Conv1d(spec.hidden, spec.hidden, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(spec.positions, spec.hidden)
        self.layers = nn.ModuleList(WhisperLayer(spec) for _ in range(spec.layers))
        self.layer_norm = LayerNorm(spec.hidden)

    def forward(self, mel: Tensor) -> Tensor:
        """``(1, mels, frames)`` log-mel → ``(1, positions, hidden)``."""
        x = functional.gelu(self.conv2(functional.gelu(self.conv1(mel))))
        x = x.transpose(1, 2) + self.embed_positions.weight
        for layer in self.layers:
            x = layer(x)
        answer: Tensor = self.layer_norm(x)
        return answer


class Audio(nn.Module):
    """Log-mel to audio tokens: the graph ``audio``."""

    def __init__(self, spec: AudioSpec, hidden: int) -> None:
        super().__init__()
        self.tower = WhisperEncoder(spec)
        self.projector = mlp2(spec.hidden, hidden)

    def forward(self, mel: Tensor) -> Tensor:
        """``(1, mels, frames)`` → ``(1, tokens, hidden)``."""
        x = self.tower(mel).transpose(1, 2)
        answer: Tensor = self.projector(functional.avg_pool1d(x, 3, 3).transpose(1, 2))
        return answer
