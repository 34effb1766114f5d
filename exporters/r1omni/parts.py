"""One part after the other into its file: cast, traced, stamped, weights attached."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import nn

from exporters.r1omni import graphs
from exporters.r1omni.attach import Shared, Written, attach, attach_placed, placed
from exporters.r1omni.checkpoint import Omni
from exporters.r1omni.graphs import Part
from exporters.r1omni.spec import DecoderSpec
from exporters.r1omni.static import STATIC, StaticBuilder, contract
from pipeline.explain import manifest
from pipeline.explain.manifest import Precision
from pipeline.spec import Tensor as Axis
from pipeline.spec import encode

EMBEDDING_FILE: Final = "embedding.bin"
HEAD_FILE: Final = "head.bin"
DTYPES: Final[dict[Precision, torch.dtype]] = {"fp32": torch.float32, "fp16": torch.float16}
SMALLEST_FP16: Final = 2.0**-24
"""Below half of the smallest subnormal a value becomes zero."""
_ROWS: Final = 4096


@dataclass(slots=True)
class Rounding:
    """What fp16 cannot hold."""

    overflown: int = 0
    vanished: int = 0
    tensors: list[str] = field(default_factory=list)

    def note(self, name: str, wide: NDArray[Any]) -> None:
        """Count the values of one fp32 tensor that fp16 would lose."""
        size = np.abs(wide)
        over = int((size > np.finfo(np.float16).max).sum())
        under = int(((size > 0) & (size < SMALLEST_FP16 / 2)).sum())
        self.overflown += over
        self.vanished += under
        if over:
            self.tensors.append(name)

    def sentences(self) -> list[str]:
        """Return what a person should know."""
        told = []
        if self.overflown:
            told.append(
                f"{self.overflown} weights are too large for fp16 ({', '.join(self.tensors[:3])}): "
                "use fp32"
            )
        if self.vanished:
            told.append(f"{self.vanished} weights are so small that fp16 makes them 0")
        return told


Build = Callable[["Target"], manifest.Graph]


def parts(model: Omni, precision: Precision) -> Iterator[tuple[str, Build]]:
    """Yield each graph's name and what writes it, smallest first."""
    dtype = DTYPES[precision]
    yield "gate", lambda target: _write(lambda: graphs.gate(model), "fp32", target)
    yield (
        "vision_fusion",
        lambda target: _write(lambda: graphs.vision(model, dtype), precision, target),
    )
    yield "audio", lambda target: _write(lambda: graphs.audio(model, dtype), precision, target)
    yield "decoder", lambda target: _write_decoder(model, precision, target)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a part goes and what is noted on the way."""

    out: Path
    version: str
    source: str
    rounding: Rounding


def _write(describe: Callable[[], Part], precision: Precision, target: Target) -> manifest.Graph:
    part = describe()
    cast(part.module, precision, target.rounding)
    proto = graphs.traced(part)
    outputs = [Axis(name, _name(precision), part.shapes[name]) for name in part.outputs]
    graphs.stamp(proto, part, outputs, target.version, target.source)
    written = attach(proto, _arrays(part.module), target.out, part.name)
    release(part.module)
    return manifest.Graph(written.file, precision, graphs.OPSET, written.weights)


def _write_decoder(model: Omni, precision: Precision, target: Target) -> manifest.Graph:
    spec, dtype = model.spec.decoder, DTYPES[precision]
    part = graphs.decoder(spec, model.decoder, dtype)
    cast(part.module, precision, target.rounding)
    proto = graphs.traced(part)
    graphs.with_head(proto, spec, dtype)
    outputs = [
        Axis("logits", "float32", ("batch", "chosen", spec.vocab)),
        *(Axis(name, _name(precision), part.shapes[name]) for name in part.outputs[1:]),
    ]
    graphs.stamp(proto, part, outputs, target.version, target.source)
    shared = Shared(
        EMBEDDING_FILE if spec.tied else HEAD_FILE, (spec.vocab, spec.hidden), _name(precision)
    )
    _write_matrix(target.out / EMBEDDING_FILE, model.embedding, dtype)
    if not spec.tied:
        _write_matrix(target.out / HEAD_FILE, model.head.weight, dtype)
    parameters = _arrays(part.module)
    written = attach(proto, parameters, target.out, part.name, {graphs.EMBEDDING: shared})
    if spec.moe is None:
        _write_static(spec, parameters, written, target, shared)
    del parameters
    release(part.module)
    return manifest.Graph(written.file, precision, graphs.OPSET, written.weights)


def _write_static(
    spec: DecoderSpec,
    parameters: dict[str, NDArray[Any]],
    plain: Written,
    target: Target,
    head: Shared,
) -> None:
    """Write the speed tier beside the plain graph, over the same weights where they lie outside."""
    builder = StaticBuilder(spec, head.dtype)
    proto = builder.build()
    helper.set_model_props(proto, encode(contract(proto, target.version, target.source)))
    proto.graph.initializer.append(placed(graphs.EMBEDDING, head))
    places = {
        name: plain.placed[origin]
        for name, origin in builder.wanted.items()
        if origin in plain.placed
    }
    attach_placed(proto, builder.arrays(parameters), places, target.out, STATIC)


def _write_matrix(path: Path, matrix: torch.Tensor, dtype: torch.dtype) -> None:
    with path.open("wb") as out:
        for start in range(0, len(matrix), _ROWS):
            rows = matrix[start : start + _ROWS].detach()
            out.write(rows.to(dtype).numpy().tobytes())


def cast(module: nn.Module, precision: Precision, rounding: Rounding) -> None:
    """Cast parameters in place, one at a time; fp32 stays as it is."""
    if precision == "fp32":
        return
    for name, parameter in module.named_parameters():
        rounding.note(name, parameter.detach().numpy())
        parameter.data = parameter.data.to(DTYPES[precision])


def release(module: nn.Module) -> None:
    """Let go of a part's weights: they are written, and the next part needs the room."""
    for parameter in module.parameters():
        parameter.data = torch.empty(0, dtype=parameter.dtype)


def _arrays(module: nn.Module) -> dict[str, NDArray[Any]]:
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def _name(precision: Precision) -> Any:
    return {"fp32": "float32", "fp16": "float16"}[precision]
