"""``demeanor doctor``: check the installation; every finding ends with what mends it."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from services.cli.exits import Exit, guarded, interruptible

MARKS = {"ok": "✔", "warning": "!", "error": "✖"}


def doctor(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="TOML file with settings.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Leave addresses and host facts out.")
    ] = False,
) -> None:
    """Check this installation; every finding says what mends it.

    Exit codes: 0 fine, 1 warnings, 2 something is broken.
    """
    import msgspec

    from services.checks import run_all
    from services.settings import load

    with guarded():
        settings = load(config)
    interruptible()
    findings = asyncio.run(run_all(settings, redact=redact))
    errors = sum(finding.status == "error" for finding in findings)
    warnings = sum(finding.status == "warning" for finding in findings)
    if json:
        print(
            msgspec.json.encode(
                {"findings": findings, "warnings": warnings, "errors": errors}
            ).decode()
        )
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f" {MARKS[finding.status]} {finding.name:<{width}}  {finding.text}")
            if finding.fix:
                print(f"   {'':<{width}}  → {finding.fix}")
        print(_verdict(warnings, errors))
    raise SystemExit(Exit.USAGE if errors else Exit.FAILED if warnings else Exit.DONE)


def _verdict(warnings: int, errors: int) -> str:
    if not warnings and not errors:
        return " Everything is in place."
    counts = [
        f"{n} {word}{'s' * (n != 1)}" for n, word in ((warnings, "warning"), (errors, "error")) if n
    ]
    return f" {', '.join(counts)}.  Paste this into a report: demeanor doctor --json --redact"
