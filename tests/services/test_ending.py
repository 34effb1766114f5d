"""How a process is ended: hard, soft, by a part that died, and against whatever hangs."""

import asyncio
import signal
import subprocess
import sys

import pytest

from pipeline.scorer import OrtScorer
from services import ending as ending_module
from services.app import open_doors, serve
from services.cli.exits import Exit, code_of
from services.ending import Died, Ending, Watch
from services.process import Process
from services.settings import Settings
from tests.e2e.harness import ROOT, environment


async def test_a_hard_end_waits_for_nobody():
    ending = Ending()
    ending.hard()
    async with asyncio.timeout(20):
        await ending.begun()
        await ending.patience(lambda: 3)
    assert ending.asked
    assert ending.died is None


async def test_a_soft_end_waits_until_nothing_runs(monkeypatch):
    monkeypatch.setattr(ending_module, "WATCH_S", 0.01)
    ending, live = Ending(), [1, 1]
    ending.soft(3600)
    ending.soft(1)  # the first one counts
    assert ending.soft_s == 3600
    waiting = asyncio.create_task(ending.patience(lambda: len(live)))
    live.pop()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    live.pop()
    async with asyncio.timeout(20):
        await waiting


async def test_a_soft_end_has_an_end():
    ending = Ending()
    ending.soft(0)
    async with asyncio.timeout(20):
        await ending.patience(lambda: 1)


async def test_a_signal_makes_a_soft_end_hard():
    ending = Ending()
    ending.soft(3600)
    waiting = asyncio.create_task(ending.patience(lambda: 1))
    await asyncio.sleep(0)
    ending.hard()
    async with asyncio.timeout(20):
        await waiting


async def test_a_part_that_dies_ends_it_and_says_which(monkeypatch):
    monkeypatch.setattr(ending_module, "WATCH_S", 0.01)
    ending, well = Ending(), {"one": True, "two": True}
    parts = {name: lambda name=name: well[name] for name in well}
    async with Watch(ending, parts):
        await asyncio.sleep(0.05)
        assert not ending.asked
        well["two"] = False
        async with asyncio.timeout(20):
            await ending.begun()
    assert ending.died == "two"


async def test_what_ends_while_it_drains_is_no_fault():
    ending = Ending()
    ending.hard()
    ending.fail("the hub")
    assert ending.died is None


def test_a_server_without_a_vital_part_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(ending_module, "WATCH_S", 0.01)
    monkeypatch.setattr(Process, "vital", lambda self: {"the hub": lambda: False})
    settings = Settings(
        http_port=0, ws_port=0, udp_ports=(41500, 41599), redis_url="memory://", audit=tmp_path
    )
    ended, doors = [], open_doors(settings)
    with pytest.raises(Died, match="the hub has ended") as died:
        asyncio.run(serve(settings, doors, OrtScorer.open(), lambda _: None, ended.append))
    doors.close()
    assert code_of(died.value) == Exit.FAILED
    assert ended == [0]


@pytest.mark.parametrize("hangs", [True, False])
def test_whatever_hangs_does_not_keep_the_process(hangs):
    """A thread in a model cannot be ended; Python would wait for it for ever."""
    wait = "threading.Thread(target=threading.Event().wait).start()" if hangs else ""
    code = f"""
import sys, threading
from services.cli import __main__ as entry
from services.cli import app
entry._THREADS_END_S = 0.2
{wait}
def ends():
    sys.exit(7)
app.app = ends
entry.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7
    assert ("something hangs" in done.stderr) is hangs


def test_a_second_signal_ends_it_at_once(tmp_path):
    """… by that signal's own means: 143 or 130 in a shell."""
    code = """
import asyncio, sys
from services.process import Process
async def hang(self):
    print("draining", flush=True)
    await asyncio.Event().wait()
Process.drain = hang
sys.argv = ["demeanor", "up", "--http-port=0", "--ws-port=0", "--json", "--no-open"]
sys.argv += ["--redis-url=memory://"]
from services.cli.__main__ import main
main()
"""
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert '"ready"' in running.stdout.readline()
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == "draining\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) == -signal.SIGINT
    finally:
        running.kill()
        running.communicate()
