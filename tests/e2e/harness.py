"""A real server process on 127.0.0.1, and the command run to its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "services" / "web" / "sample.webm"
START_S = 40
QUIET = ["--http-port=0", "--ws-port=0", "--json", "--no-open"]


@dataclass
class Server:
    """One `demeanor up` and where it listens."""

    process: subprocess.Popen[str]
    http: str
    events: str
    runtime: Path

    def whip(self, stream: str) -> str:
        return f"{self.http}/whip/{stream}"

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.over()

    def over(self) -> int:
        """Wait for the end of a process that was told to end."""
        code = self.process.wait(timeout=40)
        if self.process.stdout:
            self.process.stdout.close()
        return code


def environment(runtime: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DEMEANOR_")}
    return {**kept, "HOME": str(runtime), "XDG_RUNTIME_DIR": str(runtime), "NO_COLOR": "1"}


def demeanor(
    *arguments: str, runtime: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        cwd=ROOT,
        env=environment(runtime),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def launch(runtime: Path, *arguments: str) -> Server:
    """Start `demeanor up` on free ports and wait until it says where it listens."""
    log = (runtime / "server.log").open("a")
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "up", *QUIET, *arguments],
        cwd=ROOT,
        env=environment(runtime),
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    log.close()
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(timeout=START_S)
        pytest.fail(f"the server did not start:\n{(runtime / 'server.log').read_text()[-4000:]}")
    ready = json.loads(line)
    return Server(process, ready["http"], ready["events"], runtime)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
