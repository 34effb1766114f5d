"""The single door to ONNX Runtime: a model file's bytes in, a session that answers arrays out.

A file is opened once: its bytes are read, examined (:mod:`pipeline.onnxfile`), and those very bytes
are given to the runtime, so nothing can be swapped in between. The execution provider is asked for
by name and checked after loading. One thread and no spinning: the process scores many streams, and
parallelism across batches is its own affair. It knows nothing of windows, faces or voices.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pipeline import modelfile, onnxfile, spec
from pipeline.errors import ModelRefused, ProviderMissing, ScoreError, SpecError

# Since 1.29 the runtime reports its use to its maker, with an id that it keeps in the user's home,
# unless it is told not to before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _errors

Array = NDArray[Any]
Device = Literal["cpu", "cuda"]

_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operator sets built into ONNX Runtime; any other needs foreign code in our process."""
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(int64)": "int64",
}
_RUNTIME_ERRORS = (
    _errors.DeviceReset,
    _errors.Fail,
    _errors.InvalidArgument,
    _errors.InvalidGraph,
    _errors.InvalidProtobuf,
    _errors.NotImplemented,
    _errors.RuntimeException,
    _errors.EPFail,
    _errors.EngineError,
    _errors.ModelLoadCanceled,
    _errors.ModelRequiresCompilation,
    _errors.NoModel,
    _errors.NoSuchFile,
    _errors.NotFound,
    RuntimeError,
    ValueError,
)


