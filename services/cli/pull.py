"""``demeanor models pull``: public weights by name, once their licence was read and accepted."""

import asyncio
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.exits import complain, guarded, interruptible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.pull.download import Told
    from services.pull.folder import Begun, Order, Pulled
    from services.pull.public import Public

VARIABLE = "DEMEANOR_MODELS_URL"
_INTERRUPTED = 130


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of 'demeanor models public'.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Folder to fill. [./NAME]")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="COMMIT", help="Which state of the repository."),
    ] = None,
    sha256sums: Annotated[
        Path | None,
        typer.Option("--sha256sums", metavar="FILE", help="Digests to hold it to."),
    ] = None,
    trust_first: Annotated[
        bool,
        typer.Option("--trust-first", help="Without digests: write down those of what comes now."),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", envvar=VARIABLE, help="Hub to pull from; https."),
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read and accept the terms.")
    ] = False,
) -> None:
    """Fetch public weights for the explain tier.

    Nothing is fetched before the licence and the usage policy are accepted. Every file is held to
    a SHA-256 digest: of --sha256sums, or of the SHA256SUMS that an earlier pull left in DIR. An
    interrupted pull goes on where it stopped. Only safetensors, JSON and text; never a pickle.

    Exit codes: 0 all there, 1 failed or not the promised file, 2 wrong use, 130 interrupted.
    """
    from services.pull.folder import Pulled, check
    from services.pull.public import public

    with guarded():
        wanted = public(name)
        order = _order(wanted, to, revision, sha256sums, base, trust_first=trust_first)
        check(order)
        _agree(wanted, accepted=accept_licence)
        pulled = Pulled()
        interruptible()
        try:
            with _bars() as begun:
                _run(order, begun, pulled)
        except KeyboardInterrupt:
            complain("stopped; what came is kept, and the same command goes on from there")
            raise SystemExit(_INTERRUPTED) from None
    _report(order, pulled)


def _order(
    wanted: "Public",
    to: Path | None,
    revision: str | None,
    sha256sums: Path | None,
    base: str | None,
    *,
    trust_first: bool,
) -> "Order":
    from pipeline.errors import UsageError
    from services.pull import sums
    from services.pull.download import template
    from services.pull.folder import Order

    if not base:
        raise UsageError(
            f"there is no hub to pull from: set {VARIABLE} or give --from, the https address of "
            f"the hub that holds {wanted.repository}"
        )
    chosen = revision or wanted.revision
    if chosen is None:
        raise UsageError(
            f"no revision of {wanted.repository} is known to be good: look it up on the hub and "
            "give --revision COMMIT"
        )
    folder = to or Path(wanted.name)
    earlier = folder / sums.FILE
    known = sums.read(earlier) if earlier.is_file() else {}
    if sha256sums is not None:
        known |= sums.read(sha256sums)
    return Order(wanted, template(base), chosen, folder, known, trust_first)


def _agree(wanted: "Public", *, accepted: bool) -> None:
    """Show the terms; go on only when somebody accepts them."""
    from rich.console import Console

    from pipeline.errors import UsageError

    console = Console(stderr=True, highlight=False, markup=False)
    console.print(f"{wanted.name} ({wanted.repository}): {wanted.purpose}")
    console.print(f"Licence: {wanted.licence}")
    console.print(wanted.policy)
    if accepted:
        return
    if not sys.stdin.isatty():
        raise UsageError("read the terms above and accept them with --accept-licence")
    print("Type yes to accept these terms: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        raise UsageError("the terms were not accepted; nothing was fetched")


def _run(order: "Order", begun: "Begun", pulled: "Pulled") -> None:
    from services.pull.folder import pull as fetch_all

    asyncio.run(fetch_all(order, begun, pulled))


@contextmanager
def _bars() -> "Iterator[Begun]":
    """Show a bar for each file on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description:<34}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    )  # fmt: skip
    shown = Console(stderr=True)
    with Progress(*columns, console=shown, disable=not sys.stderr.isatty()) as progress:

        def begun(name: str) -> "Told":
            task = progress.add_task(name, total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield begun


def _report(order: "Order", pulled: "Pulled") -> None:
    from services.pull import sums

    for name, state in pulled.states.items():
        digest = pulled.digests.get(name, "")[:12]
        told = {"there": "already there", "fetched": "fetched", "absent": "not published"}[state]
        print(f"{'-' if state == 'absent' else '✔'} {name}  {told}  {digest}".rstrip())
    if order.trust_first:
        print(
            f"Nobody vouched for these files: their digests are in {order.folder / sums.FILE} now, "
            "and later pulls are held against them."
        )
