"""A loaded model to a folder of graphs that the explain tier runs.

Parts are traced, cast and written one after the other and let go at once, so the peak is one part
above the model itself.
"""

import hashlib
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

from exporters.r1omni import admission, graphs, parts
from exporters.r1omni.checkpoint import Omni
from exporters.r1omni.static import STATIC
from pipeline.errors import DemeanorError
from pipeline.explain import manifest
from pipeline.explain.manifest import Precision

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
BERT_FILES: Final = {"vocab.txt": "bert-vocab.txt", "tokenizer.json": "bert-tokenizer.json"}

Progress = Callable[[str], None]
"""Told the name of each step as it begins."""


def export(
    model: Omni, checkpoint: Path, out: Path, precision: Precision, progress: Progress
) -> manifest.Manifest:
    """Write all graphs, the embedding, the tokenizers and the manifest into ``out``.

    ``model``'s parts are cast in place and let go of: they must not be used afterwards.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*"):
        if old.is_file() and old.suffix in {".onnx", ".data", ".bin"}:
            old.unlink()
    version = metadata.version("demeanor")
    rounding = parts.Rounding()
    written: dict[str, manifest.Graph] = {}
    for name, build in parts.parts(model, precision):
        progress(name)
        written[name] = build(parts.Target(out, version, checkpoint.name, rounding))
    spec = model.spec
    shape = manifest.Decoder(
        hidden=spec.decoder.hidden,
        layers=spec.decoder.layers,
        heads=spec.decoder.heads,
        kv_heads=spec.decoder.kv_heads,
        head_dim=spec.decoder.head_dim,
        vocab=spec.decoder.vocab,
        eos=spec.decoder.eos,
    )
    progress(STATIC)
    refused = _admit(out, shape, precision, written)
    progress("tokenizers and digests")
    _copy_tokenizers(checkpoint, model, out)
    made = manifest.Manifest(
        name=checkpoint.resolve().name,
        exporter=version,
        precision=precision,
        graphs=written,
        decoder=shape,
        embedding=manifest.Embedding(
            parts.EMBEDDING_FILE, "float16" if precision == "fp16" else "float32"
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
        digests={
            file.name: manifest.digest(file) for file in sorted(out.iterdir()) if _counts(file)
        },
        warnings=(*model.report.warnings, *rounding.sentences(), *refused),
    )
    save(made, out)
    return made


def _admit(
    out: Path, shape: manifest.Decoder, precision: Precision, written: dict[str, manifest.Graph]
) -> list[str]:
    """Keep the static decoder when it passes; else remove it and say why."""
    file = out / f"{STATIC}.onnx"
    if not file.exists():
        return []
    try:
        failed = [
            str(proof) for proof in admission.proofs(out, shape, precision) if not proof.passed
        ]
    except DemeanorError as error:
        failed = [str(error)]
    if failed:
        file.unlink()
        return [f"{STATIC} was left out, the plain decoder serves: {failed[0]}"]
    written[STATIC] = manifest.Graph(file.name, precision, graphs.OPSET, written["decoder"].weights)
    return []


def save(made: manifest.Manifest, out: Path) -> None:
    """Write ``manifest.json``."""
    text = msgspec.json.format(msgspec.json.encode(made), indent=2)
    (out / manifest.FILE).write_bytes(text + b"\n")


def _counts(file: Path) -> bool:
    return file.is_file() and file.name != manifest.FILE


def _copy_tokenizers(checkpoint: Path, model: Omni, out: Path) -> None:
    for name in TOKENIZER_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, out / name)
    bert = model.report.bert
    for name, ours in BERT_FILES.items():
        if bert is not None and (bert / name).is_file():
            shutil.copyfile(bert / name, out / ours)
