"""Weights into a traced graph: written straight from the module, never through one big message.

The graph is traced without its weights, which then stand as inputs. Here each becomes an
initializer: small models carry them inside, large ones in one file beside (ONNX external data), so
no step needs the whole model twice and protobuf's 2 GiB limit does not matter.
"""

from collections import Counter
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


Origin = tuple[str, bool]
"""A parameter of the module, and whether it is stored transposed."""


@dataclass(frozen=True, slots=True)
class Written:
    """Files of one graph, and where its weights lie, so that another may use them too."""

    file: str
    weights: tuple[str, ...]
    placed: Mapping[Origin, TensorProto]
    """Weights that lie outside the file."""


@dataclass(frozen=True, slots=True)
class Shared:
    """An initializer that lies in a file of its own and is used by others too."""

    file: str
    array_shape: tuple[int, ...]
    dtype: str


def fold_transposes(graph: Any, weights: dict[str, NDArray[Any]]) -> dict[str, Origin]:
    """Turn ``Transpose(weight)`` into a weight that is stored transposed already.

    Returns where every weight comes from.
    """
    origins: dict[str, Origin] = {name: (name, False) for name in weights}
    used = Counter(name for node in graph.node for name in node.input)
    kept = []
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if node.op_type != "Transpose" or source not in weights or used[source] != 1:
            kept.append(node)
            continue
        order = [attribute.ints for attribute in node.attribute if attribute.name == "perm"]
        weights[node.output[0]] = weights.pop(source).transpose(list(order[0]))
        origins[node.output[0]] = (origins.pop(source)[0], True)
    del graph.node[:]
    graph.node.extend(kept)
    return origins


def attach(
    model: Any,
    weights: Mapping[str, NDArray[Any]],
    folder: Path,
    name: str,
    shared: Mapping[str, Shared] | None = None,
) -> Written:
    """Write ``<name>.onnx``, and ``<name>.data`` beside it when the weights are large."""
    arrays = dict(weights)
    origins = fold_transposes(model.graph, arrays)
    wanted = {value for node in model.graph.node for value in node.input}
    arrays = {key: array for key, array in arrays.items() if key in wanted}
    graph_inputs = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(graph_inputs)
    outside: dict[Origin, TensorProto] = {}
    if sum(array.nbytes for array in arrays.values()) <= INLINE_BYTES:
        for key, array in arrays.items():
            tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(array), key)
            model.graph.initializer.append(tensor)
    else:
        with (folder / f"{name}.data").open("wb") as out:
            for key, array in arrays.items():
                outside[origins[key]] = _external(out, f"{name}.data", key, array)
        model.graph.initializer.extend(outside.values())
    for key, each in (shared or {}).items():
        model.graph.initializer.append(placed(key, each))
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return Written(f"{name}.onnx", _files(model), outside)


def attach_placed(
    model: Any,
    weights: Mapping[str, NDArray[Any]],
    places: Mapping[str, TensorProto],
    folder: Path,
    name: str,
) -> Written:
    """Write ``<name>.onnx`` with weights that another graph has written already.

    Initializers in ``places`` lie there; the others go inside the file.
    """
    for key, array in weights.items():
        place = places.get(key)
        if place is None:
            tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(array), key)
        else:
            tensor = TensorProto()
            tensor.CopyFrom(place)
            tensor.name = key
        model.graph.initializer.append(tensor)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return Written(f"{name}.onnx", _files(model), {})


def _files(model: Any) -> tuple[str, ...]:
    """Return the names of all files that hold weights of ``model``."""
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(sorted(names))


def _external(out: BinaryIO, file: str, key: str, array: NDArray[Any]) -> TensorProto:
    out.write(b"\0" * (-out.tell() % _ALIGN))
    offset = out.tell()
    out.write(np.ascontiguousarray(array).data)
    return _placed(key, array.dtype.name, array.shape, file, offset)


def placed(key: str, shared: Shared) -> TensorProto:
    """Return an initializer that begins its own file."""
    return _placed(key, shared.dtype, shared.array_shape, shared.file, 0)


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
