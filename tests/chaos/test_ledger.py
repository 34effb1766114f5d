"""The checker is checked: each way of losing something is planted, and each must be found."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.ledger import (
    Book,
    Counts,
    Hole,
    Seen,
    alone,
    audit,
    judge,
    judge_all,
    line_of,
    read_books,
    read_lines,
)

NAME = "ses_1"


def book(windows=40, chance=None):
    """A session's book: start, windows with an alert now and then, end."""
    chance = chance or random.Random(0)
    made = Book(NAME, 7, [Seen(NAME, 0, "session.started")])
    kinds = []
    for index in range(windows):
        kinds.append(chance.choice(["window.scored", "window.skipped"]))
        made.events.append(Seen(NAME, len(made.events), kinds[-1], index))
        if chance.random() < 0.1:
            made.events.append(Seen(NAME, len(made.events), "alert.raised"))
    made.events.append(Seen(NAME, len(made.events), "session.ended"))
    made.cut = windows
    made.counts = Counts(kinds.count("window.scored"), kinds.count("window.skipped"))
    return made


def delivered(truth, chance):
    """A lawful delivery: some runs are not there, and each has its gap."""
    lines, seq = [], 0
    while seq < len(truth.events):
        if chance.random() < 0.1 and seq + 4 < len(truth.events):
            last = seq + chance.randint(0, 3)
            lines.append(Hole(NAME, seq, last))
            seq = last + 1
        lines.append(truth.events[seq])
        seq += 1
    return lines


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_what_is_lawful_has_no_fault(seed):
    chance = random.Random(seed)
    truth = book(chance.randint(1, 60), chance)
    lines = delivered(truth, chance)
    verdict = judge_all(lines, [truth])
    assert (verdict.faults, verdict.lost, verdict.twice) == ([], 0, 0)
    assert verdict.events + verdict.gapped == len(truth.events)
    assert audit(truth) == []


def events_of(lines):
    return [at for at, line in enumerate(lines) if isinstance(line, Seen)]


def holes_of(lines):
    return [at for at, line in enumerate(lines) if isinstance(line, Hole)]


def drop(lines, chance):
    del lines[chance.choice(events_of(lines))]


def duplicate(lines, chance):
    at = chance.choice(events_of(lines))
    lines.insert(chance.randint(at + 1, len(lines)), lines[at])


def reorder(lines, chance):
    one, two = sorted(chance.sample(events_of(lines), 2))
    lines[one], lines[two] = lines[two], lines[one]


def no_gap(lines, chance):
    del lines[chance.choice(holes_of(lines))]


def gap_twice(lines, chance):
    at = chance.choice(holes_of(lines))
    lines.insert(at, lines[at])


def gap_too_wide_behind(lines, chance):
    at = chance.choice(holes_of(lines))
    hole = lines[at]
    lines[at] = Hole(NAME, hole.first, hole.last + 1)


def gap_too_wide_before(lines, chance):
    at = chance.choice([at for at in holes_of(lines) if lines[at].first > 0])
    hole = lines[at]
    lines[at] = Hole(NAME, hole.first - 1, hole.last)


def gap_too_narrow(lines, chance):
    at = chance.choice(holes_of(lines))
    hole = lines[at]
    lines[at] = Hole(NAME, hole.first, hole.last - 1)


def other_content(lines, chance):
    at = chance.choice(events_of(lines))
    lines[at] = Seen(NAME, lines[at].seq, "window.scored", 999)


def never_written(lines, chance):
    lines.append(Seen(NAME, 9_999, "window.scored", 9_998))


@pytest.mark.parametrize(
    "mutation",
    [
        drop,
        duplicate,
        reorder,
        no_gap,
        gap_twice,
        gap_too_wide_behind,
        gap_too_wide_before,
        gap_too_narrow,
        other_content,
        never_written,
    ],
)
@pytest.mark.parametrize("seed", range(20))
def test_every_planted_fault_is_found(mutation, seed):
    chance = random.Random(seed)
    truth = book(60, chance)
    lines = [*truth.events[:5], Hole(NAME, 5, 6), *truth.events[7:]]
    if seed % 2:
        lines = delivered(truth, chance)
        if not any(hole.first > 0 for hole in lines if isinstance(hole, Hole)):
            lines = [*truth.events[:9], Hole(NAME, 9, 9), *truth.events[10:]]
    assert judge_all(lines, [truth]).faults == []
    mutation(lines, chance)
    assert judge_all(lines, [truth]).faults


def test_a_lost_end_is_a_loss_and_a_client_that_left_early_lost_nothing():
    truth = book()
    lines = truth.events[:-3]
    assert judge(lines, truth).lost == 3
    assert judge(lines, truth, whole=False).lost == 0


def test_books_that_do_not_add_up_are_found():
    def faulty(change):
        made = book()
        change(made)
        return audit(made)

    def miscount(made):
        made.counts = Counts(made.counts.scored + 1, made.counts.skipped - 1)

    def forget(made):
        made.cut += 1

    def twice(made):
        one, two = [event for event in made.events if event.index is not None][:2]
        made.events[two.seq] = Seen(NAME, two.seq, two.kind, one.index)

    def jump(made):
        del made.events[4]

    def go_on(made):
        made.events.append(Seen(NAME, len(made.events), "alert.raised"))

    assert faulty(lambda made: None) == []
    for change in (miscount, forget, twice, jump, go_on):
        assert faulty(change), change.__name__


def test_without_a_book_the_end_counts():
    truth = book()
    assert alone(truth.events, truth.counts).faults == []
    assert alone(truth.events[:4] + truth.events[5:], truth.counts).lost == 1
    wrong = Counts(truth.counts.scored + 1, truth.counts.skipped)
    assert alone(truth.events, wrong).faults
    assert judge_all([Seen("ses_x", 0, "session.started")], [truth]).faults


def test_files_hold_the_same_and_a_torn_line_is_left_out(tmp_path):
    truth = book(5)
    lines = [*truth.events[:2], Hole(NAME, 2, 3)]
    path = tmp_path / "app"
    path.write_text("\n".join(map(line_of, lines)) + '\n["link", "lost"]\n["event", "ses')
    assert read_lines(path) == lines
    owner = tmp_path / "owner"
    end = f'["end", "{NAME}", 5, {truth.counts.scored}, {truth.counts.skipped}]'
    events = "\n".join(map(line_of, truth.events))
    owner.write_text(f'["begin", "{NAME}", 7]\n{events}\n{end}\n')
    assert read_books(owner) == [truth]
