"""``demeanor models``: what is built in, under which licence, and whether it is undamaged."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli import pull
from services.cli.exits import Exit, complain, guarded

app = typer.Typer(
    no_args_is_help=True, help="List, verify and pull model files.", rich_markup_mode=None
)
app.command()(pull.pull)


@app.command("list")
def list_models(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the built-in models with size, licence and digest."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from pipeline.models import manifest

    with guarded():
        models = manifest().models
    if json:
        print(msgspec.json.encode(models).decode())
        return
    table = Table(box=None, pad_edge=False)
    for name, justify in (("name", "left"), ("version", "left"), ("kB", "right"), ("kind", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("licence", overflow="fold")
    table.add_column("sha256")
    for name, entry in models.items():
        size = f"{entry.bytes / 1000:.0f}"
        table.add_row(name, entry.version, size, entry.kind, entry.licence, f"{entry.sha256[:12]}…")
    Console(highlight=False).print(table)
    print("Sources and figures: the model cards in pipeline/models/.")


@app.command("public")
def list_public(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List public weights that 'models pull' knows by name, with licence and purpose."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from services.pull.public import PUBLIC

    if json:
        print(msgspec.json.encode(dict(PUBLIC)).decode())
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "repository", "licence", "purpose"):
        table.add_column(heading, overflow="fold")
    for each in PUBLIC.values():
        table.add_row(each.name, each.repository, each.licence, each.purpose)
    Console(highlight=False).print(table)
    print("No digest of these is known here: bring them (--sha256sums), or use --trust-first.")


@app.command()
def verify(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Of your own; none: the built-in ones."),
    ] = None,
) -> None:
    """Check digest, contract and that each model loads.

    Exit codes: 0 all fine, 78 one is refused.
    """
    from pipeline import graphs
    from pipeline.errors import ModelError, SpecError
    from pipeline.models import manifest, verified_bytes
    from pipeline.session import Session, open_session

    failed = False
    with guarded():
        wanted: list[Path | str] = list(files) if files else list(manifest().models)
    for item in wanted:
        try:
            if isinstance(item, Path):
                session = open_session(item)
            else:
                session = Session(verified_bytes(item), file=item)
            graphs.check(session.spec, session.file)
        except (ModelError, SpecError) as error:
            complain(str(error))
            failed = True
        else:
            spec = session.spec
            print(f"✔ {item}  {spec.kind}  {spec.name} {spec.version}  {spec.licence}")
    if failed:
        raise SystemExit(Exit.MODEL_REFUSED)
