"""Sessions on a scorer that is too slow: less is scored, it is said, and the books stay exact."""

import asyncio
import itertools
import time
from contextlib import AsyncExitStack

import numpy as np

from pipeline.degrade import Ladder, Rung
from pipeline.events import SessionEnded, WindowScored, WindowSkipped
from pipeline.types import SLOT_TICKS, AudioChunk, VideoFrame
from services import load
from services.clock import SystemClock
from services.ingest.session import Session
from services.load import Meter
from services.scorer.loop import ScoringLoop
from tests.pipeline.readings import facts, outcome
from tests.services.ingest.support import MemorySink

SESSIONS = 4
PACE_S = 0.08
"""A slot of media comes so often: six times as fast as in life, and so are the marks below."""


class SlowScorer:
    """Sees a calm face and hears a calm voice, and takes its time for each batch."""

    def __init__(self):
        self.delay_s = 0.0
        self.seen = []

    def score(self, batch):
        time.sleep(self.delay_s)
        return [self._one(job) for job in batch.jobs]

    def forget(self, session_ids):
        pass

    def _one(self, job):
        window = job.window
        self.seen.append((job.session_id, window.index, len(window.frames)))
        made = outcome(window.index)
        kept = tuple(frame for frame in made.frames if frame.at in {f.at for f in window.frames})
        return type(made)(job.session_id, window.index, kept, made.slots, made.voice)


async def ping():
    return 0.0


class Bench:
    def __init__(self, clock, scoring, meter):
        self.sinks = [MemorySink() for _ in range(SESSIONS)]
        self.sessions = [
            Session(
                facts(session_id=f"ses_{number}"),
                scoring=scoring,
                sink=sink,
                clock=clock,
                live=True,
                rung=lambda: meter.rung,
            )
            for number, sink in enumerate(self.sinks)
        ]
        self.slot = 0

    async def play(self, condition):
        async with asyncio.timeout(60):
            while not condition():
                start, self.slot = self.slot * SLOT_TICKS, self.slot + 1
                for session in self.sessions:
                    session.feed(self._media(start))
                await asyncio.sleep(PACE_S)

    def _media(self, start):
        picture = np.zeros((4, 4, 3), np.uint8)
        yield AudioChunk(start, np.zeros(SLOT_TICKS, np.int16))
        yield VideoFrame(start, picture)
        yield VideoFrame(start + SLOT_TICKS // 2, picture)

    def check_books(self):
        for session, sink in zip(self.sessions, self.sinks, strict=True):
            books = session.statistics()
            assert books.cut == books.scored + sum(books.skipped.values())
            assert books.in_flight == 0
            assert [event.seq for event in sink.events] == list(range(len(sink.events)))
            assert [event.window.index for event in sink.windows] == list(range(books.cut))
            (ended,) = sink.of(SessionEnded)
            assert ended.counts.scored == len(sink.of(WindowScored))
            assert sum(ended.counts.skipped.values()) == len(sink.of(WindowSkipped))


async def test_a_scorer_that_is_too_slow_costs_detail_and_no_window(monkeypatch):
    monkeypatch.setattr(load, "SUM_S", 0.05)
    monkeypatch.setattr(load, "SAMPLE_S", 0.02)
    monkeypatch.setattr(load, "SHORT_S", 0.4)
    monkeypatch.setattr(load, "STEP_WAIT_S", 0.13)
    monkeypatch.setattr(load, "EASE_WAIT_S", 0.11)
    monkeypatch.setattr(load, "STEP_LAG_S", 60.0)  # this test is about the scorer
    monkeypatch.setattr(load, "EASE_LAG_S", 60.0)
    clock, scorer, rungs = SystemClock(), SlowScorer(), []
    async with AsyncExitStack() as opened:
        scoring = await opened.enter_async_context(ScoringLoop(scorer, clock))
        ladder = Ladder(up_s=0.3, down_s=0.3)
        meter = await opened.enter_async_context(Meter(clock, scoring, ping, ladder=ladder))
        meter.on_measure(lambda _: rungs.append(meter.rung))
        bench = Bench(clock, scoring, meter)
        await bench.play(lambda: bench.slot > 8)
        scorer.delay_s = 0.8
        await bench.play(lambda: meter.rung == Rung.DROP)
        scorer.delay_s = 0.0
        await bench.play(lambda: meter.rung == Rung.FULL)
        healed = bench.slot
        await bench.play(lambda: bench.slot > healed + 6)
        for session in bench.sessions:
            await session.end("publisher_left")
    bench.check_books()
    steps = [after - before for before, after in itertools.pairwise(rungs)]
    assert set(steps) == {-1, 0, 1}
    assert rungs[0] == rungs[-1] == Rung.FULL
    assert max(rungs) == Rung.DROP
    scored = [event for sink in bench.sinks for event in sink.of(WindowScored)]
    flags = {tuple(event.degraded) for event in scored}
    assert {(), ("hop_doubled",), ("hop_doubled", "video_dropped")} <= flags
    for event in scored:
        assert not event.degraded or event.window.index % 2 == 0
        blind = "video_dropped" in event.degraded
        assert (event.evidence.video.reason == "overload") is blind
    assert any(
        event.reason == "overload" for sink in bench.sinks for event in sink.of(WindowSkipped)
    )
    assert {frames for _, _, frames in scorer.seen} == {0, 4, 8}
