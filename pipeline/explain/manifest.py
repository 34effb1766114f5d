"""``manifest.json`` of an exported explain model: what lies in its folder and how it was proven."""

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from pipeline.errors import ModelRefused

FILE = "manifest.json"
FORMAT = 1
Precision = Literal["fp32", "fp16"]


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ONNX file and the files with its weights."""

    file: str
    precision: Precision
    opset: int
    weights: tuple[str, ...] = ()
    """Files of external data, in the same folder."""


class Decoder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the runtime must know of the language model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    eos: int


class Embedding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The token embedding: a bare matrix ``(vocab, hidden)`` that the decoder's head may share."""

    file: str
    dtype: Literal["float32", "float16"]


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array held against its source when the folder was written."""

    name: str
    difference: float
    """Largest absolute difference."""
    tolerance: float


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One exported model."""

    format: int = FORMAT
    name: str
    """Name of the checkpoint's folder."""
    exporter: str
    """Version of Demeanor that wrote it."""
    precision: Precision
    graphs: dict[str, Graph]
    decoder: Decoder
    embedding: Embedding
    frames: int
    image_px: int
    tokens_per_frame: int
    audio_tokens: int
    mel_frames: int
    mels: int
    config_sha256: str
    """Of the checkpoint's config.json."""
    sources: dict[str, str]
    """Part → base name of the folder its weights came from."""
    digests: dict[str, str]
    """File → ``sha256:…``, every file of the folder but this one."""
    parity: tuple[Proof, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Return a short name of exactly these weights, for results."""
        return f"{self.name}@{self.digests[self.graphs['decoder'].file][7:19]}"


def digest(file: Path) -> str:
    """Return ``sha256:`` and the digest of a file of any size, as it stands in a manifest."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def read(folder: Path) -> Manifest:
    """Return the manifest of ``folder``. Raises :class:`ModelRefused` that says what to do."""
    path = folder / FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise ModelRefused(
            f"{path} cannot be read ({error.strerror}): name a folder written by "
            "'python -m exporters r1omni CHECKPOINT OUT'"
        ) from None
    except msgspec.MsgspecError as error:
        raise ModelRefused(f"{path} is not a manifest of this version ({error})") from None
    if manifest.format != FORMAT:
        raise ModelRefused(f"{path} has format {manifest.format}, not {FORMAT}: export it again")
    for file in manifest.digests:
        if "/" in file or "\\" in file or file.startswith("."):
            raise ModelRefused(f"{path} names '{file}', which is not a plain file of its folder")
    return manifest
