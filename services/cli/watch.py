"""``demeanor watch``: a live wall of a server's sessions in the terminal."""

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.credentials import Authority, TokenFile, token_for
from services.cli.exits import Exit, guarded, interruptible

if TYPE_CHECKING:
    from services.client import Reader


def watch(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Event address; http:// is understood too.")
    ] = "ws://localhost:8081",
    session: Annotated[str, typer.Option(metavar="ID", help="One session; * is all.")] = "*",
    token_file: TokenFile = None,
    ca: Authority = None,
    plain: Annotated[bool, typer.Option("--plain", help="One line an event, no redraw.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Events as they come, one a line.")] = False,
) -> None:
    """Watch the sessions of a server, reconnecting by itself. Ctrl-C leaves.

    Exit codes: 0 left, 1 the server refused, 2 wrong use.
    """
    from services.client import Reader, endpoint
    from services.tls import client_context

    with guarded():
        address = endpoint(url)
        token = token_for(address, token_file)
        tls = client_context(ca) if address.startswith("wss:") else None
        interruptible()
        reader = Reader(address, token, [session], tls=tls)
        try:
            asyncio.run(_follow(reader, plain=plain, json=json))
        except KeyboardInterrupt:
            raise SystemExit(Exit.DONE) from None


async def _follow(reader: "Reader", *, plain: bool, json: bool) -> None:
    from services.cli.wall import JsonLines, LiveWall, PlainLines, View

    view: View
    if json:
        view = JsonLines()
    elif plain or not sys.stdout.isatty():
        view = PlainLines()
    else:
        view = LiveWall()
    with suppress(asyncio.CancelledError), view:
        async for item in reader.events():
            view.show(item)
