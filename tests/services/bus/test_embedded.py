"""The server of our own: private, restarted when it dies, gone when its parent is."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import BusError, UsageError
from services.bus import binary, runtime
from services.bus.binary import Binary
from services.bus.embedded import EmbeddedServer
from services.bus.redis import RedisBus
from services.bus.runtime import AlreadyRunning, InstanceLock
from tests.services.events import KEY, records

CHILD = """
import asyncio, sys
from pathlib import Path
from services.bus import binary
from services.bus.embedded import EmbeddedServer

async def main():
    async with EmbeddedServer(binary.find(), base=Path(sys.argv[1]), guard=sys.argv[2]) as server:
        print(server.pid, server.folder, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def base(tmp_path):
    path = Path("/tmp") / f"dmt-{os.getpid()}-{tmp_path.name[-1]}"
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


def children(pid):
    """Return ids of processes whose parent is ``pid``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.parent.name))
    return found


async def gone(pid):
    """Return when process ``pid`` no longer runs."""
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("guard", ["signal", "pipe"])
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
async def test_server_is_gone_when_its_parent_is_killed(base, guard, blow):
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(base), guard, stdout=asyncio.subprocess.PIPE
    )
    line = await asyncio.wait_for(parent.stdout.readline(), 20)
    pid, folder = line.decode().split()
    family = [int(pid), *children(int(pid))]
    assert len(family) == (2 if guard == "pipe" else 1)
    parent.send_signal(blow)
    await parent.wait()
    async with asyncio.timeout(5):
        for member in family:
            await gone(member)
    assert Path(folder).exists()
    async with EmbeddedServer(binary.find(), base=base):
        assert not Path(folder).exists(), "the next start sweeps what a killed parent left"


async def test_it_serves_and_nobody_else_gets_in(base):
    async with EmbeddedServer(binary.find(), base=base) as server:
        async with RedisBus.at(server.url, server.password) as bus:
            await bus.append(KEY, records(0, 3))
            assert (await bus.last(KEY)).header.seq == 3
        with pytest.raises(UsageError):
            async with RedisBus.at(server.url):
                pass
        folder, pid = server.folder, server.pid
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert server.password not in Path(f"/proc/{pid}/cmdline").read_text()
        assert server.password not in Path(f"/proc/{pid}/environ").read_text()
        assert not [
            path
            for path in folder.iterdir()
            if path.is_file() and server.password in path.read_text()
        ], "the password lies on no disk"
        tcp = Path(f"/proc/{pid}/net/tcp").read_text()
        inodes = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        assert not [
            line for line in tcp.splitlines()[1:] if f"socket:[{line.split()[9]}]" in inodes
        ], "no TCP port is open"
    await gone(pid)
    assert not folder.exists()


@pytest.mark.parametrize("guard", ["signal", "pipe"])
async def test_a_server_that_dies_is_started_again(base, guard):
    async with (
        EmbeddedServer(binary.find(), base=base, guard=guard) as server,
        RedisBus.at(server.url, server.password) as bus,
        bus.subscribe() as feed,
    ):
        await feed.add(KEY)
        await bus.append(KEY, records(0, 0))
        first = server.pid
        os.kill((children(first) or [first])[0], signal.SIGKILL)
        items = aiter(feed)
        seen = [await asyncio.wait_for(anext(items), 10) for _ in range(2)]
        assert type(seen[1]).__name__ == "Reconnected"
        assert server.pid != first
        await bus.append(KEY, records(0, 1), restart=True)
        assert (await bus.last(KEY)).header.seq == 1


async def test_a_program_that_does_not_come_up(base):
    broken = Binary(Path("/bin/false"), "valkey", "9.1.2")
    with pytest.raises(BusError, match=r"valkey 9\.1 did not come up .*DEMEANOR_REDIS_URL"):
        async with EmbeddedServer(broken, base=base):
            pass
    assert list(base.iterdir()) == []


async def test_only_the_main_thread_may_start_it(base):
    def start():
        asyncio.run(EmbeddedServer(binary.find(), base=base).__aenter__())

    with pytest.raises(UsageError, match="main thread"):
        await asyncio.to_thread(start)


def script(path, text):
    path.write_text(f"#!/bin/sh\necho '{text}'\n")
    path.chmod(0o700)


def test_a_program_on_path_that_is_new_enough_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    script(tmp_path / "redis-server", "Redis server v=7.4.1 sha=00000000:0 malloc=x bits=64")
    assert binary.find() == Binary(tmp_path / "redis-server", "redis", "7.4.1")


def test_a_program_on_path_that_is_too_old_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    script(tmp_path / "redis-server", "Redis server v=6.2.14 sha=00000000:0 malloc=x bits=64")
    script(tmp_path / "valkey-server", "nothing of the kind")
    assert binary.find().name == "valkey 9.1"
    assert binary.inspect(tmp_path / "valkey-server") is None


def test_second_instance_is_told_about_the_first(base):
    with InstanceLock("8080-8081", note="http://localhost:8080", base=base):
        with pytest.raises(AlreadyRunning) as refused, InstanceLock("8080-8081", base=base):
            pass
        with InstanceLock("9080-9081", base=base) as moved:
            moved.tell("http://localhost:9090, a longer note than before")
            moved.tell("http://localhost:9091")
            with pytest.raises(AlreadyRunning, match="at http://localhost:9091:"):
                InstanceLock("9080-9081", base=base).__enter__()
        with InstanceLock("9080-9081", base=base):
            pass
    assert refused.value.pid == os.getpid()
    assert "http://localhost:8080" in str(refused.value)
    with InstanceLock("8080-8081", base=base):
        pass


def test_lock_is_free_when_its_holder_was_killed(base):
    code = (
        "import sys, signal; from pathlib import Path\n"
        "from services.bus.runtime import InstanceLock\n"
        "with InstanceLock('a', base=Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    signal.pause()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, base], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(AlreadyRunning), InstanceLock("a", base=base):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with InstanceLock("a", base=base):
        pass


def test_runtime_folder_that_others_may_enter_is_refused(base):
    base.mkdir()
    base.chmod(0o755)
    with pytest.raises(UsageError, match="only you can enter"):
        runtime.folder(base)


def test_runtime_folder_follows_the_session(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "_LONGEST_SOCKET_PATH", 10_000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime.folder() == tmp_path / "demeanor"
