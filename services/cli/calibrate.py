"""``demeanor calibrate``: measure how many streams this machine holds."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli.exits import guarded, interruptible


def calibrate(
    seconds: Annotated[
        float, typer.Option(metavar="S", min=10, max=3600, help="How long it may take.")
    ] = 90.0,
    most: Annotated[
        int, typer.Option("--max", metavar="N", min=1, max=256, help="Streams to try at most.")
    ] = 256,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", metavar="FILE", help="TOML file of the server to measure."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Measure how many streams this machine holds.

    The result is kept for `demeanor up`.

    Publishes the bundled call to a private server with rising numbers of publishers on this same
    machine, until windows are skipped or a limit of admission is passed. What the publishers cost
    is in the result, so it is on the safe side. Other work on the machine makes it smaller.

    Exit codes: 0 measured, 1 failed, 2 wrong use, 130 interrupted; then nothing is kept.
    """
    from services.cli.calibrating import Form, measure

    interruptible()
    with guarded():
        try:
            asyncio.run(measure(seconds, most, config, Form(json=json)))
        except KeyboardInterrupt:
            raise SystemExit(130) from None
