"""Make a trained network small: norms folded into convolutions, weights stored with 16 bits.

The rounding happens in torch, so the exported graph computes what the packed torch network
computes; how far packing itself moves an answer is a figure of its own (:func:`moved`).
"""

import copy
from itertools import pairwise

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils import fusion

from exporters.voice.model import Scorer

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_NARROWER = {TensorProto.FLOAT: np.float16, TensorProto.DOUBLE: np.float32}
_SMALLEST = 512
"""Tensors with fewer numbers stay as they are: biases, and the constants of the graph."""


def packed(scorer: Scorer) -> Scorer:
    """Return a copy with folded norms and weights that 16 bits hold exactly."""
    made = copy.deepcopy(scorer).eval()
    for module in list(made.modules()):
        _fold(module)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.numel() >= _SMALLEST:
                weight.copy_(weight.half().float())
    return made


def _fold(module: nn.Module) -> None:
    """Fold each norm into the convolution that stands right before it among the children."""
    children = list(module.named_children())
    for (name, conv), (after, norm) in pairwise(children):
        if isinstance(conv, nn.Conv1d | nn.Conv2d) and isinstance(norm, _NORMS):
            setattr(module, name, fusion.fuse_conv_bn_eval(conv, norm))
            setattr(module, after, nn.Identity())


def narrowed(model: bytes) -> bytes:
    """Store the large tensors of an ONNX file with half their bits; a cast widens them on loading.

    Only tensors that half the bits hold exactly are touched, so no answer changes.
    """
    proto = onnx.load_from_string(model)
    _unfold(proto.graph)
    casts = []
    for tensor in proto.graph.initializer:
        wide = numpy_helper.to_array(tensor)
        if tensor.data_type not in _NARROWER or wide.size < _SMALLEST:
            continue
        small = wide.astype(_NARROWER[tensor.data_type])
        if not np.array_equal(small.astype(wide.dtype), wide):
            continue
        name, kind = tensor.name, tensor.data_type
        tensor.CopyFrom(numpy_helper.from_array(small, f"{name}.narrow"))
        casts.append(helper.make_node("Cast", [f"{name}.narrow"], [name], to=kind))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _unfold(graph: onnx.GraphProto) -> None:
    """Turn nodes that are large constants into stored tensors."""
    for node in list(graph.node):
        if node.op_type != "Constant" or node.attribute[0].name != "value":
            continue
        tensor = node.attribute[0].t
        if int(np.prod(tensor.dims)) >= _SMALLEST:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)


def moved(scorer: Scorer, small: Scorer, features: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the largest change of a probability that packing made on ``features``."""
    with torch.inference_mode():
        return float((scorer(features, mask) - small(features, mask)).abs().max())
