"""``demeanor run``: score a file, a folder, a URL or a device in the terminal, without a server."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli.exits import guarded


def run(
    *,
    source: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="A file, a folder, an RTSP/RTMP/HTTP URL, webcam[:N], mic[:NAME], or - for stdin.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder for <name>.demeanor.jsonl, one event a line."),
    ] = Path(),
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE", help="Who is seen and heard; the policy scores 'self' and 'customer'."
        ),
    ] = "self",
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Replaces a built-in model; may be repeated."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where models run: cpu or cuda. [cpu]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="TOML file with settings.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a panel.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Progress and sum as JSON lines.")] = False,
) -> None:
    """Score a source in the terminal and write its events. Ctrl-C keeps what there is.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 no evidence in any window, 78 model refused.
    """
    from services import policing
    from services.settings import load

    with guarded():
        flags = {"model": tuple(model) if model else None, "device": device}
        settings = load(config, **flags)
        from services.cli.running import Order, score

        panel = sys.stdout.isatty() and "NO_COLOR" not in os.environ and not plain
        order = Order(
            source=source,
            out=out,
            role=role,
            model=settings.model,
            device=settings.device,
            policy=policing.load(settings),
            shown="json" if json else "panel" if panel else "lines",
        )
        raise SystemExit(asyncio.run(score(order)))
