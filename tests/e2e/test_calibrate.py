"""``demeanor calibrate`` measures with real publishers and leaves its result, nothing else."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, children, demeanor, environment, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose state and temporary files are the test's own."""
    for name in ("XDG_STATE_HOME", "TMPDIR"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def kept(home: Path) -> list[dict[str, object]]:
    path = home / "xdg_state_home" / "demeanor" / "calibration.json"
    return list(json.loads(path.read_bytes()).values()) if path.exists() else []


def test_it_measures_and_keeps_the_number(home: Path) -> None:
    done = demeanor("calibrate", "--seconds", "10", "--max", "1", "--json", runtime=home)
    if done.returncode == 1 and "run well now" in done.stderr:
        pytest.skip(f"this machine is too busy to hold one stream now: {done.stdout}")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["round", "calibrated"]
    assert lines[0]["streams"] == lines[1]["max_streams"] == 1
    assert lines[0]["windows"] > 0
    assert [entry["max_streams"] for entry in kept(home)] == [1]
    assert not list((home / "tmpdir").glob("demeanor-*/*"))


def test_an_interrupt_leaves_nothing_behind(home: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "calibrate", "--seconds", "60"],
        cwd=ROOT,
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: len(children(running.pid)) == 2, 60)  # a server and its publishers
        started = children(running.pid)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=90) == 130
    finally:
        running.kill()
        running.communicate()
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert kept(home) == []
    assert not list((home / "tmpdir").glob("demeanor-*/*"))
