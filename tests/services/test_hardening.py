"""The real command leaves no image of its memory on disk, and shows it to no other process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

_LOOK = """
import ctypes, json, os, subprocess, sys
from pathlib import Path
from tests.e2e.harness import children, launch

# Root may look at everything, so this process and what it starts give up root's privileges.
libc = ctypes.CDLL(None)
if os.getuid() == 0:
    libc.prctl(28, 1, 0, 0, 0)  # PR_SET_SECUREBITS, SECBIT_NOROOT
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())

def shows(pid):
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except PermissionError:
        return False

def core(pid):
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line[26:].split()[:2] for line in lines if line.startswith("Max core"))

other = subprocess.Popen(["sleep", "60"])
server = launch(Path(sys.argv[1]))
family = {"up": server.process.pid}
for pid in children(server.process.pid):
    words = Path(f"/proc/{pid}/cmdline").read_text()
    family["decoder" if "confined" in words else "bus"] = pid
told = {name: (core(pid), shows(pid)) for name, pid in family.items()}
told["other"] = (core(other.pid), shows(other.pid))
other.kill()
other.wait()
told["code"] = server.stop()
print(json.dumps(told))
"""


def test_no_image_of_memory_and_nobody_looks_in(tmp_path: Path) -> None:
    import json

    done = subprocess.run(
        [sys.executable, "-c", _LOOK, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("code") == 0
    _, other_shows = told.pop("other")
    assert other_shows, "a plain process can be looked into here"
    nothing = ["0", "0"]
    assert told["up"] == [nothing, False]
    assert told["decoder"] == [nothing, False]
    assert told["bus"][0] == nothing
