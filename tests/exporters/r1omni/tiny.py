"""A tiny checkpoint with every tensor random, norms and biases too, in any of the layouts."""

import json
from dataclasses import dataclass

import torch
from safetensors.torch import save_file

from exporters.r1omni.audio import Audio
from exporters.r1omni.decoder import Decoder
from exporters.r1omni.gate import Gate
from exporters.r1omni.spec import AudioSpec, DecoderSpec, GateSpec, VisionSpec
from exporters.r1omni.vision import VisionFusion

HIDDEN = 32
DECODER = DecoderSpec(
    hidden=HIDDEN, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate=48, vocab=300,
    qkv_bias=True, qk_norm=False, rope_theta=1e6, rms_eps=1e-6, tied=True, eos=2,
)  # fmt: skip
VISION = VisionSpec(hidden=16, layers=3, heads=2, intermediate=40, image=64, patch=16, eps=1e-6)
AUDIO = AudioSpec(hidden=16, layers=2, heads=2, intermediate=24, mels=128, positions=1500)
GATE = GateSpec(hidden=16, layers=2, heads=2, intermediate=24, vocab=60, positions=64, types=2)
MAIN = {
    "model_type": "HumanOmni_qwen2",
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 300,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "hyper_layers": [15, 22],
    "mm_projector_type": "all_in_one_small",
    "mm_audio_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_hidden_size": 16,
    "audio_hidden_size": 16,
    "mm_vision_tower": "../siglip-base-patch16-224",
    "mm_audio_tower": "../whisper-large-v3",
    "num_frames": 8,
}
SIGLIP = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40,
    "image_size": 64, "patch_size": 16, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
WHISPER = {
    "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "num_mel_bins": 128, "max_source_positions": 1500, "activation_function": "gelu",
}  # fmt: skip
BERT = {"num_attention_heads": 2, "hidden_size": 16}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "as", "an", "emotion", ";", ",", "?", "."]


@dataclass(slots=True)
class Tiny:
    """The tensors and configs of a checkpoint, to be bent before they are written."""

    main: dict
    tensors: dict
    vision: dict
    audio: dict
    siglip: dict
    whisper: dict

    def write(self, root, *, towers="outside", shards=1):
        """Write it below ``root`` and return the checkpoint's folder."""
        folder = root / "R1-Omni-0.5B"
        folder.mkdir(parents=True)
        tensors = dict(self.tensors)
        if towers in {"inside", "both"}:
            vision = "model.vision_tower.vision_tower.vision_model."
            tensors |= {vision + name: value for name, value in self.vision.items()}
            audio = "model.audio_tower.audio_tower.encoder."
            tensors |= {audio + name: value for name, value in self.audio.items()}
            tensors["model.audio_tower.audio_tower.classifier.weight"] = torch.randn(2, 4)
        if towers in {"outside", "both", "public"}:
            self._towers(root, public=towers == "public")
        _write(
            root / "bert-base-uncased", BERT, {"embeddings.word_embeddings.weight": torch.ones(1)}
        )
        (root / "bert-base-uncased" / "vocab.txt").write_text("\n".join(WORDS))
        (folder / "config.json").write_text(json.dumps(self.main))
        names = sorted(tensors)
        for shard in range(shards):
            part = {
                name: tensors[name].to(torch.bfloat16).contiguous() for name in names[shard::shards]
            }
            save_file(part, folder / f"model-{shard + 1:05}-of-{shards:05}.safetensors")
        return folder

    def _towers(self, root, *, public):
        vision = {f"vision_model.{name}": value for name, value in self.vision.items()}
        audio = {f"encoder.{name}": value for name, value in self.audio.items()}
        if public:
            vision |= {"text_model.head.weight": torch.randn(2, 2), "logit_scale": torch.randn(1)}
            audio = {f"model.{name}": value for name, value in audio.items()}
            audio["model.decoder.layer_norm.weight"] = torch.randn(4)
        _write(root / "siglip-base-patch16-224", self.siglip, vision)
        _write(root / "whisper-large-v3", self.whisper, audio)


def _write(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors"
    )


def make(seed=0):
    """Return a checkpoint in memory; no tensor of it is constant."""
    noise = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        vision, audio = VisionFusion(VISION, HIDDEN), Audio(AUDIO, HIDDEN)
        gate, decoder = Gate(GATE), Decoder(DECODER)

    def filled(module, prefix=""):
        return {
            prefix + name: _random(name, tuple(value.shape), noise)
            for name, value in module.named_parameters()
        }

    tower = filled(vision.tower)
    last = {
        name.replace("layers.1.", "layers.2."): _random(name, tuple(value.shape), noise)
        for name, value in tower.items()
        if ".layers.1." in name
    }
    tower |= last | {"post_layernorm.weight": torch.randn(16, generator=noise)}
    tensors = {
        "model.embed_tokens.weight": torch.randn(300, HIDDEN, generator=noise) * 0.3,
        **filled(decoder, "model."),
        **filled(vision.projector, "model.mm_projector."),
        **filled(audio.projector, "model.audio_projector."),
        **filled(gate, "model."),
        "model.bert_model.pooler.dense.weight": torch.randn(16, 16, generator=noise),
    }
    return Tiny(dict(MAIN), tensors, tower, filled(audio.tower), dict(SIGLIP), dict(WHISPER))


def _random(name, shape, noise):
    values = torch.randn(shape, generator=noise)
    if len(shape) == 1:
        about = 1.0 if name.endswith("weight") else 0.0
        return about + 0.15 * values
    # Small rows in front of a norm, so that a wrong epsilon shows.
    scale = 0.1 if name.startswith("embeddings.") else 0.5
    return values * (scale / max(1.0, values[0].numel()) ** 0.5)
