"""The scoring loop with a scorer that tests hold still: order, deadlines, faults, closing."""

import asyncio
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest

from pipeline.types import Job, Outcome, SlotReading, Window
from services.queues import Registry
from services.scorer.loop import (
    CLOSE_PATIENCE_S,
    HANG_S,
    HANG_WINDOW_S,
    QUEUE_BOUND,
    SICK_BATCHES,
    ScoringLoop,
)


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self):
        self.now = 100.0

    def wall_ms(self):
        return 0

    def monotonic_s(self):
        return self.now


class Held:
    """A scorer whose batches wait for :meth:`let_go`, on the worker thread."""

    def __init__(self, *, held=False):
        self.batches = []
        self.forgotten = []
        self.threads = set()
        self.poison = frozenset()
        self.raises = False
        self._gate = threading.Event()
        if not held:
            self._gate.set()

    def hold(self):
        self._gate.clear()

    def let_go(self):
        self._gate.set()

    def score(self, batch):
        self.threads.add(threading.current_thread().name)
        assert self._gate.wait(30)
        self.batches.append([(job.session_id, job.window.index) for job in batch.jobs])
        if self.raises or self.poison & {job.session_id for job in batch.jobs}:
            raise RuntimeError("the graph fell over")
        return [
            Outcome(job.session_id, job.window.index, None, None, None, self._failure(job))
            for job in reversed(batch.jobs)
        ]

    def _failure(self, job):
        return "bad_output" if job.session_id == "bad" else None

    def forget(self, session_ids):
        self.forgotten += session_ids


class Answers:
    """What came back, and a way to wait for so many."""

    def __init__(self):
        self.got = []
        self._changed = asyncio.Event()

    def __call__(self, job, result, timing):
        self.got.append((job.session_id, job.window.index, result, timing))
        self._changed.set()

    def results(self):
        return {(s, i): r if isinstance(r, str) else "scored" for s, i, r, _ in self.got}

    async def wait(self, count):
        async with asyncio.timeout(20):
            while len(self.got) < count:
                self._changed.clear()
                await self._changed.wait()
        assert len(self.got) == count


def job(session="a", index=0, at=100.0):
    return Job(session, Window(index, None, (), ()), at, at)


@asynccontextmanager
async def opened(scorer, clock, **settings):
    settings = {"max_delay_s": 0.0} | settings
    try:
        async with ScoringLoop(scorer, clock, **settings) as loop:
            yield loop
            scorer.let_go()
    finally:
        scorer.let_go()


async def busy(loop, scorer):
    """Occupy the worker with one window of a session of its own."""
    scorer.hold()
    answers = Answers()
    loop.submit(job("busy"), answers)
    async with asyncio.timeout(20):
        while not loop.statistics().in_flight:
            await asyncio.sleep(0)
    return answers


async def test_a_live_window_is_answered_once_with_its_times():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        clock.now = 100.25
        loop.submit(job(at=100.0), answers)
        assert answers.got == []
        await answers.wait(1)
    session_id, index, outcome, timing = answers.got[0]
    assert (session_id, index, outcome.failure) == ("a", 0, None)
    assert (timing.age_ms, timing.queue_ms, timing.score_ms) == (250, 250, 0)
    assert scorer.threads == {"scorer_0"}


async def test_windows_that_came_while_one_was_scored_share_a_batch():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        first = await busy(loop, scorer)
        for session in "abc":
            loop.submit(job(session), answers)
        scorer.let_go()
        await answers.wait(3)
        await first.wait(1)
    assert scorer.batches == [[("busy", 0)], [("a", 0), ("b", 0), ("c", 0)]]
    assert loop.statistics().batches == 2


async def test_only_the_two_newest_of_a_session_wait():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        await busy(loop, scorer)
        for index in range(4):
            loop.submit(job("a", index), answers)
        await answers.wait(2)
        assert answers.results() == {("a", 0): "superseded", ("a", 1): "superseded"}
        scorer.let_go()
        await answers.wait(4)
    assert answers.results()[("a", 3)] == "scored"
    assert loop.statistics().skipped["superseded"] == 2


