"""The owner: every window leaves as one event, in order, live or lossless, and silence is told."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import (
    Gap,
    SessionEnded,
    SessionStarted,
    Source,
    WindowScored,
    WindowSkipped,
    decode,
)
from pipeline.policy import Decision, Gate
from pipeline.stream import Facts
from pipeline.types import AudioChunk, VideoFrame
from pipeline.types import Gap as MediaGap
from services.ingest.items import Ended, Reached
from services.ingest.session import ANSWER_PATIENCE_S, Session
from services.ingest.sink import JsonlSink
from tests.services.ingest.support import MODEL, DirectScoring, ManualClock, MemorySink


def _facts(tracks=("audio",), **changes):
    facts = {
        "session_id": "ses_1",
        "stream": "cam",
        "role": "self",
        "scored": True,
        "why_not": None,
        "tracks": tracks,
        "source": Source(kind="whip"),
        "meta": {},
        "model": MODEL,
    }
    return Facts(**facts | changes)


class Rig:
    def __init__(self, *, hold=False, live=True, tracks=("audio",), sink=None, clock=None):
        self.clock = clock or ManualClock()
        self.sink = sink or MemorySink()
        self.scoring = DirectScoring(hold=hold, clock=self.clock)
        self.session = Session(
            _facts(tracks), scoring=self.scoring, sink=self.sink, clock=self.clock, live=live
        )

    def sound(self, start_s, end_s):
        start, end = round(start_s * 16000), round(end_s * 16000)
        return AudioChunk(start, np.full(end - start, 1000, np.int16))

    @property
    def indices(self):
        return [event.window.index for event in self.sink.windows]

    def check_books(self):
        books = self.session.statistics()
        assert books.cut == books.scored + sum(books.skipped.values()) + books.in_flight
        assert [event.seq for event in self.sink.events] == list(range(len(self.sink.events)))
        assert books.events == len(self.sink.events)


async def test_windows_leave_in_order_whatever_the_order_of_answers():
    rig = Rig(hold=True)
    rig.session.feed([rig.sound(0, 4)])
    assert rig.session.statistics().in_flight == 5
    rig.scoring.release(newest_first=True)
    assert rig.indices == [0, 1, 2, 3, 4]
    await rig.session.end("publisher_left")
    rig.check_books()
    assert rig.sink.ended == "publisher_left"
    assert rig.sink.closed
    assert rig.scoring.forgotten == ["ses_1"]


async def test_the_first_event_tells_when_media_began():
    rig = Rig()
    rig.session.begin()
    rig.clock.now_s = 0.5
    rig.session.feed([rig.sound(0, 0.5)])
    (started,) = rig.sink.of(SessionStarted)
    assert started.started_at == started.ts
    assert started.participants[0].tracks == ["audio"]
    rig.session.begin()
    assert len(rig.sink.events) == 1


async def test_jobs_carry_arrival_and_cut():
    rig = Rig()
    rig.clock.now_s = 7.0
    rig.session.feed([rig.sound(0, 2)], arrived_s=6.9)
    (job,) = rig.scoring.jobs
    assert (job.arrived_s, job.cut_s, job.session_id) == (6.9, 7.0, "ses_1")
    assert rig.sink.windows[0].age_ms == 100


async def test_the_end_waits_for_answers_then_gives_up():
    rig = Rig(hold=True)
    rig.session.feed([rig.sound(0, 3)])
    ending = asyncio.create_task(rig.session.end("deleted"))
    await asyncio.sleep(0)
    rig.scoring.release()
    await ending
    assert rig.indices == [0, 1, 2]
    assert rig.sink.of(SessionEnded)[0].counts.skipped == {"no_evidence": 3}


async def test_windows_without_an_answer_are_skipped(monkeypatch):
    assert ANSWER_PATIENCE_S > 0
    monkeypatch.setattr("services.ingest.session.ANSWER_PATIENCE_S", 0.01)
    rig = Rig(hold=True)
    rig.session.feed([rig.sound(0, 3)])
    await rig.session.end("timeout")
    assert rig.indices == [0, 1, 2]
    rig.check_books()
    rig.scoring.release()
    assert len(rig.sink.windows) == 3
    assert rig.session.statistics().skipped == {"unanswered": 3}


async def test_the_first_reason_counts_and_all_callers_wait():
    rig = Rig()
    rig.session.feed([rig.sound(0, 2)])
    await asyncio.gather(*(rig.session.end(why) for why in ("drained", "timeout", "deleted")))
    assert [event.reason for event in rig.sink.of(SessionEnded)] == ["drained"]
    rig.session.feed([rig.sound(2, 4)])
    await rig.session.feed_all([rig.sound(2, 4)])
    rig.session.gap(MediaGap(0, 16000, ("audio",), "clock_jump"))
    assert rig.indices == [0]
    assert not rig.session.check()


async def test_a_session_without_media_begins_and_ends():
    rig = Rig()
    await rig.session.end("timeout")
    assert [type(event) for event in rig.sink.events] == [SessionStarted, SessionEnded]
    assert rig.sink.of(SessionEnded)[0].duration_ms == 0


async def test_files_lose_nothing_and_short_ones_give_one_window(tmp_path):
    path = tmp_path / "short.demeanor.jsonl"
    rig = Rig(live=False, sink=JsonlSink(path))
    await rig.session.feed_all([rig.sound(0, 0.8)])
    await rig.session.end("publisher_left")
    events = [decode(line) for line in path.read_bytes().splitlines()]
    assert [type(event) for event in events] == [SessionStarted, WindowSkipped, SessionEnded]
    assert events[2].duration_ms == 800


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=12))
def test_live_and_file_give_the_same_windows_however_cut(cuts):
    async def run(live):
        rig = Rig(live=live)
        start = 0
        for cut in cuts:
            items = [AudioChunk(start, np.arange(start, start + cut).astype(np.int16))]
            if live:
                rig.session.feed(items)
            else:
                await rig.session.feed_all(items)
            start += cut
        await rig.session.end("publisher_left")
        rig.check_books()
        return rig

    live, file = asyncio.run(run(live=True)), asyncio.run(run(live=False))
    assert live.indices == file.indices
    pairs = zip(live.scoring.windows["ses_1"], file.scoring.windows["ses_1"], strict=True)
    assert all((a.audio == b.audio).all() for a, b in pairs)


async def test_silence_is_told_once_and_then_ends_the_session():
    rig = Rig()
    rig.session.feed([rig.sound(0, 1)])
    told = []
    for now_s in (9.9, 10.0, 15.0, 29.9, 30.0):
        rig.clock.now_s = now_s
        told.append((now_s, rig.session.check(), len(rig.sink.of(Gap))))
    assert told == [
        (9.9, False, 0),
        (10.0, False, 1),
        (15.0, False, 1),
        (29.9, False, 1),
        (30.0, True, 1),
    ]
    (gap,) = rig.sink.of(Gap)
    assert (gap.start_ms, gap.end_ms, gap.cause, gap.tracks) == (1000, 11000, "no_media", ["audio"])


async def test_media_that_comes_back_resets_the_watch():
    rig = Rig()
    rig.clock.now_s = 10.0
    assert not rig.session.check()
    rig.session.feed([rig.sound(0, 1)])
    rig.clock.now_s = 19.0
    assert not rig.session.check()
    rig.session.feed([Ended("audio")])
    rig.clock.now_s = 20.0
    assert not rig.session.check()
    assert len(rig.sink.of(Gap)) == 2


async def test_pictures_and_reached_marks_cut_windows():
    rig = Rig(tracks=("video",))
    pictures = [
        VideoFrame(tick, np.full((4, 4, 3), tick % 200, np.uint8)) for tick in range(0, 32000, 4000)
    ]
    rig.session.feed(pictures)
    assert rig.scoring.jobs == []
    rig.session.feed([Reached("video", 32001)])
    assert [len(job.window.frames) for job in rig.scoring.jobs] == [8]
    assert rig.session.statistics().media_ticks == 32001


async def test_a_track_that_ended_holds_nothing_up():
    rig = Rig(tracks=("audio", "video"))
    rig.session.feed([rig.sound(0, 2.2)])
    assert rig.scoring.jobs == []
    rig.session.feed([Ended("video")])
    assert len(rig.scoring.jobs) == 1


async def test_a_gap_found_elsewhere_is_announced():
    rig = Rig()
    rig.session.gap(MediaGap(1600, 3200, ("video",), "clock_jump"))
    (gap,) = rig.sink.of(Gap)
    assert (gap.start_ms, gap.end_ms, gap.cause) == (100, 200, "clock_jump")


def _gated(decision, clock, *, hold=False):
    rig = Rig(hold=hold, clock=clock)
    rig.session = Session(
        _facts(role="agent", scored=decision.scored, why_not=decision.why_not),
        scoring=rig.scoring,
        sink=rig.sink,
        clock=clock,
        live=True,
        gate=Gate(decision),
    )
    return rig


async def test_a_role_that_is_not_scored_begins_and_ends_and_nothing_else():
    clock = ManualClock()
    rig = _gated(Decision(False, "policy_role", ""), clock)
    for _ in range(25):
        clock.now_s += 1
        rig.session.unseen()
        rig.session.feed([rig.sound(0, 9)])
        rig.session.gap(MediaGap(0, 16000, ("audio",), "clock_jump"))
        assert not rig.session.check()
    await rig.session.end("publisher_left")
    started, ended = rig.sink.events
    assert [(p.scored, p.why_not) for p in started.participants] == [(False, "policy_role")]
    assert isinstance(ended, SessionEnded)
    assert (ended.counts.scored, ended.counts.skipped) == (0, {})
    assert ended.coverage.audio is None
    assert ended.duration_ms == 24_000
    assert rig.scoring.jobs == []


async def test_an_unscored_publisher_that_falls_silent_times_out_without_a_gap():
    clock = ManualClock()
    rig = _gated(Decision(False, "policy_role", ""), clock)
    rig.session.unseen()
    clock.now_s += 29
    assert not rig.session.check()
    clock.now_s += 1
    assert rig.session.check()
    assert rig.sink.of(Gap) == []


async def test_before_consent_there_is_nothing_and_after_it_everything():
    clock = ManualClock()
    rig = _gated(Decision(False, "policy_consent", "", asks=True), clock)
    rig.session.unseen()
    rig.session.feed([rig.sound(0, 5)])
    assert rig.sink.events == []
    rig.session.gate.consented("granted")
    rig.session.feed([rig.sound(0, 2.1)])
    (started,) = rig.sink.of(SessionStarted)
    assert [(p.scored, p.why_not) for p in started.participants] == [(True, None)]
    assert len(rig.scoring.jobs) == 1


async def test_consent_that_never_came_is_told_at_the_end():
    rig = _gated(Decision(False, "policy_consent", "", asks=True), ManualClock())
    rig.session.unseen()
    await rig.session.end("publisher_left")
    (started,) = rig.sink.of(SessionStarted)
    assert [(p.scored, p.why_not) for p in started.participants] == [(False, "policy_consent")]


async def test_withdrawn_consent_skips_what_is_in_flight_and_cuts_no_more():
    rig = Rig(hold=True)
    rig.session.feed([rig.sound(0, 3.1)])
    rig.session.gate.consented("withdrawn")
    rig.session.halt()
    assert [event.reason for event in rig.sink.windows] == ["policy"] * 3
    rig.scoring.release()
    rig.session.feed([rig.sound(3.1, 9)])
    rig.session.erase()
    await rig.session.end("policy")
    assert rig.session.statistics().skipped == {"consent_withdrawn": 3}
    assert rig.session.statistics().scored == 0
    assert rig.sink.ended == "policy"
    assert rig.sink.erased
    rig.check_books()


NEVER = -7
"""The sound of somebody who has not agreed, or no longer does."""


@settings(max_examples=60, deadline=None)
@given(
    st.booleans(),
    st.lists(
        st.sampled_from(["feed", "feed", "feed", "granted", "withdrawn", "off", "on", "release"]),
        max_size=30,
    ),
)
def test_no_sound_without_consent_reaches_a_model_whatever_happens_when(asks, steps):
    async def call():
        rig = _gated(Decision(not asks, None, "", asks=asks), ManualClock(), hold=True)
        gate, now_s, told = rig.session.gate, 0.0, None
        for step in steps:
            match step:
                case "feed":
                    sound = rig.sound(now_s, now_s + 0.8)
                    rig.session.feed([sound if gate.opens else _of(sound, NEVER)])
                    now_s += 0.8
                case "release":
                    rig.scoring.release(newest_first=True)
                case "on" | "off":
                    if gate.switched(on=step == "on"):
                        rig.session.halt()
                case order:
                    if gate.consented(order) and order == "withdrawn":
                        rig.session.halt()
                        told = len(rig.sink.events)
        rig.scoring.release()
        rig.scoring._hold = False
        await rig.session.end("policy")
        for job in rig.scoring.jobs:
            assert not (job.window.audio == NEVER).any()
        if told is not None:
            assert not any(
                isinstance(e, WindowScored | WindowSkipped) for e in rig.sink.events[told:]
            )
            assert rig.session.statistics().in_flight == 0
        books = rig.session.statistics()
        assert books.cut == books.scored + sum(books.skipped.values())

    asyncio.run(call())


def _of(chunk, value):
    return AudioChunk(chunk.start, np.full_like(chunk.samples, value))


@pytest.mark.parametrize("withdrawn", [False, True])
async def test_what_lies_ready_at_the_end_is_cut_only_with_consent(withdrawn):
    rig = Rig(hold=True, tracks=("audio", "video"))
    rig.session.feed([rig.sound(0, 2.1)])  # waits for the picture
    if withdrawn:
        rig.session.gate.consented("withdrawn")
        rig.session.halt()
    ending = asyncio.create_task(rig.session.end("policy"))
    await asyncio.sleep(0)
    rig.scoring.release()
    await ending
    assert (rig.session.statistics().cut == 0) == withdrawn


async def test_an_answer_that_comes_after_the_switch_is_no_score():
    rig = Rig(hold=True)
    rig.session.feed([rig.sound(0, 2.6)])
    rig.session.gate.switched(on=False)
    rig.scoring.release()
    assert [event.reason for event in rig.sink.windows] == ["policy"] * 2
    assert rig.session.statistics().skipped == {"scoring_off": 2}


async def test_switched_off_scoring_skips_and_goes_on_again():
    rig = Rig(hold=True)
    rig.session.feed([rig.sound(0, 2.6)])
    rig.session.gate.switched(on=False)
    rig.session.halt()
    rig.session.feed([rig.sound(2.6, 4.1)])
    rig.scoring.release()
    assert [event.reason for event in rig.sink.windows] == ["policy"] * 5
    rig.session.gate.switched(on=True)
    rig.session.feed([rig.sound(4.1, 5.1)])
    rig.scoring.release()
    await rig.session.end("publisher_left")
    books = rig.session.statistics()
    assert books.skipped["scoring_off"] == 5
    assert books.cut > 5
    assert books.cut == books.scored + sum(books.skipped.values())
    rig.check_books()


async def test_a_sink_that_fails_to_close_still_ends_the_session():
    class Broken(MemorySink):
        async def close(self):
            raise OSError("disk full")

    rig = Rig(sink=Broken())
    with pytest.raises(OSError, match="disk full"):
        await rig.session.end("publisher_left")
    assert rig.session.statistics().state == "ended"
    await rig.session.end("timeout")
