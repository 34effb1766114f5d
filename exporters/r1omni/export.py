"""A loaded model to a folder of graphs that the explain tier runs.

Parts are traced, cast and written one after the other and let go at once, so the peak is one part
above the model itself.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from exporters.r1omni import graphs
from exporters.r1omni.attach import Shared, attach
from exporters.r1omni.checkpoint import Omni
from exporters.r1omni.graphs import Part
from exporters.r1omni.weights import digest
from pipeline.explain import manifest
from pipeline.explain.manifest import Precision
from pipeline.spec import Tensor as Axis

EMBEDDING_FILE: Final = "embedding.bin"
HEAD_FILE: Final = "head.bin"
TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
BERT_FILES: Final = {"vocab.txt": "bert-vocab.txt", "tokenizer.json": "bert-tokenizer.json"}
DTYPES: Final[dict[Precision, torch.dtype]] = {"fp32": torch.float32, "fp16": torch.float16}
SMALLEST_FP16: Final = 2.0**-24
"""Below half of the smallest subnormal a value becomes zero."""

_ROWS: Final = 4096

Progress = Callable[[str], None]
"""Told the name of each step as it begins."""


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


def export(
    model: Omni, checkpoint: Path, out: Path, precision: Precision, progress: Progress
) -> manifest.Manifest:
    """Write all graphs, the embedding, the tokenizers and the manifest into ``out``.

    ``model``'s parts are cast in place and must not be used afterwards.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*"):
        if old.is_file() and old.suffix in {".onnx", ".data", ".bin"}:
            old.unlink()
    version = metadata.version("demeanor")
    rounding = Rounding()
    written: dict[str, manifest.Graph] = {}
    for part, build in _parts(model, precision):
        progress(part)
        written[part] = build(_Target(out, version, checkpoint.name, rounding))
    progress("tokenizers and digests")
    _copy_tokenizers(checkpoint, model, out)
    spec = model.spec
    made = manifest.Manifest(
        name=checkpoint.resolve().name,
        exporter=version,
        precision=precision,
        graphs=written,
        decoder=manifest.Decoder(
            hidden=spec.decoder.hidden,
            layers=spec.decoder.layers,
            heads=spec.decoder.heads,
            kv_heads=spec.decoder.kv_heads,
            head_dim=spec.decoder.head_dim,
            vocab=spec.decoder.vocab,
            eos=spec.decoder.eos,
        ),
        embedding=manifest.Embedding(
            EMBEDDING_FILE, "float16" if precision == "fp16" else "float32"
        ),
        frames=spec.frames,
        image_px=spec.vision.image,
        tokens_per_frame=spec.vision.grid**2 // 4,
        audio_tokens=spec.audio.tokens,
        mel_frames=spec.audio.frames,
        mels=spec.audio.mels,
        config_sha256=hashlib.sha256((checkpoint / "config.json").read_bytes()).hexdigest(),
        sources={
            part: Path(place.split(" (")[0]).name for part, place in model.report.sources.items()
        },
        digests={file.name: digest(file) for file in sorted(out.iterdir()) if _counts(file)},
        warnings=(*model.report.warnings, *rounding.sentences()),
    )
    save(made, out)
    return made


def save(made: manifest.Manifest, out: Path) -> None:
    """Write ``manifest.json``."""
    text = msgspec.json.format(msgspec.json.encode(made), indent=2)
    (out / manifest.FILE).write_bytes(text + b"\n")


def _counts(file: Path) -> bool:
    return file.is_file() and file.name != manifest.FILE


_Build = Callable[["_Target"], manifest.Graph]


def _parts(model: Omni, precision: Precision) -> Iterator[tuple[str, _Build]]:
    dtype = DTYPES[precision]
    yield "gate", lambda target: _write(lambda: graphs.gate(model), "fp32", target)
    yield (
        "vision_fusion",
        lambda target: _write(lambda: graphs.vision(model, dtype), precision, target),
    )
    yield "audio", lambda target: _write(lambda: graphs.audio(model, dtype), precision, target)
    yield "decoder", lambda target: _write_decoder(model, precision, target)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a part goes and what is noted on the way."""

    out: Path
    version: str
    source: str
    rounding: Rounding


def _write(describe: Callable[[], Part], precision: Precision, target: _Target) -> manifest.Graph:
    part = describe()
    cast(part.module, precision, target.rounding)
    proto = graphs.traced(part)
    outputs = [Axis(name, _name(precision), part.shapes[name]) for name in part.outputs]
    graphs.stamp(proto, part, outputs, target.version, target.source)
    written = attach(proto, _arrays(part.module), target.out, part.name)
    return manifest.Graph(written.file, precision, graphs.OPSET, written.weights)


def _write_decoder(model: Omni, precision: Precision, target: _Target) -> manifest.Graph:
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
    written = attach(proto, _arrays(part.module), target.out, part.name, {graphs.EMBEDDING: shared})
    return manifest.Graph(written.file, precision, graphs.OPSET, written.weights)


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


def _arrays(module: nn.Module) -> dict[str, NDArray[Any]]:
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def _name(precision: Precision) -> Any:
    return {"fp32": "float32", "fp16": "float16"}[precision]


def _copy_tokenizers(checkpoint: Path, model: Omni, out: Path) -> None:
    for name in TOKENIZER_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)
    bert = model.report.bert
    for name, ours in BERT_FILES.items():
        if bert is not None and (bert / name).is_file():
            shutil.copyfile(bert / name, out / ours)