class Session:
    """One loaded model. :meth:`run` may be called from any thread."""

    def __init__(
        self,
        model: bytes,
        *,
        file: str,
        device: Device = "cpu",
        threads: int = 1,
        weights: Path | None = None,
    ) -> None:
        """Load ``model``; ``file`` is the name that messages use.

        ``weights`` is the only folder that may hold tensors outside the file; the caller has
        checked the digests of what lies there. Without it such tensors are refused.

        Raises :class:`ModelRefused` for damaged bytes, values outside the file or operators from
        elsewhere, :class:`SpecError` for a missing or contradicted contract, and
        :class:`ProviderMissing` when ``device`` is not what would run.
        """
        contents = onnxfile.read(model, file=file)
        _refuse_foreign(contents, file, weights)
        self.file = file
        self.spec = spec.decode(contents.metadata, file=file)
        self._session = _load(model, file, _PROVIDERS[device], _options(threads, weights))
        _match("input", self.spec.inputs, self._session.get_inputs(), file)
        _match("output", self.spec.outputs, self._session.get_outputs(), file)

    @property
    def provider(self) -> str:
        """Name of the execution provider that runs this model."""
        return str(self._session.get_providers()[0])

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the named outputs (all, in graph order, for ``None``) for ``feeds``.

        Raises :class:`ScoreError` when an input does not fit or an answer is NaN or infinite.
        """
        try:
            answers = self._session.run(outputs, dict(feeds))
        except _RUNTIME_ERRORS as error:
            raise ScoreError(f"{self.file} could not be run: {_first_line(error)}") from None
        arrays = cast("list[Array]", answers)
        for array in arrays:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ScoreError(f"{self.file} answered NaN or infinity")
        return arrays

    def buffer(self, shape: Sequence[int], dtype: str) -> "Buffer":
        """Return zeroed memory where this model runs, to be bound by :meth:`run_bound`."""
        return Buffer(shape, dtype, "cuda" if "CUDA" in self.provider else "cpu")

    def run_bound(
        self, feeds: Mapping[str, Array], bound: Mapping[str, "Buffer"], wanted: str
    ) -> Array:
        """Run with inputs and outputs of ``bound`` in place; return the output ``wanted``.

        Nothing in ``bound`` is copied or allocated. Raises as :meth:`run` does.
        """
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        known = {node.name for node in self._session.get_inputs()}
        for name, buffer in bound.items():
            bind = binding.bind_ortvalue_input if name in known else binding.bind_ortvalue_output
            bind(name, buffer.value)
        binding.bind_output(wanted)
        try:
            self._session.run_with_iobinding(binding)
        except _RUNTIME_ERRORS as error:
            raise ScoreError(f"{self.file} could not be run: {_first_line(error)}") from None
        answer: Array = binding.get_outputs()[-1].numpy()
        if not np.isfinite(answer).all():
            raise ScoreError(f"{self.file} answered NaN or infinity")
        return answer


class Buffer:
    """A tensor of fixed shape that stays on its device between runs."""

    def __init__(self, shape: Sequence[int], dtype: str, device: Device) -> None:
        zeros = np.zeros(tuple(shape), dtype)
        self.value = ort.OrtValue.ortvalue_from_numpy(zeros, device, 0)

    def array(self) -> Array:
        """Return a copy on the host."""
        copied: Array = np.array(self.value.numpy())
        return copied


def open_session(
    source: Path | str | bytes, *, device: Device = "cpu", threads: int = 1, file: str = "the model"
) -> Session:
    """Open a model from its bytes (named ``file`` in messages) or from a path, read once.

    Raises as :class:`Session` does, and :class:`ModelRefused` when the path cannot be read.
    """
    if isinstance(source, bytes):
        return Session(source, file=file, device=device, threads=threads)
    path = Path(source)
    return Session(modelfile.read(path), file=path.name, device=device, threads=threads)


def _refuse_foreign(contents: onnxfile.Contents, file: str, weights: Path | None) -> None:
    foreign = sorted(contents.domains - _DOMAINS)
    if foreign:
        raise ModelRefused(
            f"{file} uses operators of {_some(foreign)}, which would need foreign code: "
            "export it with standard ONNX operators"
        )
    if weights is not None:
        _refuse_elsewhere(contents.locations, file, weights)
    elif contents.external:
        raise ModelRefused(
            f"{file} keeps {len(contents.external)} tensors outside the file: "
            "save it as one file, without external data"
        )


def _refuse_elsewhere(locations: set[str], file: str, weights: Path) -> None:
    """External weights lie in their folder itself, by plain names, and are no links."""
    for name in sorted(locations):
        if Path(name).name != name or (weights / name).is_symlink():
            raise ModelRefused(f"{file} keeps weights at {name[:64]!r}, outside its own folder")


def _load(
    model: bytes, file: str, provider: str, options: ort.SessionOptions
) -> ort.InferenceSession:
    available = tuple(ort.get_available_providers())
    if provider not in available:
        raise ProviderMissing(provider, available)
    try:
        session = ort.InferenceSession(model, options, providers=[provider])
    except _RUNTIME_ERRORS as error:
        raise ModelRefused(f"{file} does not load: {_first_line(error)}") from None
    got = tuple(session.get_providers())
    if got[0] != provider:  # the runtime falls back without a word when a device fails to start
        raise ProviderMissing(provider, got)
    return session


@cache
def _share_memory() -> None:
    """Let all sessions of this process work in one arena: they seldom run at the same time."""
    place = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(place, ort.OrtArenaCfg({}))


def _options(threads: int, weights: Path | None) -> ort.SessionOptions:
    _share_memory()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Shapes vary from run to run: a plan of memory for each of them is kept and never used again.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "1")
    # What was examined is what is loaded: bytes can be ONNX and the runtime's own format at once.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if weights is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _match(side: str, declared: tuple[spec.Tensor, ...], graph: Sequence[Any], file: str) -> None:
    said = [(tensor.name, tensor.dtype, len(tensor.shape)) for tensor in declared]
    has = [(node.name, _DTYPES.get(node.type, node.type), len(node.shape)) for node in graph]
    if said != has:
        raise SpecError(
            f"{file}: the contract declares {side}s {said}, the graph has {has}: export it again"
        )


def _some(names: Sequence[str]) -> str:
    """Return the first names, cut: they are whatever the file says."""
    return ", ".join(repr(name[:64]) for name in names[:3]) + (", …" if len(names) > 3 else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
