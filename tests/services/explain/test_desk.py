"""Sessions and the tier together: whose words go where, requests, and a flood."""

import asyncio
import dataclasses
from functools import partial

import numpy as np
import pytest

from pipeline.errors import ModelRefused, UsageError
from pipeline.events import Cue, Explanation
from pipeline.types import TICKS_PER_S, AudioChunk, VideoFrame
from services.bus.memory import MemoryBus
from services.clock import SystemClock
from services.explain import desk as desks
from services.explain import wire
from services.explain.desk import Desk, open_desk
from services.explain.tier import QUEUE, Tier
from services.ingest.session import Session
from services.orders import Orders
from services.queues import Registry
from services.scorer.loop import ScoringLoop
from services.settings import Settings
from tests.pipeline.readings import outcome
from tests.services.explain.conftest import question
from tests.services.explain.test_tier import ODD
from tests.services.ingest.support import DirectScoring, MemorySink
from tests.services.ingest.test_session import _facts

ANSWER = wire.Answer(
    number=1,
    labels={"angry": 0.61234, "sad": 0.38766},
    top="angry",
    margin=0.22468,
    entropy=0.66789,
    prefix="",
    audio="heard",
    took_ms=55,
    thinking="The voice is loud. He wears a hat. They whisper.",
    label="sad",
    raw="s" * 80,
    truncated=True,
)
LOUD = Cue("loudness", "audio", 0.9, 0.4, "dB")
CLOCK = SystemClock()


class Speaker:
    """A session as the desk knows it."""

    def __init__(self, *measured):
        self.measured = measured
        self.told = []

    def explain(self, words):
        self.told.append(words)


class Talking:
    """Finds a voice and a face in every window."""

    def score(self, batch):
        return [
            dataclasses.replace(outcome(job.window.index), session_id=job.session_id)
            for job in batch.jobs
        ]

    def forget(self, session_ids):
        pass


def settings(folder, **more):
    return Settings(**({"explain": folder, "explain_accept": True} | more))


def orders():
    return Orders(MemoryBus(), CLOCK)


def facts(session_id="ses_1"):
    return _facts(("audio", "video"), session_id=session_id)


def picture(at_s):
    return VideoFrame(round(at_s * TICKS_PER_S), np.zeros((24, 32, 3), np.uint8))


def test_the_usage_policy_must_be_accepted(exported):
    with pytest.raises(UsageError, match="--explain-accept or DEMEANOR_EXPLAIN_ACCEPT=true"):
        Desk(settings(exported, explain_accept=False), orders(), Registry())


def test_a_wrong_folder_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ModelRefused, match="python -m exporters r1omni"):
        Desk(settings(tmp_path), orders(), Registry())


async def test_it_is_off_without_a_folder():
    async with open_desk(Settings(), orders(), Registry()) as desk:
        assert desk is None


@pytest.fixture
def desk(exported):
    return Desk(settings(exported), orders(), Registry())


async def test_words_reach_their_session_checked_against_what_was_measured(desk):
    watched, speaker = desk.observe(facts()), Speaker(LOUD)
    watched.attach(speaker)
    desk.tier.identity = "tiny@sha256:12"
    desk._deliver(question(), ANSWER)
    (words,) = speaker.told
    assert words.text == "The voice is loud.", "the hat is no expression, the whisper no truth"
    assert words.generation.withheld == 2
    assert words.cues == (LOUD,)
    assert (words.about_seq, words.alert_id, words.took_ms) == (3, "alr_1", 55)
    assert (words.model.id, words.model.version) == ("tiny", "sha256:12")
    made = words.generation
    assert (made.label, made.agrees, made.truncated, made.audio) == ("sad", False, True, "heard")
    assert made.labels == {"angry": 0.612, "sad": 0.388}
    assert len(made.raw) == 64
    assert not made.calibrated


async def test_surroundings_are_spoken_of_only_if_switched_on(exported):
    desk = Desk(settings(exported, explain_surroundings=True), orders(), Registry())
    watched, speaker = desk.observe(facts()), Speaker()
    watched.attach(speaker)
    desk._deliver(question(), ANSWER)
    assert "hat" in speaker.told[0].text


