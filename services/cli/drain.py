"""``demeanor drain``: ask a server to end once its streams have ended."""

import asyncio
from typing import Annotated

import typer

from services.cli.credentials import Authority, TokenFile
from services.cli.exits import guarded, interruptible


def drain(
    to: Annotated[
        str, typer.Option(metavar="URL", help="The server's HTTP address.")
    ] = "http://localhost:8080",
    soft: Annotated[
        int | None,
        typer.Option(
            metavar="S",
            min=0,
            max=86_400,
            help="How long streams may go on. [the server's --drain-soft-s]",
            show_default=False,
        ),
    ] = None,
    token_file: TokenFile = None,
    ca: Authority = None,
) -> None:
    """Take no new streams, end with the last one.

    Comes back when the server has ended. Streams that still run when the time is over are ended in
    good order. Ctrl-C leaves the drain going.

    Exit codes: 0 the server has ended, 1 it refused or did not end, 2 wrong use.
    """
    from services.cli.draining import drained

    interruptible()
    with guarded():
        asyncio.run(drained(to, soft, token_file, ca))
