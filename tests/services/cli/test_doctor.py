"""What ``doctor`` prints and the code it leaves."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli.app import app
from services.cli.exits import Exit


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def call(*arguments: str, settings: str = "") -> Result:
        file = tmp_path / "demeanor.toml"
        file.write_text(f'udp_ports = "41300-41399"\n{settings}')
        return CliRunner().invoke(app, ["doctor", "-c", str(file), *arguments])

    return call


def test_a_sound_installation(doctor, tmp_path: Path) -> None:
    result = doctor()
    assert result.exit_code == Exit.DONE, result.output
    lines = result.stdout.splitlines()
    assert [line[:3] for line in lines[:-1]] == [" ✔ "] * 9
    assert lines[-1] == " Everything is in place."
    assert "embedded" in result.stdout
    assert not list(tmp_path.glob("demeanor/bus-*"))


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (900, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_a_warning_ends_with_what_mends_it(doctor) -> None:
    result = doctor(settings='redis_url = "memory://"')
    assert result.exit_code == 1
    (at,) = (n for n, line in enumerate(result.stdout.splitlines()) if line.startswith(" ! "))
    assert "→ raise it: ulimit -n" in result.stdout.splitlines()[at + 1]
    assert "1 warning.  Paste this into a report" in result.stdout


def test_json_for_machines(doctor) -> None:
    result = doctor("--json", "--redact", settings='redis_url = "redis://:secret@127.0.0.1:1"')
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert (told["errors"], told["warnings"]) == (1, 0)
    (broken,) = (each for each in told["findings"] if each["status"] == "error")
    assert (broken["name"], broken["text"]) == ("bus", "(left out)")
    assert "secret" not in result.output


def test_a_wrong_configuration_is_not_examined(doctor) -> None:
    result = doctor(settings="nonsense = 1")
    assert result.exit_code == Exit.USAGE
    assert result.stdout == ""
    assert "'nonsense' is no setting" in result.stderr
