"""The ``demeanor`` command: one thin file a verb, imported when it is called."""

from importlib import metadata
from typing import Annotated

import typer

from services.cli import (
    audit,
    calibrate,
    doctor,
    drain,
    evaluate,
    models,
    policy,
    push,
    run,
    scoring,
    token,
    up,
    watch,
)

app = typer.Typer(
    name="demeanor",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"demeanor {metadata.version('demeanor')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """Turn live calls into events of expressed emotion, on your own machine.

    Without a verb it does what `demeanor up` does.

    Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 no evidence at all, 75 already
    running, 78 model refused.
    """
    del version
    if context.invoked_subcommand is None:
        up.up()


app.command()(up.up)
app.command()(run.run)
app.command()(push.push)
app.command()(watch.watch)
app.command()(calibrate.calibrate)
app.command()(drain.drain)
app.command()(scoring.scoring)
app.command()(doctor.doctor)
app.command()(evaluate.evaluate)
app.add_typer(token.app, name="token")
app.add_typer(models.app, name="models")
app.add_typer(policy.app, name="policy")
app.add_typer(audit.app, name="audit")
