"""The gate: whatever comes in whatever order, nothing is scored outside granted consent (I5)."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline import events
from pipeline.policy import Case, Decision, Gate, Policy
from pipeline.stream import Stream, Timing
from tests.pipeline.readings import facts, outcome, window

SCORED = Decision(True, None, "")
ASKS = Decision(False, "policy_consent", "", asks=True)
UNSCORED = Decision(False, "policy_role", "")
ORDERS = st.sampled_from([None, "granted", "withdrawn", "nonsense"])


@given(st.sampled_from([SCORED, ASKS, UNSCORED]), st.lists(ORDERS))
def test_consent_is_the_last_word_and_withdrawal_is_final(decision, orders):
    gate = Gate(decision)
    for at, order in enumerate(orders):
        gate.consented(order)
        said = orders[: at + 1]
        withdrawn = "withdrawn" in said
        assert gate.opens == (
            decision is not UNSCORED and not withdrawn and (decision is SCORED or "granted" in said)
        )
        assert (gate.skips == "consent_withdrawn") == withdrawn


def test_each_packet_before_consent_is_counted():
    gate = Gate(ASKS)
    assert [gate.passes() for _ in range(3)] == [False] * 3
    assert gate.consented("granted")
    assert not gate.consented("granted")
    assert gate.passes()
    assert gate.dropped == 3


def test_the_kill_switch_skips_and_does_not_shut():
    gate = Gate(SCORED)
    assert gate.switched(on=False)
    assert not gate.switched(on=False)
    assert gate.opens
    assert gate.skips == "scoring_off"
    assert gate.switched(on=True)
    assert gate.skips is None


def test_a_role_that_is_not_scored_never_opens():
    gate = Gate(Policy().decide(Case("agent")))
    for order in ("granted", None, "granted"):
        gate.consented(order)
        assert not gate.passes()
    assert not gate.asks


class Consenting(RuleBasedStateMachine):
    """A session whose owner cuts, scores in any order, and takes orders at any moment."""

    @initialize(asks=st.booleans())
    def begin(self, asks):
        self.gate = Gate(ASKS if asks else SCORED)
        self.stream = Stream(facts(scored=True))
        self.stream.start(0)
        self.index = 0
        self.open = []
        self.cut = {}
        self.out = []
        self.now = 0
        self.over = None

    def _take(self, leaving):
        self.out += [(self.now, event) for event in leaving]

    @precondition(lambda self: self.gate.opens)
    @rule()
    def window_is_cut(self):
        self.stream.cut(window(self.index))
        self.cut[self.index] = self.now
        if self.gate.skips is None:
            self.open.append(self.index)
        else:
            self._take(self.stream.resolve(self.index, self.gate.skips, Timing(), self.now))
        self.index += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def window_is_scored(self, data):
        index = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        result = self.gate.skips or outcome(index)
        self._take(self.stream.resolve(index, result, Timing(100, 6, 31), self.now))

    @rule(order=ORDERS)
    def consent_is_said(self, order):
        if self.gate.consented(order) and self.gate.consent == "withdrawn":
            self.over = self.now
            self._take(self.stream.void("consent_withdrawn", self.now))

    @rule(on=st.booleans())
    def scoring_is_switched(self, on):
        if self.gate.switched(on=on) and self.gate.skips:
            self._take(self.stream.void(self.gate.skips, self.now))

    @invariant()
    def nothing_is_scored_outside_consent(self):
        self.now += 1
        for at, event in self.out:
            if isinstance(event, events.WindowScored):
                assert self.over is None or at < self.over
                assert self.cut[event.window.index] <= at

    @invariant()
    def books_are_exact(self):
        skipped = sum(self.stream.skipped.values())
        assert self.stream.cut_count == self.stream.scored + skipped + self.stream.in_flight
        if self.gate.consent == "withdrawn":
            assert self.stream.in_flight == 0
        seqs = [event.seq for _, event in self.out]
        assert seqs == list(range(1, len(seqs) + 1))

    @invariant()
    def nobody_is_cut_without_consent(self):
        assert self.gate.consent != "pending" or not self.cut


TestConsenting = Consenting.TestCase
TestConsenting.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