async def test_words_for_a_session_that_is_gone_go_nowhere(desk):
    watched, speaker = desk.observe(facts()), Speaker()
    desk._deliver(question(), ANSWER)
    watched.attach(speaker)
    watched.media(picture(1))
    assert desk.statistics()["recorders"] == 1
    watched.close()
    desk._deliver(question(), ANSWER)
    assert not speaker.told
    assert not watched.recorder._pictures, "nothing is held after the end"
    assert desk.statistics()["recorders"] == 0
    assert desk.statistics()["recorded_sessions_total"] == 1


async def test_a_standing_request_is_obeyed_once_and_for_its_session_only(exported):
    async with Orders(MemoryBus(), CLOCK) as standing:
        desk = Desk(settings(exported), standing, Registry())
        standing.on_change(desk.obey)
        one, other = desk.observe(facts("ses_1")), desk.observe(facts("ses_2"))
        for watched in (one, other):
            watched.media(picture(1))
        until_ms = CLOCK.wall_ms() + 60_000
        await standing.give("explain", "ses_1", "xpl_1", until_ms)
        await standing.give("scoring", "default", "on", until_ms)
        assert [q.trigger for q in desk.tier._waiting.values()] == ["request"]
        assert set(desk.tier._waiting) == {"ses_1"}
        await standing.give("explain", "ses_1", "xpl_2", until_ms)
        await standing.give("explain", "ses_gone", "xpl_3", until_ms)
        assert set(desk.tier._waiting) == {"ses_1"}
        assert desk.tier._dropped == {"superseded": 1}


async def test_a_live_session_is_explained_by_the_real_process(exported):
    sink = MemorySink()
    async with (
        orders() as standing,
        open_desk(settings(exported), standing, Registry()) as desk,
    ):
        session = Session(
            facts(),
            scoring=DirectScoring(),
            sink=sink,
            clock=CLOCK,
            live=True,
            observer=desk.observe(facts()),
        )
        session.feed([picture(1), AudioChunk(0, np.ones(TICKS_PER_S, np.int16))])
        await standing.give("explain", "ses_1", "xpl_1", CLOCK.wall_ms() + 60_000)
        await sink.until(lambda sink: sink.of(Explanation), 60)
        (told,) = sink.of(Explanation)
        assert (told.source, told.generated, told.alert_id) == ("model", True, None)
        assert told.model.version in desk.tier.identity
        assert f"{told.model.id}@{told.model.version}" == desk.tier.identity
        await session.end("publisher_left")
    assert [event.seq for event in sink.events] == list(range(len(sink.events)))


async def test_a_flood_of_questions_delays_no_score(exported, tmp_path, monkeypatch):
    """The model answers nothing at all, and six sessions want to be explained every second."""
    command = (*ODD, "held", str(tmp_path / "never"))
    monkeypatch.setattr(desks, "Tier", partial(Tier, command=command))
    queues, seconds = Registry(), 12
    every = settings(exported, explain_every_s=1, explain_per_min=10_000)
    async with (
        orders() as standing,
        ScoringLoop(Talking(), CLOCK, max_age_ms=60_000, queues=queues) as scoring,
        open_desk(every, standing, queues) as desk,
    ):
        sessions = []
        for number in range(6):
            told = dataclasses.replace(facts(f"ses_{number}"), tracks=("audio", "video"))
            made = Session(
                told,
                scoring=scoring,
                sink=MemorySink(),
                clock=CLOCK,
                live=True,
                observer=desk.observe(told),
            )
            sessions.append(made)
        for quarter in range(4 * seconds):
            at = quarter * TICKS_PER_S // 4
            for session in sessions:
                sound = AudioChunk(at, np.full(TICKS_PER_S // 4, 900, np.int16))
                session.feed([sound, picture(quarter / 4)])
            await scoring_is_done(sessions)
            assert depth(queues) <= QUEUE
        assert depth(queues) == QUEUE
        assert desk.tier.counts == {"asked": 1}, "one is in hand, and stays there"
        books = [session.statistics() for session in sessions]
        for session in sessions:
            await session.end("publisher_left")
        assert depth(queues) == 0
    assert all(each.cut >= 2 * (seconds - 2) for each in books)
    assert all(each.scored == each.cut for each in books)
    (state,) = [each for each in queues.statistics() if each.kind.name == "explain"]
    assert set(state.dropped) == {"superseded", "full", "session_over"}


def depth(queues):
    return sum(each.depth for each in queues.statistics() if each.kind.name == "explain")


async def scoring_is_done(sessions):
    async with asyncio.timeout(30):
        while any(session.statistics().in_flight for session in sessions):
            await asyncio.sleep(0.001)
