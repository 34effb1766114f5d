"""The explain process as the service holds it: real child, tiny model."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ModelRefused
from pipeline.explain import labels
from services.explain.options import Options
from services.explain.tier import QUEUE, Limits, Tier
from services.queues import Registry
from tests.services.explain.conftest import question

OPTIONS = Options(thinking=6)
ODD = (sys.executable, str(Path(__file__).with_name("odd_child.py")))
PATIENCE_S = 60


class Rig:
    """A tier, and the answers it delivered."""

    def __init__(self, folder, per_min=3, **more):
        self.queues = Registry()
        self.heard = []
        self.news = asyncio.Event()
        self.tier = Tier(
            folder, OPTIONS, Limits(per_min), deliver=self._deliver, queues=self.queues, **more
        )

    def _deliver(self, asked, answer):
        self.heard.append((asked, answer))
        self.news.set()

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.01)

    @property
    def queue(self):
        (state,) = [each for each in self.queues.statistics() if each.kind.name == "explain"]
        return state

    @property
    def told(self):
        return [(asked.session_id, asked.trigger) for asked, _ in self.heard]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_moment_is_asked_and_answered_and_nothing_is_left_after_closing(exported):
    rig = Rig(exported)
    async with rig.tier as tier:
        pid = tier.pid
        assert tier.identity.count("@") == 1
        assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
        asked = question()
        assert tier.submit(asked)
        await rig.until(lambda: rig.heard)
        ((heard, answer),) = rig.heard
        assert heard is asked
        assert set(answer.labels) == set(labels.MAFW)
        assert answer.thinking is not None
        assert answer.label in (*labels.MAFW, labels.OTHER)
        assert answer.audio == "heard"
        assert tier.statistics() == {
            "running": 1.0,
            "waiting": 0,
            "asked_total": 1,
            "answered_total": 1,
            "failed_total": 0,
            "called_off_total": 0,
            "lost_total": 0,
            "restarts_total": 0,
        }
    assert not alive(pid)
    assert not tier.running
    assert rig.queue.instances == 0


async def test_a_moment_that_cannot_be_judged_fails_alone(exported):
    rig = Rig(exported)
    async with rig.tier as tier:
        tier.submit(question(pictures=0))
        await rig.until(lambda: tier.counts["failed"])
        tier.submit(question("ses_2"))
        await rig.until(lambda: rig.heard)
    assert rig.told == [("ses_2", "alert")]
    assert tier.counts["restarts"] == 0


async def test_the_queue_is_bounded_and_what_is_urgent_goes_first(exported, tmp_path):
    gate = tmp_path / "open"
    rig = Rig(exported, command=(*ODD, "held", str(gate)))
    async with rig.tier as tier:
        assert tier.submit(question("ses_a", "interval"))
        await rig.until(lambda: tier.counts["asked"])
        assert tier.submit(question("ses_b", "interval", 1.0))
        assert tier.submit(question("ses_c", "request", 2.0))
        assert tier.submit(question("ses_d", "alert", 3.0))
        assert not tier.submit(question("ses_d", "interval", 4.0)), "an alert waits"
        assert not tier.submit(question("ses_d", "request", 4.0))
        assert not tier.submit(question("ses_c", "interval", 4.0)), "somebody asked"
        assert not tier.submit(question("ses_e", "interval", 5.0)), "that was three this minute"
        assert tier.submit(question("ses_e", "request", 5.0)), "whom the gateway let pass"
        assert rig.queue.depth == QUEUE
        assert not tier.submit(question("ses_f", "alert", 6.0))
        newer = question("ses_b", "request", 7.0)
        assert tier.submit(newer), "a newer one takes the place of the same session's"
        assert rig.queue.depth == QUEUE
        tier.forget("ses_e")
        assert not tier.submit(question("ses_g", "interval", 8.0))
        assert tier.submit(question("ses_a", "alert", 9.0)), "calls off the one in hand"
        assert rig.queue.dropped == {
            "more_urgent_waits": 3,
            "over_budget": 2,
            "full": 1,
            "superseded": 1,
            "session_over": 1,
        }
        gate.touch()
        await rig.until(lambda: len(rig.heard) == 4)
        assert tier.counts["called_off"] == 1
    assert rig.told == [
        ("ses_d", "alert"),
        ("ses_a", "alert"),
        ("ses_c", "request"),
        ("ses_b", "request"),
    ]
    assert rig.heard[-1][0] is newer


async def test_what_is_in_hand_is_called_off_by_what_is_more_urgent_only(exported, tmp_path):
    """Else a model slower than the clock would never say anything."""
    gate = tmp_path / "open"
    rig = Rig(exported, per_min=9, command=(*ODD, "held", str(gate)))
    async with rig.tier as tier:
        tier.submit(question("ses_a", "interval"))
        await rig.until(lambda: tier.counts["asked"])
        tier.submit(question("ses_a", "interval", 1.0))
        gate.touch()
        await rig.until(lambda: len(rig.heard) == 2)
        gate.unlink()
        tier.submit(question("ses_b", "request", 2.0))
        await rig.until(lambda: tier.counts["asked"] == 3)
        tier.forget("ses_b")
        gate.touch()
        await rig.until(lambda: tier.counts["called_off"])
    assert rig.told == [("ses_a", "interval")] * 2


async def test_a_killed_process_is_started_again_and_its_question_is_counted(exported, tmp_path):
    gate = tmp_path / "open"
    rig = Rig(exported, command=(*ODD, "held", str(gate)))
    async with rig.tier as tier:
        before = tier.pid
        tier.submit(question("ses_a"))
        await rig.until(lambda: tier.counts["asked"])
        tier.submit(question("ses_b"))
        os.kill(before, signal.SIGKILL)
        gate.touch()
        await rig.until(lambda: rig.heard)
        assert rig.told == [("ses_b", "alert")], "what waited is asked of the next"
        assert (tier.counts["lost"], tier.counts["restarts"]) == (1, 1)
        assert tier.running
        assert tier.pid != before
        assert not alive(before)


async def test_a_process_that_dies_idle_is_started_again_before_anybody_asks(exported):
    rig = Rig(exported)
    async with rig.tier as tier:
        os.kill(tier.pid, signal.SIGKILL)
        await rig.until(lambda: tier.counts["restarts"])
        tier.submit(question())
        await rig.until(lambda: rig.heard)
    assert (tier.counts["lost"], tier.counts["restarts"]) == (0, 1)


async def test_a_process_that_cannot_start_again_is_tried_until_it_can(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    rig = Rig(folder)
    async with rig.tier as tier:
        (folder / "gate.onnx").rename(tmp_path / "away")
        before = tier.pid
        os.kill(before, signal.SIGKILL)
        await rig.until(lambda: tier.pid not in (before, None))
        tier.submit(question())
        assert rig.queue.depth == 1
        (tmp_path / "away").rename(folder / "gate.onnx")
        await rig.until(lambda: rig.heard)
        assert (tier.counts["lost"], tier.counts["restarts"]) == (0, 1)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "python -m exporters r1omni"),
        (lambda f: (f / "decoder.onnx").write_bytes(b"short"), "is not the file that was exported"),
    ],
)
async def test_a_folder_that_cannot_be_used_is_refused_in_words(exported, tmp_path, spoil, words):
    folder = shutil.copytree(exported, tmp_path / "model")
    spoil(folder)
    rig = Rig(folder)
    with pytest.raises(ModelRefused, match=words):
        await rig.tier.__aenter__()
    assert rig.tier.pid is None
    assert rig.queue.instances == 0


async def test_without_its_library_it_says_how_to_get_it(exported):
    rig = Rig(exported, command=(*ODD, "bare"))
    with pytest.raises(ModelRefused, match=r"needs tokenizers: run 'make explain'"):
        await rig.tier.__aenter__()


PARENT = """
import asyncio, sys
from pathlib import Path
from services.explain.options import Options
from services.explain.tier import Limits, Tier
from services.queues import Registry

async def main():
    tier = Tier(Path(sys.argv[1]), Options(), Limits(1), deliver=print, queues=Registry(),
                command=tuple(sys.argv[2:]))
    opening = asyncio.create_task(tier.__aenter__())
    if "held" in sys.argv:
        await opening
    while tier.pid is None:
        await asyncio.sleep(0.01)
    print(tier.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", [("held", "never"), ("stuck",)], ids=["open", "opening"])
async def test_the_process_does_not_outlive_its_parent(exported, kind):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(exported), *ODD, *kind],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        child = int(await asyncio.to_thread(parent.stdout.readline))
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    async with asyncio.timeout(20):
        while alive(child):
            await asyncio.sleep(0.02)
