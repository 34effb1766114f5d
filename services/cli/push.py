"""``demeanor push``: publish a file as a call, or as many calls at once."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli.credentials import Authority, TokenFile
from services.cli.exits import guarded


def push(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to publish.", show_default=False)
    ],
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="URL", help="WHIP address; without a path the stream is named after the file."
        ),
    ],
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end.")] = False,
    speed: Annotated[
        float,
        typer.Option(metavar="X", min=0.1, max=16, help="How fast packets leave; 1 is real time."),
    ] = 1.0,
    clients: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="Publish to NAME-1 … NAME-N at once.")
    ] = 1,
    duration: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.1, help="Stop after so many seconds.", show_default=False),
    ] = None,
    token_file: TokenFile = None,
    ca: Authority = None,
) -> None:
    """Publish a file by WHIP as a camera would. Ctrl-C ends the session in good order.

    Exit codes: 0 all sent or stopped, 1 failed, 2 wrong use.
    """
    with guarded():
        from services.cli.pushing import Wish, publish

        wish = Wish(
            file=file,
            to=to,
            loop=loop,
            speed=speed,
            clients=clients,
            duration_s=duration,
            token_file=token_file,
            ca=ca,
        )
        raise SystemExit(asyncio.run(publish(wish)))
