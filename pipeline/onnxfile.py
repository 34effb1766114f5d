"""What an ONNX file says about itself, read from its bytes before any runtime sees them.

Comes in: the bytes of a model file. Goes out: its operator domains, whether a tensor lives outside
the file, and its metadata. Reads the protobuf wire format (protobuf.dev, "Encoding") with the
field numbers of ``onnx/onnx.proto``, and skips weights without touching them, so a large file
costs next to nothing. It does not judge: :mod:`pipeline.session` does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.errors import ModelRefused

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 32
"""Sub-graphs inside sub-graphs; a file nested deeper is an attack on the reader."""

_MOST_FIELDS = 5_000_000
"""Fields of one file that are looked at: some seconds' worth. Weights are one field a tensor."""
_DISGUISED = {
    **{bytes((0x80, protocol)): "a Python pickle" for protocol in range(2, 6)},
    b"PK\x03\x04": "a zip archive, as PyTorch writes them",
}

_Fields = Iterator[tuple[int, int | memoryview]]


@dataclass(slots=True)
class Contents:
    """What was found in one model file."""

    domains: set[str] = field(default_factory=set)
    """Operator domains imported by the model or used by a node; the default one is ``""``."""
    external: set[str] = field(default_factory=set)
    """Names of tensors whose values lie in another file."""
    locations: set[str] = field(default_factory=set)
    """Those files, as they are named."""
    metadata: dict[str, str] = field(default_factory=dict)
    fields: int = 0
    """Fields that were read so far."""
    has_graph: bool = False


def read(model: bytes, *, file: str) -> Contents:
    """Return what ``model`` declares.

    Raises :class:`ModelRefused`, naming ``file``, for bytes that are not a whole ONNX model.
    """
    for beginning, what in _DISGUISED.items():
        if model.startswith(beginning):
            raise ModelRefused(
                f"{file} is {what}, which may run code when it is opened: "
                "export it to ONNX with python -m exporters"
            )
    found = Contents()
    try:
        _model(memoryview(model), found)
    except (IndexError, ValueError):
        found.has_graph = False
    if not found.has_graph:
        raise ModelRefused(
            f"{file} is damaged or no ONNX model: fetch it again, or export it with "
            "python -m exporters"
        )
    return found


def _model(message: memoryview, found: Contents) -> None:
    for number, value in _fields(message, found):
        if number == 7:  # graph
            found.has_graph = True
            _graph(_sub(value), found, 0)
        elif number == 8:  # opset_import
            _opset(_sub(value), found, 0)
        elif number == 14:  # metadata_props
            entry = _sub(value)
            found.metadata[_text(entry, 1, found)] = _text(entry, 2, found)
        elif number == 20:  # training_info
            _walk(_sub(value), found, {1: _graph, 2: _graph}, 0)
        elif number == 25:  # functions: their nodes are as good as the graph's
            _walk(_sub(value), found, {7: _node, 9: _opset, 11: _attribute}, 0)


def _opset(message: memoryview, found: Contents, _depth: int) -> None:
    found.domains.update(_texts(message, 1, found) or [""])


def _graph(message: memoryview, found: Contents, depth: int) -> None:
    _walk(message, found, {1: _node, 5: _tensor, 15: _sparse}, depth)


def _node(message: memoryview, found: Contents, depth: int) -> None:
    found.domains.update(_texts(message, 7, found) or [""])
    _walk(message, found, {5: _attribute}, depth)


def _attribute(message: memoryview, found: Contents, depth: int) -> None:
    kinds: _Readers = {5: _tensor, 6: _graph, 10: _tensor, 11: _graph, 22: _sparse, 23: _sparse}
    _walk(message, found, kinds, depth)


def _sparse(message: memoryview, found: Contents, depth: int) -> None:
    _walk(message, found, {1: _tensor, 2: _tensor}, depth)


def _tensor(message: memoryview, found: Contents, _depth: int) -> None:
    outside = False
    for number, value in _fields(message, found):
        if number == 13:  # external_data
            outside = True
            if _text(_sub(value), 1, found) == "location":
                found.locations.add(_text(_sub(value), 2, found))
        elif number == 14:  # data_location: anything but DEFAULT
            outside = outside or value != 0
    if outside:
        found.external.add(_text(message, 8, found) or "unnamed")


_Readers = dict[int, Callable[[memoryview, Contents, int], None]]


def _walk(message: memoryview, found: Contents, readers: _Readers, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    for number, value in _fields(message, found):
        reader = readers.get(number)
        if reader is not None:
            reader(_sub(value), found, depth + 1)


def _fields(message: memoryview, found: Contents) -> _Fields:
    at = 0
    while at < len(message):
        found.fields += 1
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        # The runtime cuts a longer key to 32 bits: it would see another field than we do.
        if found.fields > _MOST_FIELDS or not 0 < number < 1 << 29:
            raise ValueError("too many fields, or one without a number")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("unknown wire type")
        if at + size > len(message):
            raise ValueError("cut short")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("varint too long")


def _sub(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a message was expected")  # noqa: TRY004 - one class for all damage
    return value


def _texts(message: memoryview, number: int, found: Contents) -> list[str]:
    """Return every value of a field; the runtime takes the last one of a field given twice."""
    values = (value for field_number, value in _fields(message, found) if field_number == number)
    return [bytes(_sub(value)).decode() for value in values]


def _text(message: memoryview, number: int, found: Contents) -> str:
    values = _texts(message, number, found)
    return values[-1] if values else ""
