"""``demeanor scoring``: the kill switch of a running server."""

import asyncio
from typing import Annotated

import typer

from services.cli.credentials import Authority, TokenFile
from services.cli.exits import guarded


def scoring(
    state: Annotated[
        str, typer.Argument(metavar="on|off", help="What scoring shall be.", show_default=False)
    ],
    *,
    to: Annotated[
        str, typer.Option(metavar="URL", help="The server's HTTP address.")
    ] = "http://localhost:8080",
    everywhere: Annotated[
        bool,
        typer.Option("--everywhere", help="For all tenants; for admins of the tenant 'default'."),
    ] = False,
    token_file: TokenFile = None,
    ca: Authority = None,
) -> None:
    """Switch scoring off, or on again, within a second.

    Every process obeys. While it is off, windows are cut and skipped: the books of a call stay
    exact.

    Exit codes: 0 switched, 1 the server refused or does not answer, 2 wrong use.
    """
    from services.cli.switching import switch

    with guarded():
        asyncio.run(switch(to, state, token_file, ca, everywhere=everywhere))
