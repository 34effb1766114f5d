"""The speed tier: the same decoder with fused operators and a cache of fixed capacity in place.

Written node by node with ONNX Runtime's contrib operators (GroupQueryAttention with rotary
positions, SimplifiedLayerNormalization). ``decoder.onnx`` stays the ground truth: this graph is
kept only when it gives the same numbers.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from exporters.r1omni.graphs import EMBEDDING, LICENCE, OPSET
from exporters.r1omni.spec import DecoderSpec
from pipeline.spec import ModelSpec
from pipeline.spec import Tensor as Axis

STATIC: Final = "decoder_static"
"""Name of the graph and its file."""
CAPACITY: Final = 2048
"""Positions that angles are kept for; a cache may be smaller, never larger."""
_CONTRIB: Final = "com.microsoft"
Array = NDArray[Any]


class StaticBuilder:
    """Builds the graph; weights are named as in the module, linear ones transposed (``….T``)."""

    def __init__(self, spec: DecoderSpec, dtype: str) -> None:
        if spec.moe is not None:
            raise ValueError("a mixture of experts has no static graph")
        self.spec = spec
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.wanted: dict[str, tuple[str, bool]] = {}
        """Initializer → parameter of the module and whether it is transposed."""
        self.constants: dict[str, Array] = {}

    def build(self) -> Any:
        """Return the model without weights; :attr:`wanted` and :attr:`constants` name them."""
        spec = self.spec
        self._angles()
        row = "inputs_embeds"
        for index in range(spec.layers):
            row = self._layer(index, row)
        picked = self._node("Gather", [row, "logits_index"], axis=1)
        normed = self._norm(picked, "norm.weight")
        self._head(normed)
        graph = helper.make_graph(self.nodes, "decoder_static", self._inputs(), self._outputs())
        sets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=sets, ir_version=9)

    def arrays(self, parameters: dict[str, Array]) -> dict[str, Array]:
        """Return every initializer out of the module's parameters."""
        weights = {
            name: parameters[source].T if turned else parameters[source]
            for name, (source, turned) in self.wanted.items()
        }
        return {**weights, **self.constants}

    def _layer(self, index: int, row: str) -> str:
        name = f"layers.{index}"
        seen = self._attention(index, self._norm(row, f"{name}.input_layernorm.weight"))
        row = self._node("Add", [row, seen])
        inner = self._norm(row, f"{name}.post_attention_layernorm.weight")
        gate = self._linear(inner, f"{name}.mlp.gate_proj")
        lit = self._node("Mul", [gate, self._node("Sigmoid", [gate])])
        wide = self._node("Mul", [lit, self._linear(inner, f"{name}.mlp.up_proj")])
        return self._node("Add", [row, self._linear(wide, f"{name}.mlp.down_proj")])

    def _attention(self, index: int, row: str) -> str:
        spec, name = self.spec, f"layers.{index}.self_attn"
        bias = spec.qkv_bias
        q, k, v = (self._linear(row, f"{name}.{part}_proj", bias=bias) for part in "qkv")
        if spec.qk_norm:
            q = self._head_norm(q, f"{name}.q_norm.weight", spec.heads)
            k = self._head_norm(k, f"{name}.k_norm.weight", spec.kv_heads)
        out = f"{name}.seen"
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [
                    q, k, v, f"past_key_values.{index}.key", f"past_key_values.{index}.value",
                    "seqlens_k", "total_sequence_length", "cosines", "sines",
                ],
                [out, f"present.{index}.key", f"present.{index}.value"],
                domain=_CONTRIB,
                num_heads=spec.heads,
                kv_num_heads=spec.kv_heads,
                do_rotary=1,
                rotary_interleaved=0,
                scale=spec.head_dim**-0.5,
            )
        )  # fmt: skip
        return self._linear(out, f"{name}.o_proj")

    def _head_norm(self, row: str, weight: str, heads: int) -> str:
        """Norm each head by itself."""
        split = self._constant(f"split.{heads}", [0, 0, heads, self.spec.head_dim])
        flat = self._constant(f"flat.{heads}", [0, 0, heads * self.spec.head_dim])
        normed = self._norm(self._node("Reshape", [row, split]), weight)
        return self._node("Reshape", [normed, flat])

    def _norm(self, row: str, weight: str) -> str:
        self.wanted[weight] = (weight, False)
        return self._node(
            "SimplifiedLayerNormalization",
            [row, weight],
            axis=-1,
            epsilon=self.spec.rms_eps,
            stash_type=1,
        )

    def _linear(self, row: str, name: str, *, bias: bool = False) -> str:
        turned = f"{name}.weight.T"
        self.wanted[turned] = (f"{name}.weight", True)
        product = self._node("MatMul", [row, turned])
        if not bias:
            return product
        self.wanted[f"{name}.bias"] = (f"{name}.bias", False)
        return self._node("Add", [product, f"{name}.bias"])

    def _head(self, row: str) -> None:
        flat = self._constant("head.flat", [-1, self.spec.hidden])
        vocab = self._constant("head.vocab", [self.spec.vocab])
        start, end = self._constant("head.start", [0]), self._constant("head.end", [2])
        product = self._node("Gemm", [self._node("Reshape", [row, flat]), EMBEDDING], transB=1)
        wide = self._node("Cast", [product], to=TensorProto.FLOAT)
        leading = self._node("Slice", [self._node("Shape", [row]), start, end])
        shape = self._node("Concat", [leading, vocab], axis=0)
        self.nodes.append(helper.make_node("Reshape", [wide, shape], ["logits"]))

    def _angles(self) -> None:
        half = np.arange(0, self.spec.head_dim, 2, dtype=np.float32) / self.spec.head_dim
        turns = np.arange(CAPACITY, dtype=np.float32)[:, None] / self.spec.rope_theta**half
        self.constants["cosines"] = np.cos(turns).astype(self.dtype)
        self.constants["sines"] = np.sin(turns).astype(self.dtype)

    def _node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        out = f"{kind}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def _constant(self, name: str, values: list[int]) -> str:
        self.constants[name] = np.array(values, np.int64)
        return name

    def _inputs(self) -> list[Any]:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        return [
            helper.make_tensor_value_info(
                "inputs_embeds", kind, ["batch", "new", self.spec.hidden]
            ),
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["batch"]),
            helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
            helper.make_tensor_value_info("logits_index", TensorProto.INT64, ["chosen"]),
            *(self._cache(f"past_key_values.{name}") for name in self._names()),
        ]

    def _outputs(self) -> list[Any]:
        logits = helper.make_tensor_value_info(
            "logits", TensorProto.FLOAT, ["batch", "chosen", self.spec.vocab]
        )
        return [logits, *(self._cache(f"present.{name}") for name in self._names())]

    def _names(self) -> list[str]:
        return [f"{i}.{part}" for i in range(self.spec.layers) for part in ("key", "value")]

    def _cache(self, name: str) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        shape: list[str | int | None] = [
            "batch",
            self.spec.kv_heads,
            "capacity",
            self.spec.head_dim,
        ]
        return helper.make_tensor_value_info(name, kind, shape)


def contract(model: Any, version: str, source: str) -> ModelSpec:
    """Return what the graph's metadata says of it, read off the graph itself."""
    return ModelSpec(
        name=f"r1omni/{STATIC}",
        version=version,
        kind="explain-decoder",
        inputs=tuple(map(_axis, model.graph.input)),
        outputs=tuple(map(_axis, model.graph.output)),
        licence=LICENCE,
        source=source,
    )


def _axis(value: Any) -> Axis:
    kind = value.type.tensor_type
    dtype: Any = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return Axis(value.name, dtype, tuple(d.dim_param or d.dim_value for d in kind.shape.dim))