async def test_a_window_gets_stale_while_the_scorer_hangs():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock, max_age_ms=30) as loop:
        await busy(loop, scorer)
        loop.submit(job("a", 0, at=100.0), answers)
        clock.now = 100.031
        await answers.wait(1)
        assert answers.results() == {("a", 0): "stale"}
        assert answers.got[0][3].age_ms == 31
    assert loop.statistics().skipped["stale"] == 1


async def test_a_window_that_is_stale_on_arrival_is_answered_too():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        loop.submit(job(at=90.0), answers)
        await answers.wait(1)
    assert answers.results() == {("a", 0): "stale"}


async def test_files_are_never_skipped_and_share_batches_with_live_windows():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock, max_batch=2) as loop:
        await busy(loop, scorer)
        files = [asyncio.create_task(loop.score(job("f", index, at=0.0))) for index in range(8)]
        loop.submit(job("a"), answers)
        await asyncio.sleep(0)
        assert loop.statistics().files_waiting == 4  # room for two batches, the rest waits outside
        scorer.let_go()
        done = await asyncio.gather(*files)
        await answers.wait(1)
    assert [outcome.index for outcome, _ in done] == list(range(8))
    assert ["f" in dict(batch) for batch in scorer.batches[1:]] == [True] * 8
    assert ("a", 0) in scorer.batches[1]


async def test_a_bad_window_is_a_failure_of_its_own():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        await busy(loop, scorer)
        for session in ("a", "bad"):
            loop.submit(job(session), answers)
        scorer.let_go()
        await answers.wait(2)
    assert answers.results() == {("a", 0): "scored", ("bad", 0): "bad_output"}
    assert loop.statistics().failures == {"bad_output": 1}


async def test_a_window_that_fells_the_scorer_is_found_and_the_others_are_scored():
    clock, scorer, answers = Clock(), Held(), Answers()
    scorer.poison = {"evil"}
    async with opened(scorer, clock) as loop:
        await busy(loop, scorer)
        for session in ("a", "evil", "b"):
            loop.submit(job(session), answers)
        scorer.let_go()
        await answers.wait(3)
        assert answers.results() == {("a", 0): "scored", ("evil", 0): "poison", ("b", 0): "scored"}
        loop.submit(job("a", 1), answers)
        await answers.wait(4)
    assert loop.statistics().lost_batches == 1


async def test_a_window_that_fells_the_scorer_twice_is_never_tried_again():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        scorer.raises = True
        loop.submit(job("a"), answers)
        await answers.wait(1)
        scorer.raises = False
        loop.submit(job("a", 1), answers)
        await answers.wait(2)
        assert scorer.batches == [[("a", 0)], [("a", 0)], [("a", 1)]]
    assert answers.results() == {("a", 0): "poison", ("a", 1): "scored"}


async def test_an_outcome_that_is_missing_is_bad_output():
    clock, scorer, answers = Clock(), Held(), Answers()
    scorer.score = lambda batch: []
    async with opened(scorer, clock) as loop:
        loop.submit(job(), answers)
        await answers.wait(1)
    assert answers.results() == {("a", 0): "bad_output"}


async def test_an_owner_that_raises_harms_nobody_else():
    clock, scorer, answers = Clock(), Held(), Answers()

    def broken(job, result, timing):
        raise RuntimeError("an owner's fault")

    async with opened(scorer, clock) as loop:
        await busy(loop, scorer)
        loop.submit(job("a"), broken)
        loop.submit(job("b"), answers)
        scorer.let_go()
        await answers.wait(1)
    assert loop.statistics().callback_errors == 1


async def test_a_session_that_ends_is_answered_and_forgotten_on_the_worker():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        first = await busy(loop, scorer)
        loop.submit(job("a"), answers)
        loop.forget("a")
        assert answers.results() == {("a", 0): "draining"}
        scorer.let_go()
        await first.wait(1)
        await loop.score(job("b"))
        assert scorer.forgotten == ["a"]
        loop.forget("b")
        await loop.score(job("c"))
    assert scorer.forgotten == ["a", "b"]


