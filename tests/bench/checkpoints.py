"""Random checkpoints of any size in the published layout: bf16, one tensor at a time in memory."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exporters.r1omni import config
from exporters.r1omni.audio import Audio
from exporters.r1omni.decoder import Decoder
from exporters.r1omni.gate import Gate
from exporters.r1omni.spec import GateSpec
from exporters.r1omni.vision import VisionFusion

Shapes = dict[str, tuple[int, ...]]
MAIN = {
    "model_type": "HumanOmni_qwen2", "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 151936, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "use_sliding_window": False, "sliding_window": 32768, "rope_scaling": None,
    "hidden_act": "silu", "eos_token_id": 151645, "mm_projector_type": "all_in_one_small",
    "mm_audio_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch", "mm_hidden_size": 768, "audio_hidden_size": 1280,
    "mm_vision_tower": "../siglip-base-patch16-224", "mm_audio_tower": "../whisper-large-v3",
    "num_frames": 8,
}  # fmt: skip
SIGLIP = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
WHISPER = {
    "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
    "num_mel_bins": 128, "max_source_positions": 1500, "activation_function": "gelu",
}  # fmt: skip
BERT = GateSpec(
    hidden=768, layers=12, heads=12, intermediate=3072, vocab=30522, positions=512, types=2
)


@dataclass(frozen=True)
class Size:
    """The three configs as they stand in their folders, and the gate's shape."""

    main: dict[str, Any]
    siglip: dict[str, Any]
    whisper: dict[str, Any]
    bert: GateSpec


PUBLISHED = Size(MAIN, SIGLIP, WHISPER, BERT)


def shapes(size: Size) -> tuple[Shapes, Shapes, Shapes]:
    """Return names and shapes of the checkpoint, of SigLIP and of Whisper."""
    root = Path()
    decoder = config.decoder(size.main, root)
    with torch.device("meta"):
        vision = VisionFusion(config.vision(size.siglip, root), decoder.hidden)
        audio = Audio(config.audio(size.whisper, root), decoder.hidden)
        gate, language = Gate(size.bert), Decoder(decoder)

    def named(module: torch.nn.Module, prefix: str) -> Shapes:
        return {prefix + name: tuple(each.shape) for name, each in module.named_parameters()}

    main = {
        "model.embed_tokens.weight": (decoder.vocab, decoder.hidden),
        **named(language, "model."),
        **named(vision.projector, "model.mm_projector."),
        **named(audio.projector, "model.audio_projector."),
        **named(gate, "model."),
        "model.bert_model.pooler.dense.weight": (size.bert.hidden, size.bert.hidden),
        "model.bert_model.pooler.dense.bias": (size.bert.hidden,),
    }
    siglip = named(vision.tower, "vision_model.")
    last = int(size.siglip["num_hidden_layers"]) - 1
    siglip |= {
        name.replace(f"layers.{last - 1}.", f"layers.{last}."): shape
        for name, shape in siglip.items()
        if f".layers.{last - 1}." in name
    }
    wide = (size.siglip["hidden_size"],)
    siglip |= {f"vision_model.post_layernorm.{part}": wide for part in ("weight", "bias")}
    return main, siglip, named(audio.tower, "model.encoder.")


def write(folder: Path, settings: dict[str, object], tensors: Shapes, seed: int) -> None:
    """Write ``config.json`` and ``model.safetensors`` in bf16, tensor by tensor."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = torch.Generator().manual_seed(seed)
    with (folder / "model.safetensors").open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors.items():
            values = random(name, shape, noise).to(torch.bfloat16)
            out.write(values.view(torch.int16).numpy().tobytes())


def random(name: str, shape: tuple[int, ...], noise: torch.Generator) -> torch.Tensor:
    """Return random values of a size that keeps signals alive through all layers."""
    values = torch.randn(shape, generator=noise)
    if len(shape) == 1:
        return values.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
    fan_in = math.prod(shape[1:])
    return values.mul_(0.02 if "embed" in name else 0.5 / fan_in**0.5)


def checkpoint(root: Path, size: Size) -> Path:
    """Write a checkpoint and its towers below ``root``; return the checkpoint's folder."""
    source = root / "R1-Omni-0.5B"
    main, siglip, whisper = shapes(size)
    write(source, size.main, main, 0)
    write(root / "siglip-base-patch16-224", size.siglip, siglip, 1)
    write(root / "whisper-large-v3", size.whisper, whisper, 2)
    bert = root / "bert-base-uncased"
    bert.mkdir()
    heads = {"num_attention_heads": size.bert.heads, "hidden_size": size.bert.hidden}
    (bert / "config.json").write_text(json.dumps(heads))
    (bert / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]")
    return source


def values(size: Size) -> tuple[int, int]:
    """Return how many tensors and values that is."""
    every = [shape for part in shapes(size) for shape in part.values()]
    return len(every), sum(map(math.prod, every))
