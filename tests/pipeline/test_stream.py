"""One session's events: exact books, dense seq, order, states, the end."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline import events
from pipeline.reasons import WIRE
from pipeline.stream import Stream, StreamSettings, Timing
from pipeline.types import SLOT_TICKS, Gap, Outcome
from tests.pipeline.readings import facts, outcome, window

WALL_MS = 1_795_420_810_004


def wall(index, age_ms=100):
    """When a window of a live session is answered."""
    return WALL_MS + 2_000 + 500 * index + age_ms


def opened(tuned=None, **changes):
    stream = Stream(facts(**changes), tuned)
    stream.start(WALL_MS)
    return stream


def push(stream, index, result, timing=None):
    stream.cut(window(index))
    return stream.resolve(index, result, timing or Timing(100, 6, 31), wall(index))


def run(stream, results, first=0, step=1):
    out = []
    for at, result in enumerate(results):
        index = first + at * step
        out += push(stream, index, result(index) if callable(result) else result)
    return out


def angry(index):
    return outcome(index, "angry", "angry")


def calm(index):
    return outcome(index)


def nothing(index):
    return outcome(index, None, None)


MIXED = [calm, "stale", nothing, "overload", calm]


def test_it_begins_with_what_is_known():
    (started,) = Stream(facts(scored=False, why_not="policy_role")).start(WALL_MS, WALL_MS - 403)
    assert isinstance(started, events.SessionStarted)
    assert (started.seq, started.participant_id) == (0, None)
    assert (started.ts, started.started_at) == (
        "2026-11-23T08:00:10.004Z",
        "2026-11-23T08:00:09.601Z",
    )
    assert started.participants == [
        events.Participant("p1", "self", False, "policy_role", ["audio", "video"])
    ]
    assert started.window == events.WindowShape(2_000, 500)
    assert started.labels == ["neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"]
    assert (started.stream, started.meta) == ("me", {"call": "c-1"})


def test_a_scored_window_says_everything():
    stream = opened()
    (scored,) = push(stream, 0, angry(0))
    assert isinstance(scored, events.WindowScored)
    assert (scored.seq, scored.participant_id) == (1, "p1")
    assert scored.window == events.Span(0, 0, 2_000)
    assert (scored.top, scored.abstained, scored.state) == ("angry", False, "calm")
    assert abs(sum(scored.emotions.values()) - 1) <= 0.001
    assert scored.confidence == scored.emotions["angry"]
    assert scored.timing == events.Timing(100, 6, 31)
    assert scored.model == events.Model("demeanor-tiny", "1.0")
    assert scored.degraded == []
    assert scored.reason.code == "voice_and_face"
    assert [box.face_id for box in scored.faces] == [0]
    assert scored.faces[0].at_ms == 1_750
    assert events.decode(events.encode(scored)) == scored


def test_unsure_is_an_abstention():
    stream = opened()
    (scored,) = push(stream, 0, outcome(0, None, "sad", p=0.3))
    assert (scored.top, scored.abstained) == (None, True)
    assert scored.confidence < 0.35
    assert max(scored.emotions, key=scored.emotions.get) == "sad"


def test_old_media_is_marked_late():
    (scored,) = push(opened(), 0, calm(0), Timing(age_ms=3_001))
    assert scored.degraded == ["late"]


def test_no_evidence_is_a_skipped_window_with_reasons():
    stream = opened()
    (skipped,) = push(stream, 0, nothing(0))
    assert isinstance(skipped, events.WindowSkipped)
    assert (skipped.reason, skipped.state, skipped.age_ms) == ("no_evidence", "no_evidence", 100)
    assert skipped.evidence.audio.reason == "no_speech"
    assert skipped.evidence.video.reason == "no_face"


@pytest.mark.parametrize("reason", WIRE)
def test_every_fine_reason_reaches_the_wire_by_the_table(reason):
    stream = opened()
    (skipped,) = push(stream, 0, reason)
    assert skipped.reason == WIRE[reason]
    assert stream.counts.skipped == {WIRE[reason]: 1}
    assert stream.skipped == {reason: 1}


def test_a_failed_window_is_skipped_for_its_failure():
    failed = Outcome("ses_1", 0, None, None, None, failure="bad_output")
    (skipped,) = push(opened(), 0, failed)
    assert skipped.reason == "model_error"


def test_a_busy_machine_is_no_news_of_the_person():
    stream = opened()
    states = [event.state for event in run(stream, MIXED, step=4)]
    assert states == ["calm", "calm", "no_evidence", "no_evidence", "calm"]
    watched = opened()
    run(watched, [angry] * 14)
    assert run(watched, ["stale"], 14)[0].state == "watch"
    assert run(watched, [nothing], 20)[0].state == "no_evidence"


def test_an_alert_stays_latched_through_holes_then_is_lost():
    stream = opened()
    run(stream, [angry] * 40)
    holes = run(stream, [nothing] * 117, 43)
    assert [event.state for event in holes[:116]] == ["high"] * 116
    assert holes[116].state == "no_evidence"
    assert isinstance(holes[117], events.AlertCleared)
    assert holes[117].cause == "evidence_lost"
    assert len(holes) == 118


def test_the_alert_follows_its_window_and_its_explanation_follows_it():
    out = run(opened(), [angry] * 40)
    kinds = [type(event) for event in out]
    at = kinds.index(events.AlertRaised)
    assert kinds[at - 1 : at + 2] == [
        events.WindowScored,
        events.AlertRaised,
        events.Explanation,
    ]
    raised, explained = out[at], out[at + 1]
    assert raised.windows[-1] == out[at - 1].window.index
    assert out[at - 1].state == "high"
    assert explained.about_seq == raised.seq
    assert explained.cues
    assert kinds.count(events.AlertRaised) == 1


def test_outcomes_in_any_order_leave_in_order_with_their_full_age():
    stream = opened()
    for index in range(3):
        stream.cut(window(index))
    assert stream.resolve(2, calm(2), Timing(100), WALL_MS) == []
    assert stream.resolve(1, "stale", Timing(100), WALL_MS + 40) == []
    assert stream.in_flight == 3
    out = stream.resolve(0, calm(0), Timing(100), WALL_MS + 100)
    assert [event.window.index for event in out] == [0, 1, 2]
    assert [event.seq for event in out] == [1, 2, 3]
    assert (out[0].timing.age_ms, out[1].age_ms, out[2].timing.age_ms) == (100, 160, 200)


def test_a_second_answer_is_ignored_and_counted():
    stream = opened()
    push(stream, 0, calm(0))
    assert stream.resolve(0, calm(0), Timing(), WALL_MS) == []
    assert stream.resolve(9, "stale", Timing(), WALL_MS) == []
    assert stream.ignored == 2
    assert stream.counts.scored == 1


def test_a_window_that_nobody_answers_is_given_up_when_the_book_is_full():
    stream = opened(StreamSettings(max_in_flight=2))
    for index in range(3):
        stream.cut(window(index))
    out = stream.resolve(1, calm(1), Timing(100), wall(1))
    assert [(event.window.index, type(event)) for event in out] == [
        (0, events.WindowSkipped),
        (1, events.WindowScored),
    ]
    assert (out[0].reason, out[0].age_ms) == ("stale", 600)
    assert stream.in_flight == 1


def test_media_gaps_are_events_of_their_own():
    stream = opened()
    (gap,) = stream.gap(Gap(1_120_320, 1_186_880, ("video",), "packet_loss"), WALL_MS)
    assert (gap.kind, gap.start_ms, gap.end_ms) == ("media", 70_020, 74_180)
    assert (gap.tracks, gap.cause, gap.participant_id) == (["video"], "packet_loss", "p1")
    assert b"from_seq" not in events.encode(gap)
    assert stream.counts.gaps == 1
    assert stream.end("timeout", WALL_MS)[-1].duration_ms == 74_180


@pytest.mark.parametrize(
    ("reason", "fine", "wire"),
    [("drained", "draining", "overload"), ("publisher_left", "unanswered", "stale")],
)
def test_the_end_closes_what_is_open(reason, fine, wire):
    stream = opened()
    run(stream, [angry] * 40)
    for index in (40, 41):
        stream.cut(window(index))
    out = stream.end(reason, wall(41))
    assert [type(event) for event in out] == [
        events.WindowSkipped,
        events.WindowSkipped,
        events.AlertCleared,
        events.SessionEnded,
    ]
    assert out[0].reason == wire
    assert (out[0].age_ms, out[1].age_ms) == (600, 100)
    assert out[2].cause == "session_ended"
    ended = out[3]
    assert (ended.reason, ended.participant_id) == (reason, None)
    assert ended.duration_ms == 2_000 + 41 * 500
    assert ended.counts == events.Counts(scored=40, skipped={wire: 2}, gaps=0, alerts=1)
    assert stream.skipped[fine] == 2
    assert ended.coverage == events.Coverage(audio=0.9524, video=0.9524)


def test_after_the_end_there_is_nothing():
    stream = opened()
    (ended,) = stream.end("deleted", WALL_MS, duration_ms=1_234)
    assert ended.duration_ms == 1_234
    assert ended.coverage == events.Coverage(audio=0.0, video=0.0)
    assert stream.end("deleted", WALL_MS) == []
    assert stream.gap(Gap(0, 1, ("audio",), "muted"), WALL_MS) == []
    assert stream.resolve(0, "stale", Timing(), WALL_MS) == []
    with pytest.raises(ValueError, match="after the session's end"):
        stream.cut(window(0))


def test_an_end_before_any_start_invents_no_age():
    stream = Stream(facts())
    stream.cut(window(0))
    assert stream.end("error", WALL_MS)[0].age_ms == 0


def test_a_track_that_is_not_there_has_no_coverage():
    stream = opened(tracks=("audio",))
    stream.cut(window(0, video=False))
    sound = outcome(0, "sad", None)
    spoken = Outcome("ses_1", 0, None, sound.slots, sound.voice)
    (scored,) = stream.resolve(0, spoken, Timing(), WALL_MS)
    assert scored.faces is None
    assert scored.evidence.video.reason == "no_track"
    assert stream.end("publisher_left", WALL_MS)[-1].coverage == events.Coverage(1.0, None)


def test_the_same_calls_give_the_same_bytes():
    def lines():
        stream = Stream(facts())
        out = stream.start(WALL_MS) + run(stream, [angry] * 30 + ["stale"] + [nothing] * 3)
        return [events.encode(event) for event in out + stream.end("timeout", wall(40))]

    assert lines() == lines()


def test_memory_does_not_grow_with_the_length_of_the_call():
    def size(stream):
        """Number of objects that the stream holds on to."""
        todo, seen = [stream], set()
        while todo:
            thing = todo.pop()
            if id(thing) in seen:
                continue
            seen.add(id(thing))
            if isinstance(thing, dict):
                todo += [*thing.keys(), *thing.values()]
            elif isinstance(thing, list | tuple | set):
                todo += thing
            else:
                todo += vars(thing).values() if hasattr(thing, "__dict__") else []
                todo += [
                    getattr(thing, name)
                    for name in getattr(type(thing), "__slots__", ())
                    if hasattr(thing, name)
                ]
        return len(seen)

    stream = opened()
    run(stream, [calm] * 150)
    before = size(stream)
    run(stream, [calm] * 600, 150)
    assert size(stream) <= before * 1.1


class Session(RuleBasedStateMachine):
    """Any order of cutting, answering, repeating and dropping keeps the books."""

    @initialize()
    def open(self):
        self.stream = Stream(facts(), StreamSettings(max_in_flight=6))
        self.out = self.stream.start(WALL_MS)
        self.next = 0
        self.open = []
        self.clock = WALL_MS

    @rule(hops=st.integers(1, 3))
    def cut(self, hops):
        self.next += hops
        self.stream.cut(window(self.next))
        self.open.append(self.next)
        self.clock += 500

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        result=st.sampled_from([angry, calm, nothing, "stale", "overload", "bad_output"]),
    )
    def answer(self, data, result):
        index = data.draw(st.sampled_from(self.open))
        self.open.remove(index)
        made = result(index) if callable(result) else result
        self.out += self.stream.resolve(index, made, Timing(50, 1, 20), self.clock)

    @rule(index=st.integers(0, 400))
    def answer_what_was_not_asked(self, index):
        if index not in self.open:
            assert self.stream.resolve(index, "stale", Timing(), self.clock) == []

    @rule(start=st.integers(0, 100))
    def gap(self, start):
        gap = Gap(start * SLOT_TICKS, (start + 1) * SLOT_TICKS, ("audio",), "packet_loss")
        self.out += self.stream.gap(gap, self.clock)

    @invariant()
    def books_balance(self):
        made = Counter(type(event) for event in self.out)
        counts = self.stream.counts
        assert made[events.WindowScored] == counts.scored
        assert made[events.WindowSkipped] == sum(counts.skipped.values())
        assert made[events.Gap] == counts.gaps
        assert made[events.AlertRaised] == counts.alerts
        done = counts.scored + sum(counts.skipped.values())
        assert self.stream.cut_count == done + self.stream.in_flight
        assert [event.seq for event in self.out] == list(range(len(self.out)))
        windows = [e.window.index for e in self.out if hasattr(e, "window") and e.seq]
        assert windows == sorted(set(windows))

    def teardown(self):
        if not hasattr(self, "stream"):
            return
        self.out += self.stream.end("publisher_left", self.clock)
        self.books_balance()
        assert self.stream.in_flight == 0
        assert isinstance(self.out[-1], events.SessionEnded)
        raised = [e for e in self.out if isinstance(e, events.AlertRaised)]
        cleared = [e for e in self.out if isinstance(e, events.AlertCleared)]
        assert [e.alert.id for e in raised] == [e.alert_id for e in cleared]


TestSession = Session.TestCase
TestSession.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(30)))
def test_the_order_of_answers_changes_no_conclusion(order):
    straight, shuffled = opened(), opened()
    expected = run(straight, [angry] * 30)
    for index in range(30):
        shuffled.cut(window(index))
    got = []
    for index in order:
        got += shuffled.resolve(index, angry(index), Timing(100, 6, 31), WALL_MS)
    scored = [e for e in got if isinstance(e, events.WindowScored)]
    assert [(e.window, e.emotions, e.state, e.frustration) for e in scored] == [
        (e.window, e.emotions, e.state, e.frustration)
        for e in expected
        if isinstance(e, events.WindowScored)
    ]
