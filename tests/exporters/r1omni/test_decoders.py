"""Qwen2.5, Qwen3 and Qwen3-MoE against an independent implementation, on tiny random weights."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from exporters.r1omni import attach, checkpoint, graphs
from exporters.r1omni.attach import Shared
from pipeline.session import Session
from pipeline.spec import Tensor as Axis

COMMON = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
QWEN2 = {**COMMON, "num_attention_heads": 4, "tie_word_embeddings": True}
QWEN3 = {**COMMON, "head_dim": 16, "tie_word_embeddings": True}
QWEN3_UNTIED = {**QWEN3, "tie_word_embeddings": False, "num_key_value_heads": 3}
MOE = {
    **COMMON,
    "head_dim": 8,
    "tie_word_embeddings": False,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
}
MOE_RAW = {**MOE, "norm_topk_prob": False, "decoder_sparse_step": 2, "mlp_only_layers": []}

CASES = {
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, QWEN2),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, QWEN3),
    "qwen3-untied": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, QWEN3_UNTIED),
    "moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM, MOE),
    "moe-raw": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM, MOE_RAW),
}


def _theirs(name):
    torch.manual_seed(7)
    config, kind, values = CASES[name]
    model = kind(config(**values, attn_implementation="eager")).eval()
    for parameter_name, parameter in model.named_parameters():
        about = 1.0 if parameter.ndim == 1 and "bias" not in parameter_name else 0.0
        parameter.data = about + 0.15 * torch.randn_like(parameter)
    return model


def _published(state):
    """Name experts as published checkpoints do: a matrix each."""
    tensors = {}
    for name, value in state.items():
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            for number, both in enumerate(value):
                gate, up = both.chunk(2)
                tensors[f"{stem}{number}.gate_proj.weight"] = gate.clone()
                tensors[f"{stem}{number}.up_proj.weight"] = up.clone()
        elif name.endswith("experts.down_proj"):
            for number, matrix in enumerate(value):
                tensors[f"{name.removesuffix('down_proj')}{number}.down_proj.weight"] = (
                    matrix.clone()
                )
        else:
            tensors[name] = value.clone()
    return tensors


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """The other implementation and ours, with the same weights, by way of a checkpoint."""
    theirs = _theirs(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    tensors = _published(theirs.state_dict())
    if theirs.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / "m.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(theirs.config.to_dict(), default=str))
    return theirs, checkpoint.load_decoder(folder)


def _empty(spec):
    return [torch.zeros(1, spec.kv_heads, 0, spec.head_dim)] * (2 * spec.layers)


IDS = torch.tensor([[5, 17, 99, 3, 42, 42, 8, 77, 110, 1, 64]])


@torch.inference_mode()
def test_logits_are_the_same(pair):
    theirs, (spec, decoder, embedding, head) = pair
    wanted = theirs(IDS).logits
    length = IDS.shape[1]
    every = torch.arange(length)
    ones = torch.ones(1, length, dtype=torch.long)
    rows, *past = decoder(embedding[IDS], ones, every[None], every, *_empty(spec))
    assert (head(rows) - wanted).abs().max() < 1e-5
    assert past[0].shape == (1, spec.kv_heads, length, spec.head_dim)


@torch.inference_mode()
def test_a_cache_changes_nothing(pair):
    theirs, (spec, decoder, embedding, head) = pair
    wanted = theirs(IDS).logits[0]
    past = _empty(spec)
    for start, end in ((0, 4), (4, 5), (5, 9), (9, 11)):
        rows, *past = decoder(
            embedding[IDS[:, start:end]],
            torch.ones(1, end, dtype=torch.long),
            torch.arange(start, end)[None],
            torch.arange(end - start),
            *past,
        )
        assert (head(rows)[0] - wanted[start:end]).abs().max() < 1e-5


@torch.inference_mode()
def test_padded_rows_of_a_batch_are_not_seen(pair):
    theirs, (spec, decoder, embedding, head) = pair
    short = IDS[:, :7]
    wanted = theirs(short).logits[0, -1]
    padded = torch.cat([short, torch.full((1, 4), 9)], 1)
    batch = torch.cat([padded, IDS])
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[0, 7:] = 0
    past = [torch.zeros(2, spec.kv_heads, 0, spec.head_dim)] * (2 * spec.layers)
    positions = torch.arange(11)[None].expand(2, -1)
    rows, *_ = decoder(embedding[batch], mask, positions, torch.tensor([6, 10]), *past)
    assert (head(rows)[0, 0] - wanted).abs().max() < 1e-5


@torch.inference_mode()
def test_the_written_graph_answers_the_same(pair, tmp_path):
    theirs, (spec, decoder, embedding, head) = pair
    part = graphs.decoder(spec, decoder, torch.float32)
    proto = graphs.traced(part)
    graphs.with_head(proto, spec, torch.float32)
    outputs = [
        Axis("logits", "float32", ("batch", "chosen", spec.vocab)),
        *(Axis(name, "float32", part.shapes[name]) for name in part.outputs[1:]),
    ]
    graphs.stamp(proto, part, outputs, "1", "test")
    head.weight.numpy().tofile(tmp_path / "head.bin")
    shared = {graphs.EMBEDDING: Shared("head.bin", (spec.vocab, spec.hidden), "float32")}
    weights = {name: value.numpy() for name, value in decoder.named_parameters()}
    attach.attach(proto, weights, tmp_path, "decoder", shared)
    session = Session(
        (tmp_path / "decoder.onnx").read_bytes(), file="decoder.onnx", weights=tmp_path
    )
    wanted = theirs(IDS).logits[0].numpy()
    past = [value.numpy() for value in _empty(spec)]
    for start, end in ((0, 6), (6, 7), (7, 11)):
        feeds = {
            "inputs_embeds": embedding[IDS[:, start:end]].numpy(),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(start, end)[None],
            "logits_index": np.arange(end - start),
            **dict(zip(part.inputs[4:], past, strict=True)),
        }
        logits, *past = session.run(None, feeds)
        assert np.abs(logits[0] - wanted[start:end]).max() < 1e-5


def test_which_layers_are_mixtures_is_told_by_the_config(tmp_path):
    for values, wanted in ((MOE, {0, 2}), (MOE_RAW, {1})):
        config = checkpoint.config.decoder({**values, "model_type": "qwen3_moe"}, tmp_path)
        assert config.moe.layers == wanted
        assert config.moe.norm_topk is values["norm_topk_prob"]
