"""Weights into a traced graph: written straight from the module, never through one big message.

The graph is traced without its weights, which then stand as inputs. Here each becomes an
initializer: small models carry them inside, large ones in one file beside (ONNX external data), so
no step needs the whole model twice and protobuf's 2 GiB limit does not matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

INLINE_BYTES: Final = 64 << 20
"""Weights up to this size in all stay inside the file."""
_ALIGN: Final = 4096
"""External tensors begin at multiples of a page, so that they can be mapped."""


@dataclass(frozen=True, slots=True)
class Written:
    """Files of one graph."""

    file: str
    weights: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shared:
    """An initializer that lies in a file of its own and is used by others too."""

    file: str
    array_shape: tuple[int, ...]
    dtype: str


def fold_transposes(graph: Any, weights: dict[str, NDArray[Any]]) -> None:
    """Turn ``Transpose(weight)`` into a weight that is stored transposed already."""
    used: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            used[name] = used.get(name, 0) + 1
    kept = []
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if node.op_type != "Transpose" or source not in weights or used[source] != 1:
            kept.append(node)
            continue
        order = [attribute.ints for attribute in node.attribute if attribute.name == "perm"]
        weights[node.output[0]] = weights.pop(source).transpose(list(order[0]))
    del graph.node[:]
    graph.node.extend(kept)


def attach(
    model: Any,
    weights: Mapping[str, NDArray[Any]],
    folder: Path,
    name: str,
    shared: Mapping[str, Shared] | None = None,
) -> Written:
    """Write ``<name>.onnx``, and ``<name>.data`` beside it when the weights are large."""
    arrays = dict(weights)
    fold_transposes(model.graph, arrays)
    wanted = {value for node in model.graph.node for value in node.input}
    arrays = {key: array for key, array in arrays.items() if key in wanted}
    graph_inputs = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(graph_inputs)
    files: list[str] = []
    if sum(array.nbytes for array in arrays.values()) <= INLINE_BYTES:
        for key, array in arrays.items():
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(np.ascontiguousarray(array), key)
            )
    else:
        files.append(f"{name}.data")
        with (folder / files[0]).open("wb") as out:
            for key, array in arrays.items():
                model.graph.initializer.append(_external(out, files[0], key, array))
    for key, each in (shared or {}).items():
        model.graph.initializer.append(_placed(key, each.dtype, each.array_shape, each.file, 0))
        files.append(each.file)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return Written(f"{name}.onnx", tuple(files))


def _external(out: BinaryIO, file: str, key: str, array: NDArray[Any]) -> TensorProto:
    out.write(b"\0" * (-out.tell() % _ALIGN))
    offset = out.tell()
    out.write(np.ascontiguousarray(array).data)
    return _placed(key, array.dtype.name, array.shape, file, offset)


def _placed(key: str, dtype: str, shape: tuple[int, ...], file: str, offset: int) -> TensorProto:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    tensor = TensorProto(
        name=key,
        dims=shape,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
        data_location=TensorProto.EXTERNAL,
    )
    for name, value in (("location", file), ("offset", str(offset)), ("length", str(size))):
        tensor.external_data.add(key=name, value=value)
    return tensor
