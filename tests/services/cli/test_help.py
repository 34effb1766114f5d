"""What the command says of itself."""

import re
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from services.cli.app import app
from tests.e2e.harness import ROOT

VERBS = (
    "up",
    "run",
    "push",
    "watch",
    "calibrate",
    "drain",
    "scoring",
    "doctor",
    "evaluate",
    "token",
    "models",
    "policy",
    "audit",
)
GROUPS = (["token"], ["models"], ["policy"], ["audit"])
LISTS = (["models", "list"], ["models", "public"])
COMMANDS = [
    [],
    *([verb] for verb in VERBS),
    ["token", "keys"],
    ["token", "issue"],
    ["token", "show"],
    ["token", "revoke"],
    ["models", "list"],
    ["models", "public"],
    ["models", "verify"],
    ["models", "pull"],
    ["policy", "show"],
    ["policy", "check"],
    ["audit", "verify"],
]
WIDE = {"COLUMNS": "200", "NO_COLOR": "1", "TERMINAL_WIDTH": "200"}


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments), env=WIDE)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command: list[str]) -> None:
    text = said(*command, "--help")
    assert text == said(*command, "-h")
    options = [line for line in text.splitlines() if re.match(r"  (-\w, )?--\w", line)]
    assert options
    assert not [line for line in options if not re.search(r"\S  +\S", line.strip())]
    assert not re.search(r"list\[|<(str|int|path|float)", "\n".join(options))


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in (*GROUPS, *LISTS)])
def test_help_tells_the_exit_codes(command: list[str]) -> None:
    assert "Exit codes: 0 " in said(*command, "--help")


def test_the_verbs_are_those_that_exist() -> None:
    text = said("--help")
    listed = re.findall(r"^  (\w+) ", text.partition("Commands:")[2], re.MULTILINE)
    assert tuple(listed) == VERBS
    assert "..." not in text.partition("Commands:")[2]


def test_version() -> None:
    assert re.fullmatch(r"demeanor \d+\.\d+\.\d+\n", said("--version"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay"], "No such command 'replay'"),
        (["up", "--nonsense"], "No such option"),
        (["run"], "Missing option '--source'"),
        (["push", "a.mp4"], "Missing option '--to'"),
        (["push", "a.mp4", "--to", "x", "--clients", "0"], "--clients"),
        (["push", "a.mp4", "--to", "x", "--speed", "fast"], "--speed"),
        (["evaluate", ".", "--modality", "smell"], "'voice', 'face'"),
        (["up", "--http-port", "http"], "--http-port"),
    ],
)
def test_wrong_use(arguments: list[str], words: str) -> None:
    assert words in said(*arguments, code=2)


@pytest.mark.parametrize("verb", ["doctor", "up"])
def test_ctrl_c_while_modules_load_is_silent(verb: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "services.cli", verb],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.endswith("| typer\n") or "typer._" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == -signal.SIGINT
    assert "Traceback" not in rest
    assert "KeyboardInterrupt" not in rest
