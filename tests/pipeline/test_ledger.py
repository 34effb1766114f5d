"""The books: every window leaves once, in order, whatever order answers come in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import Answer, Ledger, Timing
from pipeline.types import VideoFrame, Window
from tests.pipeline.readings import window

STALE = Answer("stale", Timing(), 0)


def left(ledger):
    return [entry.index for entry, _ in ledger.leave()]


def test_answers_wait_for_what_was_cut_before():
    ledger = Ledger(8)
    for index in range(3):
        ledger.add(window(index))
    ledger.answer(2, STALE)
    ledger.answer(1, STALE)
    assert left(ledger) == []
    assert ledger.unanswered() == [0]
    assert ledger.in_flight == 3
    ledger.answer(0, STALE)
    assert left(ledger) == [0, 1, 2]
    assert ledger.in_flight == 0


def test_a_second_answer_is_ignored_and_counted():
    ledger = Ledger(8)
    ledger.add(window(0))
    assert ledger.answer(0, STALE)
    assert not ledger.answer(0, Answer("overload", Timing(), 0))
    assert [answer.result for _, answer in ledger.leave()] == ["stale"]
    assert not ledger.answer(0, STALE)
    assert not ledger.answer(7, STALE)
    assert ledger.ignored == 3


@pytest.mark.parametrize("index", [0, 4, 5])
def test_indices_only_grow(index):
    ledger = Ledger(8)
    ledger.add(window(5))
    with pytest.raises(ValueError, match="after window 5"):
        ledger.add(window(index))
    ledger.add(window(90))
    assert ledger.cut == 2


def test_a_full_book_names_the_oldest_without_an_answer():
    ledger = Ledger(2)
    for index in range(3):
        assert ledger.overdue() is None
        ledger.add(window(index))
    ledger.answer(0, STALE)
    assert ledger.overdue().index == 1
    ledger.answer(1, STALE)
    ledger.answer(2, STALE)
    assert ledger.overdue() is None


@pytest.mark.parametrize(
    ("made", "audio", "video"),
    [
        (window(0), None, "no_media"),
        (window(0, audio=False), "no_track", "no_media"),
        (window(0, video=False), None, "no_track"),
        (window(0, coverage=0.0), "no_media", "no_media"),
        (Window(0, None, (), (VideoFrame(0, np.zeros((2, 2, 3), np.uint8)),)), "no_track", None),
    ],
)
def test_what_is_known_before_any_model(made, audio, video):
    ledger = Ledger(8)
    ledger.add(made)
    ledger.answer(0, STALE)
    ((entry, _),) = ledger.leave()
    assert (entry.evidence.audio.reason, entry.evidence.video.reason) == (audio, video)
    assert entry.evidence.text.reason == "no_asr"
    assert not entry.evidence.audio.used
    assert not entry.evidence.video.used


@given(st.permutations(range(12)), st.integers(1, 12))
def test_any_order_of_answers_gives_one_order_of_leaving(order, bound):
    ledger, seen = Ledger(bound), []
    for index in range(12):
        ledger.add(window(index))
    for index in order:
        ledger.answer(index, STALE)
        seen += left(ledger)
        assert ledger.cut == len(seen) + ledger.in_flight
    assert seen == list(range(12))
