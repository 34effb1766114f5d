"""``python -m exporters voice``: train the voice model on labelled clips and export it."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments; needs neither torch nor onnx."""
    parser.add_argument(
        "data",
        nargs="*",
        type=Path,
        help="folders with labelled clips (RAVDESS, nEMO, CREMA-D, EMO-DB, TESS, SAVEE file names, "
        "or a labels.csv)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("voice-out"), help="folder for the files (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=22, help="passes (%(default)s)")
    parser.add_argument(
        "--peak-rate", type=float, default=2e-3, help="highest learning rate (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first network (%(default)s)")
    parser.add_argument(
        "--nets", type=int, default=2, help="networks to train, one a seed; they vote (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads (%(default)s)")
    parser.add_argument(
        "--holdout",
        default="",
        metavar="SPEAKERS",
        help="speakers to test on and never train on, such as ravdess/17,ravdess/18,nemo/KS0",
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="CHECKPOINT",
        help="train its networks further instead of new ones",
    )
    parser.add_argument(
        "--calibrated-by",
        type=Path,
        metavar="CHECKPOINT",
        help="take temperature and validation from a run of this recipe that held speakers out",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "demeanor" / "voice-features",
        help="folder for computed features (%(default)s)",
    )
    parser.add_argument(
        "--export-only",
        type=Path,
        action="append",
        default=[],
        metavar="CHECKPOINT",
        help="export this checkpoint and train none; repeat it and the networks vote. With folders "
        "of clips the held-out figures and the temperature are taken anew",
    )


def main(args: argparse.Namespace) -> int:
    """Run the command and return the exit code; raises a ``DemeanorError`` that a user can mend."""
    from exporters.voice import command  # noqa: PLC0415  torch loads only when it is needed

    return command.run(args)
