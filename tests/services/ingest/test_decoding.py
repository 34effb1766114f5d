"""The decoder's process: what it may do, what its end costs, and that nothing of it stays."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import MediaError
from pipeline.types import AudioChunk, VideoFrame
from services.ingest import decoding as module
from services.ingest.collector import Encoded
from services.ingest.confined import seccomp
from services.ingest.decoder import Decoder
from services.ingest.decoding import MAX_STRIKES, PIECE_FRAMES, Decoding
from services.queues import Registry
from services.settings import Settings
from tests.services.ingest import faulty
from tests.services.ingest.test_decoder import encoded_audio, encoded_video

FAULTY = faulty.__name__
ROOT = Path(__file__).parents[3]
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and filters are Linux's")


@asynccontextmanager
async def running(program=FAULTY, **settings):
    async with Decoding(Registry(), 4, program=program, **settings) as decoding:
        await decoding.ready()
        yield decoding


def order(words, tick=16_000):
    return [Encoded("audio", "opus", tick, faulty.marker(words), True)]


def sound():
    return encoded_audio("opus", 0.5)


async def good(decoding, session="good"):
    decoded = await decoding.decode(session, sound())
    assert not decoded.lost
    assert sum(len(item.samples) for item in decoded.items) > 7_000
    return decoded


def listed(folder):
    return {path.name for path in Path(folder).iterdir()}


async def in_hand(decoding):
    """Wait until the process was given a batch."""
    while decoding._child is None or not decoding._child._expected:
        await asyncio.sleep(0.001)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_it_gives_what_the_decoder_gives():
    batch = encoded_video("VP8", 40) + encoded_audio("opus", 1.3)
    direct = Decoder().decode("s", batch)
    async with running() as decoding:
        decoded = await decoding.decode("s", batch)
    for kind in (AudioChunk, VideoFrame):
        ours = [item for item in decoded.items if isinstance(item, kind)]
        theirs = [item for item in direct.items if isinstance(item, kind)]
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs, strict=True):
            fields = ("start", "samples") if kind is AudioChunk else ("at", "rgb")
            for field in fields:
                assert np.array_equal(getattr(one, field), getattr(other, field))
            array = getattr(one, fields[1])
            assert not array.flags.writeable
            assert array.dtype == getattr(other, fields[1]).dtype
    assert decoded.items[-1] == direct.items[-1]


async def test_damage_is_counted_as_before():
    cut = [Encoded(p.kind, p.codec, p.tick, p.data[:40], p.key) for p in encoded_video("VP8", 6)]
    async with running() as decoding:
        decoded = await decoding.decode("s", cut)
        assert (decoded.corrupt_video, decoded.lost, decoded.hostile) == (6, {}, False)
        assert decoding.statistics().lost_batches == 0


async def test_times_that_are_odd_and_true():
    """A track that falls silent for long comes back; what was held back then is told late."""
    late = encoded_audio("opus", 0.2, first=16_000 * 600)
    async with running() as decoding:
        await decoding.decode("s", sound() + encoded_video("VP8", 5))
        assert (await decoding.decode("s", sound())).corrupt_audio == 25
        decoded = await decoding.decode("s", late)
        assert [item.start for item in decoded.items] == [7_984, 16_000 * 600]
        backwards = encoded_video("VP8", 5, first=9_000)
        await decoding.decode("s", backwards)
        await decoding.decode("s", encoded_video("VP8", 5))
        assert decoding.statistics().ends == {}


async def test_pictures_without_room_are_left_out_and_counted(monkeypatch):
    from services.ingest.confined import wire

    area = np.zeros(3 * 320 * 240 + 10, np.uint8)
    decoded = Decoder().decode("s", encoded_video("VP8", 20))
    told = wire.put(5, decoded, area)
    assert told.crowded == 2
    taken = wire.taken(told, area, encoded_video("VP8", 20))
    assert [item.at for item in taken.items if isinstance(item, VideoFrame)] == [0]
    assert taken.crowded == 2


@linux
async def test_its_limits_are_set():
    async with running(memory_mb=512) as decoding:
        limits = Path(f"/proc/{decoding.pid}/limits").read_text().splitlines()
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{decoding.pid}/status").read_text().splitlines()
        )
        set_to = {line[:26].strip(): line[26:].split()[:2] for line in limits[1:]}
        assert set_to["Max address space"] == [str(512 * 2**20)] * 2
        assert set_to["Max open files"] == ["16", "16"]
        assert set_to["Max core file size"] == ["0", "0"]
        assert set_to["Max file size"] == ["0", "0"]
        assert status["NoNewPrivs"] == "1"
        assert status["Threads"] == "1"
        if seccomp.supported():
            assert status["Seccomp"] == "2"
        names = set(Path(f"/proc/{decoding.pid}/environ").read_bytes().split(b"\0"))
        assert {name.partition(b"=")[0] for name in names} <= {
            *(b"", b"OPENBLAS_NUM_THREADS", b"OMP_NUM_THREADS", b"LD_LIBRARY_PATH"),
        }
        opened = {str(path.readlink()) for path in Path(f"/proc/{decoding.pid}/fd").iterdir()}
        assert {name.split(":")[0] for name in opened} == {"/dev/null", "socket", "/memfd"}


@linux
@pytest.mark.skipif(not seccomp.supported(), reason="no filter for this kind of machine")
async def test_what_it_may_not_do():
    async with running() as decoding:
        refused = {
            what: (await decoding.decode("s", order(f"try {what}"))).corrupt_audio
            for what in faulty.ATTEMPTS
        }
        assert refused == dict.fromkeys(faulty.ATTEMPTS, 1)
        await good(decoding)
        assert decoding.statistics().ends == {}


@linux
async def test_too_much_memory_fails_inside_only():
    async with running(memory_mb=512) as decoding:
        assert (await decoding.decode("s", order("allocate 64"))).corrupt_audio == 0
        assert (await decoding.decode("s", order("allocate 1024"))).corrupt_audio == 1
        await good(decoding)
        assert decoding.statistics().ends == {}


async def test_too_little_memory_to_start_is_said(monkeypatch):
    monkeypatch.setattr(module, "START_S", 1.0)
    settings = Settings(decoder_memory_mb=256).model_copy(update={"decoder_memory_mb": 1})
    with pytest.raises(MediaError, match="decoder_memory_mb"):
        async with Decoding.open(settings, Registry()):
            pytest.fail("it cannot have started")


@pytest.mark.parametrize("fault", ["abort", "segfault", "raise"])
async def test_a_crash_loses_the_batch_and_the_second_ends_the_session(fault):
    renewed = []
    async with running() as decoding:
        decoding.watch("good", lambda: renewed.append("good"))
        await good(decoding)
        first = await decoding.decode("bad", order(fault, 800))
        assert (first.items, dict(first.lost), first.hostile) == ((), {"audio": (800, 801)}, False)
        await good(decoding)
        assert renewed == ["good"]
        second = await decoding.decode("bad", order(fault))
        assert second.hostile
        await good(decoding)
        told = decoding.statistics()
        assert (told.running, told.restarts, told.ends) == (True, 2, {"crashed": 2})
        assert told.lost_batches == 2
        third = await decoding.decode("bad", order(fault))  # it is not even tried
        assert third.hostile
        assert decoding.statistics().restarts == 2
        await decoding.forget("bad")
        await good(decoding, "bad")


async def test_what_was_decoded_before_the_crash_is_kept():
    frames = encoded_video("VP8", PIECE_FRAMES, size=(320, 180))
    cursed = encoded_video("VP8", 4, size=faulty.CURSED, first=PIECE_FRAMES)
    async with running() as decoding:
        decoded = await decoding.decode("s", sound() + frames + cursed)
        assert [item.at for item in decoded.items if isinstance(item, VideoFrame)] == [
            0,
            4267,
            8000,
        ]
        assert dict(decoded.lost) == {"video": (cursed[0].tick, cursed[-1].tick + 1)}


async def test_being_killed_by_others_is_nobodys_fault():
    async with running() as decoding:
        for number in range(MAX_STRIKES + 1):
            busy = asyncio.create_task(decoding.decode("s", order("spin 60")))
            await in_hand(decoding)
            os.kill(decoding.pid, signal.SIGKILL)
            decoded = await busy
            assert decoded.lost
            assert not decoded.hostile
            await good(decoding)
            assert decoding.statistics().restarts == number + 1
        assert set(decoding.statistics().ends) == {"killed"}


@pytest.mark.parametrize(("held_up", "to_blame"), [("stopped", False), ("spinning", True)])
async def test_a_hang_ends_at_the_deadline(monkeypatch, held_up, to_blame):
    monkeypatch.setattr(module, "DEADLINE_S", 0.6)
    async with running() as decoding:
        hung = decoding.pid
        if held_up == "stopped":
            os.kill(hung, signal.SIGSTOP)
            decoded = await decoding.decode("s", sound())
        else:
            decoded = await decoding.decode("s", order("spin 60"))
        assert decoded.lost
        monkeypatch.setattr(module, "DEADLINE_S", 30.0)
        await good(decoding)
        assert decoding.statistics().ends == {"late": 1}
        assert decoding._strikes["s"] == to_blame
        assert gone(hung)


async def test_no_lie_is_believed_and_none_hurts():
    async with running() as decoding:
        for number, what in enumerate(faulty.LIES, 1):
            decoded = await decoding.decode(what, order(f"lie {what}"))
            if what == "an answer too many":  # the first was true
                while decoding.statistics().restarts < number:
                    await asyncio.sleep(0.01)
            else:
                assert decoded.lost, what
            assert decoded.items == ()
            await good(decoding)
        assert decoding.statistics().ends == {"lied": len(faulty.LIES)}


async def test_an_answer_nobody_waits_for_any_longer_is_dropped():
    async with running() as decoding:
        task = asyncio.create_task(decoding.decode("a", order("spin 0.2")))
        await in_hand(decoding)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        decoded = await good(decoding)
        assert decoded.corrupt_audio == 0
        assert decoding.statistics().ends == {}


async def test_many_sessions_at_once_get_their_own():
    async with running() as decoding:
        batches = {
            f"s{number}": encoded_audio("opus", 0.2, first=number * 16_000) for number in range(8)
        }
        answers = await asyncio.gather(
            *(decoding.decode(name, batch) for name, batch in batches.items())
        )
        starts = [decoded.items[0].start for decoded in answers]
        assert starts == [number * 16_000 for number in range(8)]


async def test_the_queue_is_registered_while_it_runs():
    registry = Registry()
    async with Decoding(registry, 2) as decoding:
        await good(decoding)
        await decoding.forget("good")
        (queue,) = registry.statistics()
        assert (queue.kind.name, queue.depth, queue.instances) == ("decoder_batches", 0, 1)
    (queue,) = registry.statistics()
    assert queue.instances == 0


@linux
async def test_nothing_stays():
    async with running() as decoding:  # whatever is made once in a process is made now
        os.kill(decoding.pid, signal.SIGKILL)
    files, shared = listed("/proc/self/fd"), listed("/dev/shm")
    pids = set()
    async with running() as decoding:
        for _ in range(3):
            pids.add(decoding.pid)
            os.kill(decoding.pid, signal.SIGKILL)
            while decoding.pid in pids or decoding.pid is None:
                await asyncio.sleep(0.01)
            await good(decoding)
        pids.add(decoding.pid)
    assert len(pids) == 4
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)
    assert len(listed("/proc/self/fd")) == len(files)
    assert listed("/dev/shm") <= shared


async def test_a_spare_takes_over(monkeypatch):
    monkeypatch.setattr(module, "SPARE_AFTER_S", 0.0)
    async with running() as decoding:
        while decoding._spare is None:
            await asyncio.sleep(0.01)
        spare = decoding._spare.pid
        os.kill(decoding.pid, signal.SIGKILL)
        while decoding.statistics().restarts == 0:
            await asyncio.sleep(0.01)
        assert decoding.pid == spare
        await good(decoding)
        while decoding._spare is None:
            await asyncio.sleep(0.01)
        idle = decoding._spare.pid
        os.kill(idle, signal.SIGKILL)  # a spare may die as well
        while not gone(idle):
            await asyncio.sleep(0.01)
        os.kill(decoding.pid, signal.SIGKILL)
        while decoding.statistics().restarts == 1:
            await asyncio.sleep(0.01)
        await good(decoding)
        assert decoding.pid not in {spare, idle}


_PARENT = """
import asyncio
from tests.services.ingest.test_decoding import order, running

async def main():
    async with running() as decoding:
        busy = asyncio.create_task(decoding.decode("s", order("spin 3600")))
        await asyncio.sleep(0.1)
        print(decoding.pid, flush=True)
        await busy

asyncio.run(main())
"""


@linux
def test_it_dies_with_its_parent_even_when_busy():
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 2
        while not gone(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
