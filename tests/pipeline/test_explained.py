"""Generated words in a session's events: in order, marked, and never after the end."""

import dataclasses

from pipeline import events
from pipeline.stream import Stream
from tests.pipeline.readings import facts, outcome
from tests.pipeline.test_stream import WALL_MS, angry, opened, push, run
from tests.services.explain.words import GENERATION, WORDS


def test_words_are_an_event_of_their_own_in_dense_order():
    stream = opened(policy="eu-strict/3f9a")
    before = push(stream, 0, angry(0))
    assert stream.position == before[-1].seq
    (told,) = stream.explained(dataclasses.replace(WORDS, about_seq=1), WALL_MS + 3000)
    after = push(stream, 1, angry(1))
    assert [event.seq for event in (*before, told, *after)] == [1, 2, 3]
    assert isinstance(told, events.Explanation)
    assert (told.source, told.generated, told.about_seq) == ("model", True, 1)
    assert (told.text, told.took_ms, told.model) == (WORDS.text, 40, WORDS.model)
    assert told.generation == GENERATION
    assert told.policy == "eu-strict/3f9a"
    assert told.participant_id == "p1"
    assert events.decode(events.encode(told)) == told


def test_words_change_no_book_and_no_state():
    plain, talked = opened(), opened()
    one = run(plain, [angry] * 20)
    talked.explained(WORDS, WALL_MS)
    other = run(talked, [angry] * 20)
    assert [event.seq + 1 for event in one] == [event.seq for event in other]
    assert plain.counts == talked.counts


def test_nothing_is_said_after_the_end():
    stream = opened()
    push(stream, 0, outcome(0))
    stream.end("publisher_left", WALL_MS + 9000)
    assert stream.explained(WORDS, WALL_MS + 9001) == []


def test_what_stood_out_is_measured_and_before_that_nothing():
    stream = Stream(facts())
    stream.start(WALL_MS)
    assert stream.position == 0
    assert stream.measured == ()
    out = run(stream, [angry] * 40)
    (rules,) = [event for event in out if isinstance(event, events.Explanation)]
    assert rules.cues
    assert {cue.name for cue in rules.cues} <= {cue.name for cue in stream.measured}
