"""``python -m exporters face``: the npm package's weights to three ONNX files, proven."""

import argparse
from pathlib import Path

from exporters import manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``python -m exporters face`` takes."""
    parser.add_argument("--package", type=Path, help="the npm archive, if it lies here already")
    parser.add_argument("--out", type=Path, default=manifest.MODELS_DIR, help="folder to write to")
    parser.add_argument(
        "--faces",
        type=Path,
        help="folder with labels.csv and expressions/: fit the temperature on half of them and "
        "print figures on the other half; the fitted temperature goes into the graph",
    )


def main(args: argparse.Namespace) -> None:
    """Export, prove and write the three models; see :func:`exporters.face.build.build`."""
    from exporters.face.build import build  # noqa: PLC0415 - torch is heavy

    build(args.package, args.out, args.faces)
