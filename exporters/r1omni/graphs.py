"""Each part as a graph: inputs, outputs, free axes, an example to trace with.

Sampled sizes are never 0 or 1 where an axis is free, so that no axis is taken for a constant.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from exporters.r1omni.checkpoint import Omni
from exporters.r1omni.spec import DecoderSpec
from pipeline.spec import Kind, ModelSpec, encode
from pipeline.spec import Tensor as Axis

OPSET: Final = 18
LICENCE: Final = "that of the checkpoint; see its model card"
_DTYPES: Final[dict[torch.dtype, Any]] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.int64: "int64",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One graph before it is traced."""

    name: str
    kind: Kind
    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Mapping[str, Mapping[int, str]]
    """Free axes of inputs and outputs."""
    shapes: Mapping[str, tuple[int | str, ...]]
    """Shapes of the outputs as they are told in the metadata."""


def vision(model: Omni, dtype: torch.dtype) -> Part:
    """``vision_fusion``: pixels and branch weights to visual tokens."""
    spec = model.spec.vision
    tokens, hidden = spec.grid**2 // 4, model.spec.decoder.hidden
    return Part(
        "vision_fusion",
        "explain-vision",
        model.vision,
        (
            torch.zeros(3, 3, spec.image, spec.image, dtype=dtype),
            torch.full((3,), 1 / 3, dtype=dtype),
        ),
        ("pixel_values", "branch_probs"),
        ("visual_tokens",),
        {"pixel_values": {0: "frames"}, "visual_tokens": {0: "tokens"}},
        {"visual_tokens": (f"{tokens} * frames", hidden)},
    )


def audio(model: Omni, dtype: torch.dtype) -> Part:
    """``audio``: log-mel to audio tokens; nothing is free, thirty seconds are thirty seconds."""
    spec = model.spec.audio
    return Part(
        "audio",
        "explain-audio",
        model.audio,
        (torch.zeros(1, spec.mels, spec.frames, dtype=dtype),),
        ("mel",),
        ("audio_tokens",),
        {},
        {"audio_tokens": (1, spec.tokens, model.spec.decoder.hidden)},
    )


def gate(model: Omni) -> Part:
    """``gate``: an instruction's ids to branch weights, always fp32."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    ids = torch.ones(1, 5, dtype=torch.long)
    return Part(
        "gate",
        "explain-gate",
        model.gate,
        (ids, ids, torch.zeros_like(ids)),
        names,
        ("branch_probs",),
        {name: {1: "ids"} for name in names},
        {"branch_probs": (1, 3)},
    )


def decoder(spec: DecoderSpec, module: nn.Module, dtype: torch.dtype) -> Part:
    """``decoder``: embedded rows and a cache to chosen logits and the grown cache."""
    batch, past, new = 2, 3, 4
    cache = [f"{i}.{part}" for i in range(spec.layers) for part in ("key", "value")]
    pasts = tuple(f"past_key_values.{name}" for name in cache)
    presents = tuple(f"present.{name}" for name in cache)
    positions = torch.arange(past, past + new)[None].expand(batch, -1)
    example = (
        torch.zeros(batch, new, spec.hidden, dtype=dtype),
        torch.ones(batch, past + new, dtype=torch.long),
        positions,
        torch.tensor([new - 1, 0]),
        *(torch.zeros(batch, spec.kv_heads, past, spec.head_dim, dtype=dtype) for _ in pasts),
    )
    kv = (("batch", spec.kv_heads, "total", spec.head_dim),) * len(presents)
    return Part(
        "decoder",
        "explain-decoder",
        module,
        example,
        ("inputs_embeds", "attention_mask", "position_ids", "logits_index", *pasts),
        ("rows", *presents),
        {
            "inputs_embeds": {0: "batch", 1: "new"},
            "attention_mask": {0: "batch", 1: "total"},
            "position_ids": {0: "batch", 1: "new"},
            "logits_index": {0: "chosen"},
            "rows": {0: "batch", 1: "chosen"},
            **{name: {0: "batch", 2: "past"} for name in pasts},
            **{name: {0: "batch", 2: "total"} for name in presents},
        },
        dict(zip(presents, kv, strict=True)),
    )


def traced(part: Part) -> Any:
    """Return the graph with its weights as inputs, named as in the module."""
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        file = Path(folder) / "traced.onnx"
        warnings.simplefilter("ignore")  # the tracer's; parity is what proves the graph
        torch.onnx.export(
            part.module,
            part.example,
            file,
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
            opset_version=OPSET,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_axes={name: dict(axes) for name, axes in part.axes.items()},
        )
        proto = onnx.load(file)
    for node in proto.graph.node:
        node.doc_string = ""
    return proto


def with_head(proto: Any, spec: DecoderSpec, dtype: torch.dtype) -> None:
    """Put the head behind ``rows``: one Gemm with the matrix ``embedding``, logits in fp32."""
    graph = proto.graph
    flat, shape = "head.rows", "head.shape"
    constants = {
        "head.flat_shape": [-1, spec.hidden],
        "head.vocab": [spec.vocab],
        "head.start": [0],
        "head.end": [2],
    }
    for name, values in constants.items():
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
    kind = helper.np_dtype_to_tensor_dtype(torch.zeros(0, dtype=dtype).numpy().dtype)
    graph.node.extend(
        [
            helper.make_node("Reshape", ["rows", "head.flat_shape"], [flat]),
            helper.make_node("Gemm", [flat, EMBEDDING], ["head.product"], transB=1),
            helper.make_node("Cast", ["head.product"], ["head.wide"], to=TensorProto.FLOAT),
            helper.make_node("Shape", ["rows"], ["head.of_rows"]),
            helper.make_node("Slice", ["head.of_rows", "head.start", "head.end"], ["head.leading"]),
            helper.make_node("Concat", ["head.leading", "head.vocab"], [shape], axis=0),
            helper.make_node("Reshape", ["head.wide", shape], ["logits"]),
        ]
    )
    logits = helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, ["batch", "chosen", spec.vocab]
    )
    rest = [output for output in graph.output if output.name != "rows"]
    rows = helper.make_tensor_value_info("rows", kind, ["batch", "chosen", spec.hidden])
    graph.value_info.append(rows)
    del graph.output[:]
    graph.output.extend([logits, *rest])


EMBEDDING: Final = "embedding"
"""Name of the head's matrix in the decoder graph."""


def stamp(proto: Any, part: Part, outputs: Sequence[Axis], version: str, source: str) -> None:
    """Write the contract into the graph's metadata."""
    inputs = tuple(
        Axis(name, _DTYPES[tensor.dtype], _shape(tensor, part.axes.get(name, {})))
        for name, tensor in zip(part.inputs, part.example, strict=True)
    )
    spec = ModelSpec(
        name=f"r1omni/{part.name}",
        version=version,
        kind=part.kind,
        inputs=inputs,
        outputs=tuple(outputs),
        licence=LICENCE,
        source=source,
    )
    helper.set_model_props(proto, encode(spec))


def _shape(tensor: Tensor, axes: Mapping[int, str]) -> tuple[int | str, ...]:
    return tuple(axes.get(axis, size) for axis, size in enumerate(tensor.shape))
