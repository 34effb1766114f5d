"""The manifest and golden answers of the built-in models, made from the files themselves.

Whatever ``*.onnx`` lies in the folder is recorded with its digest and what its own contract says,
so the manifest is a function of the folder and no exporter edits another's entry.
"""

import hashlib
from pathlib import Path

import msgspec

from exporters import golden
from pipeline import models, onnxfile, spec

MODELS_DIR = Path(models.__file__).parent
CARDS = {"face": "face-card.md", "voice": "voice-card.md", "vad": "vad-card.md"}
"""First word of a model's kind to its card."""


def entry(path: Path) -> models.Entry:
    """Describe one model file; raises as :func:`pipeline.spec.decode` does."""
    data = path.read_bytes()
    contract = spec.decode(onnxfile.read(data, file=path.name).metadata, file=path.name)
    return models.Entry(
        name=path.stem,
        file=path.name,
        kind=contract.kind,
        version=contract.version,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        licence=contract.licence,
        source=contract.source,
        card=CARDS[contract.kind.split("-", maxsplit=1)[0]],
    )


def write(folder: Path = MODELS_DIR) -> models.Manifest:
    """Write ``manifest.json`` and ``golden.npz`` for all models in ``folder``; return the first."""
    entries = {path.stem: entry(path) for path in sorted(folder.glob("*.onnx"))}
    manifest = models.Manifest(models=entries)
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / models.MANIFEST_FILE).write_bytes(text + b"\n")
    golden.write(folder, list(entries))
    return manifest
