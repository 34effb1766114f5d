"""Every job leaves exactly once, in time, in turn and in order. No loop, no clock: arithmetic."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.batching import Batcher
from pipeline.types import Job, Window

DELAY_S, AGE_S, BATCH = 0.01, 1.5, 3
WINDOW = Window(0, None, (), None)


def job(session="a", arrived_s=0.0):
    return Job(session, WINDOW, arrived_s, arrived_s)


def batcher(max_batch=BATCH, **kwargs):
    return Batcher(max_batch, DELAY_S, AGE_S, **kwargs)


def test_nothing_waits_and_nothing_is_due():
    made = batcher()
    assert made.due_at() is None
    assert made.take(1e9) is None
    assert made.expired(1e9) == []
    assert made.forget("nobody") == []
    assert len(made) == 0


def test_a_batch_is_due_after_the_delay_and_not_before():
    made = batcher()
    first, second = job("a"), job("b")
    made.add(first, 0.0)
    made.add(second, 0.008)
    assert made.due_at() == DELAY_S
    assert made.take(0.009) is None
    assert made.take(DELAY_S).jobs == (first, second)
    assert made.due_at() is None


def test_a_full_batch_is_due_at_once():
    made = batcher()
    jobs = [job(name) for name in "abcd"]
    for n, one in enumerate(jobs):
        made.add(one, n / 1000)
    assert made.due_at() <= 0.003
    assert made.take(0.003).jobs == tuple(jobs[:3])
    assert made.take(0.003) is None
    assert made.due_at() == 0.003 + DELAY_S
    assert made.take(made.due_at()).jobs == (jobs[3],)


def test_two_jobs_of_one_session_never_share_a_batch_and_keep_their_order():
    made = batcher()
    first, second, other = job("a"), job("a"), job("b")
    for one in (first, second, other):
        made.add(one, 0.0)
    assert made.take(1.0).jobs == (first, other)
    assert made.take(1.0).jobs == (second,)


def test_latest_wins_within_a_session():
    made = batcher()
    jobs = [job() for _ in range(3)]
    assert made.add(jobs[0], 0.0) == []
    assert made.add(jobs[1], 0.0) == []
    assert made.add(jobs[2], 0.0) == [(jobs[0], "superseded")]
    assert made.take(1.0).jobs == (jobs[1],)
    assert made.skipped["superseded"] == 1


def test_age_counts_from_the_arrival_of_the_media():
    made = batcher()
    old, new = job("a", arrived_s=0.0), job("b", arrived_s=1.0)
    made.add(old, 1.0)
    made.add(new, 1.0)
    assert made.expired(1.5) == []
    assert made.take(1.6).jobs == (new,)  # the stale one stays for expired()
    assert made.take(1.6) is None
    assert made.expired(1.6) == [(old, "stale")]
    assert made.add(job("c", arrived_s=0.0), 1.51)[0][1] == "stale"
    assert made.skipped["stale"] == 2
    assert len(made) == 0


def test_a_job_about_to_expire_is_due_before_its_delay_is_over():
    made = batcher()
    hasty = job(arrived_s=0.0)
    made.add(hasty, 1.495)
    assert made.due_at() == AGE_S
    assert made.take(AGE_S).jobs == (hasty,)


def test_lossless_jobs_are_never_superseded_nor_stale():
    made = batcher()
    jobs = [job(arrived_s=-1e6) for _ in range(4)]
    for one in jobs:
        assert made.add(one, 0.0, lossless=True) == []
    assert made.expired(1e6) == []
    assert [made.take(1e6).jobs[0] for _ in jobs] == jobs


def test_what_waits_for_an_ended_session_is_handed_back():
    made = batcher()
    mine, other = job("a"), job("b")
    made.add(mine, 0.0)
    made.add(other, 0.0)
    assert made.forget("a") == [(mine, "draining")]
    assert made.take(1.0).jobs == (other,)


@pytest.mark.parametrize("sessions", [2, 5, 9])
def test_everybody_is_served_in_turn_however_much_one_session_sends(sessions):
    made = batcher(max_batch=2)
    served = []
    for turn in itertools.count():
        for name in range(sessions):
            made.add(job(str(name), arrived_s=turn), turn)
        for _ in range(20):
            made.add(job("flood", arrived_s=turn), turn)
        served += [one.session_id for one in made.take(turn + 0.5).jobs]
        if turn == sessions + 1:
            break
    assert {str(name) for name in range(sessions)} <= set(served)
    assert served.count("flood") <= 2 + len(served) // (sessions + 1)


class Books(RuleBasedStateMachine):
    """Any order of calls: each job leaves once, with a reason that holds."""

    def __init__(self):
        super().__init__()
        self.batcher = batcher()
        self.now = 0.0
        self.inside: list[tuple[Job, bool]] = []

    def leave(self, jobs):
        for one in jobs:
            present = [entry for entry in self.inside if entry[0] is one]
            assert len(present) == 1
            self.inside.remove(present[0])

    def live(self, session):
        return [one for one, lossless in self.inside if one.session_id == session and not lossless]

    @rule(dt=st.floats(0, 0.8))
    def wait(self, dt):
        self.now += dt

    @rule(session=st.sampled_from("abcde"), age=st.floats(0, 2), lossless=st.booleans())
    def add(self, session, age, lossless):
        new = job(session, self.now - age)
        self.inside.append((new, lossless))
        out = self.batcher.add(new, self.now, lossless=lossless)
        for one, reason in out:
            if reason == "stale":
                assert one is new
                assert not lossless
                assert self.now - one.arrived_s > AGE_S - 1e-9
            else:
                assert reason == "superseded"
                assert one is self.live(session)[0]
                assert len(self.live(session)) == 3
        self.leave(one for one, _ in out)

    @rule()
    def expired(self):
        out = self.batcher.expired(self.now)
        assert all(reason == "stale" for _, reason in out)
        self.leave(one for one, _ in out)
        for one, lossless in self.inside:
            assert lossless or self.now <= one.arrived_s + AGE_S

    @rule()
    def take(self):
        due = self.batcher.due_at()
        batch = self.batcher.take(self.now)
        if batch is None:
            fresh = [
                one
                for one, lossless in self.inside
                if lossless or self.now <= one.arrived_s + AGE_S
            ]
            assert due is None or due > self.now or not fresh
            return
        assert due <= self.now
        assert 1 <= len(batch.jobs) <= BATCH
        names = [one.session_id for one in batch.jobs]
        assert len(set(names)) == len(names)
        for one in batch.jobs:
            older = list(
                itertools.takewhile(
                    lambda entry, one=one: entry[0] is not one,
                    (entry for entry in self.inside if entry[0].session_id == one.session_id),
                )
            )
            assert all(not lossless and self.now > job.arrived_s + AGE_S for job, lossless in older)
        self.leave(batch.jobs)

    @rule(session=st.sampled_from("abcde"))
    def forget(self, session):
        out = self.batcher.forget(session)
        assert [one for one, _ in out] == [
            one for one, _ in self.inside if one.session_id == session
        ]
        self.leave(one for one, _ in out)

    @invariant()
    def books_agree(self):
        assert len(self.batcher) == len(self.inside)
        assert (self.batcher.due_at() is None) == (not self.inside)
        assert all(len(self.live(name)) <= 2 for name in "abcde")

    def teardown(self):
        self.now += 10
        self.expired()
        while self.inside:
            self.take()


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
