"""``python -m exporters face|voice|vad|r1omni|verify``: build the model files, and prove them."""

import argparse
import importlib
import sys
from types import ModuleType

from pipeline.errors import DemeanorError, UsageError

PARTS = {
    "face": ("exporters.face", "face detector, expression and landmarks from the npm package"),
    "voice": ("exporters.voice", "train and export the voice model"),
    "vad": ("exporters.vad", "Silero VAD from its wheel"),
    "r1omni": ("exporters.r1omni", "R1-Omni and HumanOmni-0.5B checkpoints for the explain tier"),
    "verify": ("exporters.verify", "prove the built-in models: digests, contracts, golden answers"),
}
_PACKAGES = {"torch", "onnx", "onnxruntime", "av", "safetensors"}
"""What an exporter may need beyond the product itself."""


def main(arguments: list[str] | None = None) -> int:
    """Run one part and return its exit code: 0 done, 1 failed, 2 wrong use."""
    asked = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m exporters", description=__doc__)
    commands = parser.add_subparsers(dest="part", required=True)
    part: ModuleType | None = None
    for name, (module, summary) in PARTS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if asked[:1] == [name]:
            try:
                part = _load(module)
            except UsageError as error:
                print(error, file=sys.stderr)
                return 2
            part.add_arguments(command)
    args = parser.parse_args(asked)
    if part is None:
        parser.error("no part named")
    try:
        code = part.main(args)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except DemeanorError as error:
        print(error, file=sys.stderr)
        return 1
    return int(code or 0)


def _load(module: str) -> ModuleType:
    """Import one part only, so that what another part lacks does not stop this one."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name in _PACKAGES:
            raise UsageError(
                f"{module} needs {error.name}: pip install 'demeanor[cpu,export]'"
            ) from None
        raise


if __name__ == "__main__":
    sys.exit(main())
