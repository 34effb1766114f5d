"""A torch module to ONNX bytes that carry their own contract.

The tracing exporter is used on purpose: it needs nothing but torch, keeps free axes free, and lets
an operator be named (``RoiAlign``). Its deprecation and tracer warnings are known and silenced; the
parity check that follows every export is what proves the graph.
"""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from pipeline.spec import ModelSpec, encode

OPSET = 17


def export(module: nn.Module, example: tuple[Tensor, ...], spec: ModelSpec) -> bytes:
    """Return the ONNX file of ``module`` traced on ``example``, with ``spec`` in its metadata.

    Names and free axes come from ``spec``: a string in a shape names a free axis.
    """
    tensors = (*spec.inputs, *spec.outputs)
    free = {
        tensor.name: {axis: size for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in tensors
    }
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        file = Path(folder) / "traced.onnx"
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example,
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            dynamic_axes={name: axes for name, axes in free.items() if axes},
        )
        traced = file.read_bytes()
    return stamped(traced, spec)


def stamped(model: bytes, spec: ModelSpec) -> bytes:
    """Return ``model`` with ``spec`` in its metadata and without the exporter's source paths."""
    proto = onnx.load_from_string(model)
    for node in proto.graph.node:
        node.doc_string = ""
    onnx.helper.set_model_props(proto, encode(spec))
    onnx.checker.check_model(proto, full_check=True)
    stamped_bytes: bytes = proto.SerializeToString()
    return stamped_bytes
