"""Made-up weights in the package's own shapes, so that tests need no download."""

import io
import json
import tarfile

import numpy as np

from exporters.face.weights import Package, open_package

CODED = {"dtype": "uint8", "scale": 0.01, "min": -1.0}


def detector_shapes():
    shapes = {"conv0/filters": (3, 3, 3, 16), "conv0/bias": (16,)}
    for index in range(1, 6):
        wide = 8 * 2**index
        shapes |= {
            f"conv{index}/depthwise_filter": (3, 3, wide, 1),
            f"conv{index}/pointwise_filter": (1, 1, wide, 2 * wide),
            f"conv{index}/bias": (2 * wide,),
        }
    return shapes | {"conv8/filters": (1, 1, 512, 25), "conv8/bias": (25,)}


def face_shapes(blocks, convolutions, answers):
    shapes = {}
    before = 3
    for block in range(blocks):
        wide = 32 * 2**block
        for index in range(convolutions):
            prefix, into = f"dense{block}/conv{index}", before if index == 0 else wide
            if block == index == 0:
                shapes[f"{prefix}/filters"] = (3, 3, 3, wide)
            else:
                shapes[f"{prefix}/depthwise_filter"] = (3, 3, into, 1)
                shapes[f"{prefix}/pointwise_filter"] = (1, 1, into, wide)
            shapes[f"{prefix}/bias"] = (wide,)
        before = wide
    return shapes | {"fc/weights": (before, answers), "fc/bias": (answers,)}


def archive(networks) -> bytes:
    """Pack ``{name: {tensor: uint8 values}}`` as npm would."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for network, tensors in networks.items():
            listed = [
                {"name": name, "shape": list(values.shape), "dtype": "float32",
                 "quantization": CODED}
                for name, values in tensors.items()
            ]  # fmt: skip
            stem = f"{network}_model"
            manifest = [{"weights": listed, "paths": [f"{stem}.bin"]}]
            _add(tar, f"model/{stem}-weights_manifest.json", json.dumps(manifest).encode())
            _add(tar, f"model/{stem}.bin", b"".join(v.tobytes() for v in tensors.values()))
        _add(tar, "LICENSE", b"MIT")
    return file.getvalue()


def package(seed=3) -> Package:
    """A whole package of random weights, small enough for answers of ordinary size."""
    random = np.random.default_rng(seed)
    shapes = {
        "tiny_face_detector": detector_shapes(),
        "face_expression": face_shapes(4, 4, 7),
        "face_landmark_68_tiny": face_shapes(3, 3, 136),
    }
    return open_package(
        archive(
            {
                network: {name: _plausible(random, shape) for name, shape in tensors.items()}
                for network, tensors in shapes.items()
            }
        )
    )


def _plausible(random, shape):
    """Bytes whose values are as large as an untrained layer's: about 1 / sqrt(inputs)."""
    inputs = int(np.prod(shape[:-1])) if shape[-1] != 1 else 9
    spread = 1.2 / np.sqrt(max(inputs, 1)) if len(shape) > 1 else 0.05
    values = np.clip(random.normal(0, spread, shape), -1, 1.5)
    return np.round((values - CODED["min"]) / CODED["scale"]).astype(np.uint8)


def _add(tar, name, data):
    member = tarfile.TarInfo(f"package/{name}")
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
