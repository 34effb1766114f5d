"""``demeanor audit``: prove that nobody changed the audit log."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.exits import Exit, complain, guarded

app = typer.Typer(no_args_is_help=True, help="Verify the audit log.", rich_markup_mode=None)


@app.command()
def verify(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]",
            help="The log's folder, or one of its files. [user's state folder]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Check every row, every link and the end of the log, also while it is written.

    Prints the hash of the last row: keep it elsewhere, because whoever can write the whole folder
    can also forge it.

    Exit codes: 0 nothing was changed, 1 something was: the line says where, 2 wrong use.
    """
    from pipeline.errors import UsageError
    from services.audit import verify as verifying
    from services.audit.log import default_folder

    place = path or default_folder()
    with guarded():
        try:
            found = verifying.verify(place)
        except OSError as error:
            raise UsageError(
                f"{error.filename or place} cannot be read: {error.strerror}"
            ) from None
        if found.bad is None and not found.rows:
            raise UsageError(f"there is no audit log in {place}: name its folder or a file of it")
    rows = f"{found.rows} row{'s' * (found.rows != 1)}"
    if found.bad is not None:
        complain(f"the audit log was changed after {rows}: {found.bad}")
        raise SystemExit(Exit.FAILED)
    print(f" {rows}, none changed; the last has the hash {found.hash}")