async def test_a_file_that_gives_up_takes_its_window_along():
    clock, scorer = Clock(), Held()
    async with opened(scorer, clock) as loop:
        await busy(loop, scorer)
        file = asyncio.create_task(loop.score(job("f")))
        await asyncio.sleep(0)
        assert loop.statistics().files_waiting == 1
        file.cancel()
        with pytest.raises(asyncio.CancelledError):
            await file
        assert loop.statistics().waiting == 0
        scorer.let_go()
        assert await loop.score(job("g"))
    assert [("f", 0)] not in scorer.batches


async def test_closing_answers_everything_that_waits_and_what_comes_after():
    clock, scorer, answers = Clock(), Held(), Answers()
    loop = ScoringLoop(scorer, clock, max_delay_s=0.0)
    async with loop:
        first = await busy(loop, scorer)
        loop.submit(job("a"), answers)
        file = asyncio.create_task(loop.score(job("f")))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(scorer.let_go)
    assert first.results() == {("busy", 0): "scored"}
    assert answers.results() == {("a", 0): "draining"}
    assert (await file)[0] == "draining"
    loop.submit(job("late"), answers)
    await answers.wait(2)
    assert (await loop.score(job("late", 1)))[0] == "draining"
    assert loop.statistics().skipped["draining"] == 4


async def test_closing_does_not_wait_for_a_scorer_that_hangs(monkeypatch):
    monkeypatch.setattr("services.scorer.loop.CLOSE_PATIENCE_S", 0.0)
    assert CLOSE_PATIENCE_S > 0
    clock, scorer = Clock(), Held()
    async with ScoringLoop(scorer, clock, max_delay_s=0.0) as loop:
        first = await busy(loop, scorer)
    scorer.let_go()
    assert first.results() == {("busy", 0): "scorer_lost"}


async def test_a_window_waits_for_company_no_longer_than_asked():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock, max_delay_s=0.005) as loop:
        loop.submit(job("a"), answers)
        loop.submit(job("b"), answers)
        clock.now = 100.005
        await answers.wait(2)
    assert scorer.batches == [[("a", 0), ("b", 0)]]


async def test_the_queue_is_registered_while_the_loop_is_open():
    registry, scorer = Registry(), Held()
    async with opened(scorer, Clock(), queues=registry) as loop:
        await busy(loop, scorer)
        loop.submit(job("a"), Answers())
        queues = {queue.kind.name: queue for queue in registry.statistics()}
        assert {name: queue.depth for name, queue in queues.items()} == {
            "scorer_in": 1,
            "windows_stream": 1,
            "files_to_score": 0,
        }
        assert queues["scorer_in"].dropped == {"stale": 0, "overload": 0}
        scorer.let_go()
    assert [queue.instances for queue in registry.statistics()] == [0, 0, 0]


async def test_durations_are_kept_and_summed_up():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        assert loop.statistics().percentile_ms(0.5) is None
        loop.submit(job(), answers)
        await answers.wait(1)
        statistics = loop.statistics()
    assert statistics.percentile_ms(0.95) == 0.0
    assert (statistics.windows, statistics.waiting, statistics.in_flight) == (1, 0, 0)


class Faulty:
    """A sound scorer in a wrapper that does what it is told at each call, in order."""

    def __init__(self, inner, *deeds):
        self._inner = inner
        self.deeds = list(deeds)
        self.calls = 0

    def score(self, batch):
        self.calls += 1
        deed = self.deeds.pop(0) if self.deeds else None
        if deed is not None:
            deed()
        return self._inner.score(batch)

    def forget(self, session_ids):
        self._inner.forget(session_ids)

    def let_go(self):
        self._inner.let_go()


def crash():
    raise RuntimeError("the graph fell over")


async def test_a_crash_costs_no_window_when_the_second_try_succeeds():
    scorer, answers = Faulty(Held(), crash), Answers()
    async with opened(scorer, Clock()) as loop:
        loop.submit(job(), answers)
        await answers.wait(1)
        assert loop.fault is None
    assert answers.results() == {("a", 0): "scored"}
    assert scorer.calls == 2


async def test_a_window_too_old_for_a_second_try_is_lost():
    clock, answers = Clock(), Answers()

    def crash_late():
        clock.now += 2
        crash()

    scorer = Faulty(Held(), crash_late)
    async with opened(scorer, clock) as loop:
        loop.submit(job(), answers)
        await answers.wait(1)
    assert answers.results() == {("a", 0): "scorer_lost"}
    assert scorer.calls == 1


