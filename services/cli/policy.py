"""``demeanor policy``: what the rules mean, in plain sentences."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.exits import guarded

if TYPE_CHECKING:
    from pipeline.policy import Policy

app = typer.Typer(
    no_args_is_help=True,
    help="Explain and check the policy: who may be scored.",
    rich_markup_mode=None,
)


@app.command()
def show(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="TOML file with settings.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what the policy of this machine's settings means.

    Exit codes: 0 shown, 2 wrong use or configuration.
    """
    from services import policing
    from services.settings import load

    with guarded():
        _tell(policing.load(load(config)), json=json)


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A policy.toml.", show_default=False)
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a policy file and say what it means. Use it with 'demeanor up --policy FILE'.

    Exit codes: 0 it can be used, 2 it cannot: the line says which key and why.
    """
    from services import policing

    with guarded():
        _tell(policing.read(file), json=json)


def _tell(policy: "Policy", *, json: bool) -> None:
    from pipeline.policy.document import explained

    if json:
        import msgspec

        from services.policing import described

        print(msgspec.json.encode(described(policy)).decode())
        return
    for sentence in explained(policy):
        print(sentence)
    print()
    notice = policy.notice
    print(f"Notice {notice.version}: {notice.text}")
    print(f"In tokens: demeanor token issue --consent {notice.version}:{notice.sha256} …")
