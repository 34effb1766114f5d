"""Names and shapes of the published 0.5B model, without its weights."""

import torch

from exporters.r1omni import config
from exporters.r1omni.audio import Audio
from exporters.r1omni.decoder import Decoder
from exporters.r1omni.gate import Gate
from exporters.r1omni.spec import GateSpec
from exporters.r1omni.vision import VisionFusion

FULL = {
    "model_type": "HumanOmni_qwen2", "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 151936, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "use_sliding_window": False, "sliding_window": 32768, "rope_scaling": None,
    "hidden_act": "silu", "eos_token_id": 151645,
}  # fmt: skip
WHISPER = {
    "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
    "num_mel_bins": 128, "max_source_positions": 1500,
}  # fmt: skip
BERT = GateSpec(
    hidden=768, layers=12, heads=12, intermediate=3072, vocab=30522, positions=512, types=2
)


def _made(tmp_path):
    decoder = config.decoder(FULL, tmp_path)
    with torch.device("meta"):
        return {
            "vision": VisionFusion(config.vision({}, tmp_path), decoder.hidden),
            "audio": Audio(config.audio(WHISPER, tmp_path), decoder.hidden),
            "gate": Gate(BERT),
            "decoder": Decoder(decoder),
        }


def _millions(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_sizes_are_those_of_the_published_parts(tmp_path):
    parts = _made(tmp_path)
    assert round(_millions(parts["vision"].tower), 1) == 78.7  # eleven of twelve layers
    assert round(_millions(parts["vision"].projector), 1) == 34.8
    assert round(_millions(parts["audio"].tower), 1) == 637.0
    assert round(_millions(parts["audio"].projector), 2) == 1.95
    assert round(_millions(parts["gate"].bert_gate), 2) == 2.77
    assert round(_millions(parts["decoder"]), 1) == 357.9


def test_the_number_of_tensors_is_that_of_a_checkpoint_with_towers(tmp_path):
    ours = {name: sum(1 for _ in part.parameters()) for name, part in _made(tmp_path).items()}
    last_layer, siglip_rest = 16, 2 + 11
    whisper_rest, bert_pooler, embedding = 4, 2, 1
    beside = last_layer + siglip_rest + whisper_rest + bert_pooler + embedding
    assert sum(ours.values()) + beside == 1322


def test_names_and_shapes_of_the_projector(tmp_path):
    projector = _made(tmp_path)["vision"].projector
    shapes = {name: tuple(value.shape) for name, value in projector.named_parameters()}
    assert len(shapes) == 126
    assert shapes["s1_video.b1.conv1.conv.weight"] == (896, 768, 1, 1)
    assert shapes["s1_body.b1.downsample.bn.weight"] == (896,)
    assert "s2_body.b1.downsample.conv.weight" not in shapes
    assert shapes["s1_video.b1.se.fc1.weight"] == (192, 896, 1, 1)
    assert shapes["s1_video.b2.se.fc1.weight"] == (224, 896, 1, 1)
    assert shapes["s2_video.b1.conv2.conv.weight"] == (896, 1, 3, 3)
    assert shapes["sampler_body.0.weight"] == (896, 896, 2, 2, 2)
    assert shapes["mlp_2xgelu_face.0.weight"] == (896, 768)


def test_names_and_shapes_of_the_language_model(tmp_path):
    decoder = _made(tmp_path)["decoder"]
    shapes = {name: tuple(value.shape) for name, value in decoder.named_parameters()}
    assert len(shapes) == 24 * 12 + 1
    assert shapes["layers.23.self_attn.k_proj.bias"] == (128,)
    assert shapes["layers.0.mlp.down_proj.weight"] == (896, 4864)
    assert "layers.0.self_attn.o_proj.bias" not in shapes
