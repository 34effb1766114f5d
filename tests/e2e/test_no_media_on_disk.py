"""0 bytes of media on disk: the kernel tells of every write while calls with a mark are scored.

One server keeps its own bus, another uses a Valkey whose whole memory is then looked through.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
import redis

from tests.e2e.harness import ROOT, Server, children, environment, launch
from tests.e2e.writes import Writes, open_for_writing, watching
from tests.services.valkey import PASSWORD, Valkey

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="watches by Linux's means"),
]
SECONDS = 6
LARGEST_BYTES = 64 * 1024
"""No file and no value may be larger; one second of this call's sound alone is 32 kB."""
_FAST = {"preset": "ultrafast", "bf": "0", "g": "30"}
LONGEST_LIST = 64
"""Members of one list. A tenth of a second of sound has 1600."""
LONGEST_WORD = 400
"""Characters or bytes of one string in a value. A thumbnail in base64 has thousands."""


@dataclass
class Run:
    """What was seen while two calls were scored."""

    writes: Writes
    family: set[int]
    opened: set[str]
    folder: Path
    values: dict[str, list[bytes]]
    """Everything in Valkey, by key."""


def marked_call(path: Path) -> Path:
    """Write a call with a mark: a checkerboard that blinks and a steady tone."""
    with av.open(str(path), "w") as target:
        video = target.add_stream("libx264", rate=30, options=_FAST)
        video.width, video.height, video.pix_fmt = 640, 360, "yuv420p"
        audio = target.add_stream("libopus", rate=48_000, layout="mono")
        board = (np.indices((360, 640)).sum(0) // 40 % 2 * 255).astype(np.uint8)
        for number in range(30 * SECONDS):
            picture = np.stack([board if number % 2 else 255 - board] * 3, axis=-1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            target.mux(video.encode(frame))
        for number in range(50 * SECONDS):
            wave = np.sin(2 * np.pi * 1000 * (number * 960 + np.arange(960)) / 48_000) * 12_000
            sound = av.AudioFrame.from_ndarray(
                wave.astype(np.int16).reshape(1, -1), format="s16", layout="mono"
            )
            sound.sample_rate, sound.pts, sound.time_base = 48_000, number * 960, Fraction(1, 48000)
            target.mux(audio.encode(sound))
        target.mux(video.encode(None))
        target.mux(audio.encode(None))
    return path


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    before = dict(os.environ)
    folder = Path(tempfile.mkdtemp(prefix="dm-"))
    valkey = Valkey().start()
    os.environ |= {
        "TMPDIR": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        clip = marked_call(folder / "call.mkv")
        with watching(folder) as writes:
            yield _publish(folder, clip, valkey, writes)
    finally:
        os.environ.clear()
        os.environ.update(before)
        valkey.close()
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, clip: Path, valkey: Valkey, writes: Writes) -> Run:
    servers: list[Server] = []
    family, opened = {valkey.process.pid}, set[str]()
    try:
        (folder / "password").write_text(PASSWORD)
        shared = [
            *("--redis-url", f"unix://{valkey.socket}"),
            *("--redis-password-file", str(folder / "password")),
        ]
        for name, options in (("own", []), ("shared", shared)):
            (folder / name).mkdir()
            servers.append(launch(folder / name, *options))
        pushing = [_push(server, clip) for server in servers]
        while any(process.poll() is None for process in pushing):
            pids = {server.process.pid for server in servers}
            pids |= {child for pid in pids for child in children(pid)}
            opened |= {path for pid in pids for path in open_for_writing(pid)}
            family |= pids
            time.sleep(0.1)
        assert [process.returncode for process in pushing] == [0, 0]
        values = _values(valkey.url)
    finally:
        codes = [server.stop() for server in servers]
    assert codes == [0, 0]
    (folder / "control").write_text("seen")
    deadline = time.monotonic() + 10
    while not any(path == str(folder / "control") for _, path in writes.seen):
        assert time.monotonic() < deadline, "the watch sees nothing"
        time.sleep(0.05)
    return Run(writes, family, opened, folder, values)


def _push(server: Server, clip: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli", "push", str(clip), "--to", server.whip("marked")],
        cwd=ROOT,
        env=environment(server.runtime),
        stdout=subprocess.DEVNULL,
    )


def _values(url: str) -> dict[str, list[bytes]]:
    """Return all that a Redis holds."""
    client = redis.Redis.from_url(url)
    readers = {
        "string": lambda key: [client.get(key)],
        "stream": lambda key: [part for _, row in client.xrange(key) for part in row.values()],
        "hash": lambda key: [part for pair in client.hgetall(key).items() for part in pair],
        "list": lambda key: client.lrange(key, 0, -1),
        "set": lambda key: list(client.smembers(key)),
        "zset": lambda key: client.zrange(key, 0, -1),
    }
    try:
        return {key.decode(): readers[client.type(key).decode()](key) for key in client.scan_iter()}
    finally:
        client.close()


def allowed(run: Run, path: str) -> bool:
    """Tell whether a file is one of the few that the product keeps: logs, locks, the audit."""
    if path in {str(run.folder / name / "server.log") for name in ("own", "shared")}:
        return True  # where this test sends what the servers say
    if Path(path).is_relative_to(run.folder / "state" / "demeanor" / "audit"):
        return True
    runtime = [run.folder / name / "demeanor" for name in ("own", "shared")]
    runtime += [path for path in run.folder.iterdir() if path.name.startswith("demeanor")]
    inside = [Path(path).relative_to(each) for each in runtime if Path(path).is_relative_to(each)]
    return any(
        each.suffix == ".lock" or (each.parts[0].startswith("bus-") and each.name == "server.log")
        for each in inside
    )


def test_no_file_is_written_but_the_few(run: Run) -> None:
    written = run.writes.of(run.family)
    if not run.writes.everywhere:  # who wrote is not known: leave out what this test wrote itself
        written.pop(str(run.folder / "control"), None)
    assert [path for path in written if not allowed(run, path)] == []
    assert [path for path in run.opened if not allowed(run, path)] == []
    assert max(written.values(), default=0) <= LARGEST_BYTES


def test_what_is_left_is_text(run: Run) -> None:
    """The call is there as the file that was published, and nowhere else."""
    left = [path for path in run.folder.rglob("*") if path.is_file() and path.name != "call.mkv"]
    assert left
    for path in left:
        assert path.stat().st_size <= LARGEST_BYTES
        assert all(each.isprintable() or each in "\n\t" for each in path.read_text("utf-8"))


def words(value: object) -> Iterator[str | bytes]:
    match value:
        case dict():
            for key, inside in value.items():
                yield key
                yield from words(inside)
        case list():
            assert len(value) <= LONGEST_LIST
            for inside in value:
                yield from words(inside)
        case str() | bytes():
            yield value


def test_redis_holds_events_and_nothing_like_media(run: Run) -> None:
    values = [value for each in run.values.values() for value in each]
    assert any(b"window." in value for value in values), "the call was scored"
    for value in values:
        assert len(value) <= LARGEST_BYTES
        assert b"\xff\xd8\xff" not in value
        assert all(len(word) <= LONGEST_WORD for word in words(read(value)))


def read(value: bytes) -> object:
    """Return what a value says: JSON, MessagePack or a word."""
    if value[:1] in (b"{", b"["):
        return json.loads(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return msgspec.msgpack.decode(value)
