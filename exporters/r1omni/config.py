"""``config.json`` files to the shapes of parts; what cannot be exported is refused by name."""

import json
from pathlib import Path
from typing import Any, Final

from exporters.r1omni.spec import AudioSpec, DecoderSpec, MoeSpec, VisionSpec
from pipeline.errors import ModelRefused

SEVEN_B: Final = (
    "this is HumanOmni-7B or a relative (SigLIP-so400m-384, 32 frames, a slow/fast compressor, "
    "3136 visual tokens): another graph, which is not supported. Use a 0.5B checkpoint such as "
    "R1-Omni-0.5B, HumanOmni-0.5B or MAFW-DFEW-SFT"
)
_QWEN3: Final = ("qwen3", "qwen3_moe")

Config = dict[str, Any]


def read(path: Path) -> Config:
    """Return a JSON object. Raises :class:`ModelRefused` naming the file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ModelRefused(f"{path} is not JSON ({error}): fetch it again") from None
    if not isinstance(config, dict):
        raise ModelRefused(f"{path} is no JSON object: fetch it again")
    return config


def check_omni(config: Config, file: Path) -> None:
    """Raise :class:`ModelRefused` unless ``config`` is of a model that can be exported."""
    refusals = [
        (_is_seven_b(config), SEVEN_B),
        *(
            (config.get(key, wanted) != wanted, f"{key} is {config.get(key)!r}, not {wanted!r}")
            for key, wanted in (
                ("mm_vision_select_layer", -2),
                ("mm_vision_select_feature", "patch"),
                ("mm_audio_projector_type", "mlp2x_gelu"),
            )
        ),
    ]
    for refused, why in refusals:
        if refused:
            raise ModelRefused(f"{file}: {why}")
    kind = config.get("mm_projector_type")
    if kind != "all_in_one_small":
        raise ModelRefused(
            f"{file}: mm_projector_type is {kind!r}, not 'all_in_one_small': is this the folder of "
            "an R1-Omni or HumanOmni-0.5B checkpoint?"
        )


def _is_seven_b(config: Config) -> bool:
    tower = str(config.get("mm_vision_tower", ""))
    wide = config.get("hidden_size", 0) >= 3584 and "mm_projector_type" in config
    return wide or "so400m" in tower or config.get("mm_projector_type") == "all_in_one"


def decoder(config: Config, file: Path) -> DecoderSpec:
    """Return the decoder's shape from a Qwen2, Qwen3 or Qwen3-MoE style config.

    Raises :class:`ModelRefused` for what the graph would compute wrongly.
    """
    for key in ("use_sliding_window", "rope_scaling"):
        if config.get(key):
            raise ModelRefused(f"{file}: {key} is {config[key]!r}, which is not supported")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelRefused(f"{file}: hidden_act is {config['hidden_act']!r}, not 'silu'")
    qwen3 = config.get("model_type") in _QWEN3
    heads = _number(config, "num_attention_heads", file)
    hidden = _number(config, "hidden_size", file)
    kv_heads = _number(config, "num_key_value_heads", file)
    if heads % kv_heads:
        raise ModelRefused(f"{file}: {heads} query heads cannot share {kv_heads} KV heads")
    layers = _number(config, "num_hidden_layers", file)
    return DecoderSpec(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=int(config.get("head_dim") or hidden // heads),
        intermediate=_number(config, "intermediate_size", file),
        vocab=_number(config, "vocab_size", file),
        qkv_bias=bool(config.get("attention_bias", False)) if qwen3 else True,
        qk_norm=qwen3,
        rope_theta=_theta(config),
        rms_eps=float(config.get("rms_norm_eps", 1e-6)),
        tied=bool(config.get("tie_word_embeddings", False)),
        eos=_eos(config),
        moe=_moe(config, layers, file) if _experts(config) else None,
    )


def _theta(config: Config) -> float:
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ModelRefused(f"rope_type is {rope['rope_type']!r}, which is not supported")
    return float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)


def _eos(config: Config) -> int:
    eos = config.get("eos_token_id", 0)
    return int(eos[0] if isinstance(eos, list) else eos or 0)


def _experts(config: Config) -> int:
    """Published configs and newer savers name it differently."""
    return int(config.get("num_experts") or config.get("num_local_experts") or 0)


def _moe(config: Config, layers: int, file: Path) -> MoeSpec:
    step = int(config.get("decoder_sparse_step", 1))
    plain = set(config.get("mlp_only_layers") or ())
    sparse = (i for i in range(layers) if i not in plain and (i + 1) % step == 0)
    return MoeSpec(
        experts=_experts(config),
        top_k=_number(config, "num_experts_per_tok", file),
        intermediate=_number(config, "moe_intermediate_size", file),
        norm_topk=bool(config.get("norm_topk_prob", False)),
        layers=frozenset(sparse),
    )


def vision(config: Config, file: Path) -> VisionSpec:
    """Return the shape of a SigLIP tower; the public file nests it under ``vision_config``."""
    nested = config.get("vision_config", config)
    act = nested.get("hidden_act", "gelu_pytorch_tanh")
    if act != "gelu_pytorch_tanh":
        raise ModelRefused(f"{file}: hidden_act is {act!r}, not SigLIP's 'gelu_pytorch_tanh'")
    spec = VisionSpec(
        hidden=int(nested.get("hidden_size", 768)),
        layers=int(nested.get("num_hidden_layers", 12)),
        heads=int(nested.get("num_attention_heads", 12)),
        intermediate=int(nested.get("intermediate_size", 3072)),
        image=int(nested.get("image_size", 224)),
        patch=int(nested.get("patch_size", 16)),
        eps=float(nested.get("layer_norm_eps", 1e-6)),
    )
    if spec.grid % 2:
        raise ModelRefused(
            f"{file}: a grid of {spec.grid}×{spec.grid} patches is odd; the projector halves it"
        )
    return spec


def audio(config: Config, file: Path) -> AudioSpec:
    """Return the shape of a Whisper encoder."""
    act = config.get("activation_function", "gelu")
    if act != "gelu":
        raise ModelRefused(f"{file}: activation_function is {act!r}, not Whisper's 'gelu'")
    return AudioSpec(
        hidden=_number(config, "d_model", file),
        layers=_number(config, "encoder_layers", file),
        heads=_number(config, "encoder_attention_heads", file),
        intermediate=_number(config, "encoder_ffn_dim", file),
        mels=_number(config, "num_mel_bins", file),
        positions=_number(config, "max_source_positions", file),
    )


def frames(config: Config) -> int:
    """Return how many frames one question looks at."""
    return int(config.get("num_frames", 8))


def _number(config: Config, key: str, file: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelRefused(f"{file}: '{key}' is {value!r}, not a positive number")
    return value