async def test_a_scorer_that_only_fails_says_so_until_it_answers_again():
    scorer, answers = Faulty(Held(), *[crash] * 2 * SICK_BATCHES), Answers()
    async with opened(scorer, Clock()) as loop:
        for index in range(SICK_BATCHES):
            assert loop.fault is None
            loop.submit(job(index=index), answers)
            await answers.wait(index + 1)
        assert loop.fault == "the scorer fails"
        loop.submit(job(index=9), answers)
        await answers.wait(SICK_BATCHES + 1)
        assert loop.fault is None
    assert list(answers.results().values()) == [*["poison"] * SICK_BATCHES, "scored"]


async def test_a_scorer_that_hangs_is_noticed_and_all_is_well_when_it_returns():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        first = await busy(loop, scorer)
        clock.now += HANG_S
        loop.submit(job("a", at=clock.now), answers)
        assert loop.fault is None
        clock.now += HANG_WINDOW_S
        loop.submit(job("b", at=clock.now), answers)  # the pump looks at the clock
        await answers.wait(2)
        await first.wait(1)
        assert loop.fault == "the scorer hangs"
        loop.submit(job("a", 1, at=clock.now), answers)
        await answers.wait(3)
        clock.now += 5
        assert loop.hung_s == 5.0
        scorer.let_go()
        while loop.fault:
            await asyncio.sleep(0.005)
        loop.submit(job("a", 2, at=clock.now), answers)
        await answers.wait(4)
    assert first.results() == {("busy", 0): "scorer_lost"}
    assert answers.results() == {
        ("a", 0): "scorer_lost",
        ("b", 0): "scorer_lost",
        ("a", 1): "scorer_lost",
        ("a", 2): "scored",
    }
    statistics = loop.statistics()
    assert (statistics.hangs, statistics.late_outcomes) == (1, 1)
    assert scorer.batches == [[("busy", 0)], [("a", 2)]]


async def test_files_may_take_their_time():
    clock, scorer = Clock(), Held(held=True)
    async with opened(scorer, clock) as loop:
        file = asyncio.create_task(loop.score(job("file")))
        while not loop.statistics().in_flight:
            await asyncio.sleep(0)
        clock.now += 60
        loop.submit(job("live", at=clock.now), Answers())
        assert loop.fault is None
        scorer.let_go()
        result, _ = await file
    assert isinstance(result, Outcome)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_what_is_no_number_is_bad_output(number):
    def measured(job):
        slot = SlotReading(0, 1.0, 0.5, number, None, None)
        voice = np.full(7, 1 / 7, np.float32)
        return Outcome(job.session_id, job.window.index, None, (slot,), voice)

    def judged(job):
        voice = np.full(7, number, np.float32)
        return Outcome(job.session_id, job.window.index, None, None, voice)

    for answer in (measured, judged):
        scorer, answers = Held(), Answers()
        scorer.score = lambda batch, answer=answer: [answer(job) for job in batch.jobs]
        async with opened(scorer, Clock()) as loop:
            loop.submit(job(), answers)
            await answers.wait(1)
        assert answers.results() == {("a", 0): "bad_output"}


async def test_a_full_queue_takes_no_more_and_says_so():
    scorer, answers = Held(), Answers()
    async with opened(scorer, Clock()) as loop:
        await busy(loop, scorer)
        for number in range(QUEUE_BOUND + 3):
            loop.submit(job(f"s{number}"), answers)
        await answers.wait(3)
        assert set(answers.results().values()) == {"overload"}
        assert loop.statistics().skipped["overload"] == 3
        scorer.let_go()


async def test_it_tells_how_long_windows_wait():
    clock, scorer, answers = Clock(), Held(), Answers()
    async with opened(scorer, clock) as loop:
        await busy(loop, scorer)
        clock.now = 100.5
        loop.submit(job("a", at=100.25), answers)
        clock.now = 100.75
        assert loop.oldest_wait_s() == 0.5
        scorer.let_go()
        await answers.wait(1)
        assert loop.waits.percentile(0.5, clock.now, 10.0) == 0.5
        assert loop.oldest_wait_s() == 0.0
