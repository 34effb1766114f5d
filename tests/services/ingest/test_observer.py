"""Who looks on as a session works: what it is shown, and whose sessions it never sees."""

from pipeline.events import Explanation, SessionEnded, WindowScored
from pipeline.policy import Decision, Gate
from pipeline.types import AudioChunk, VideoFrame
from services.bus.memory import MemoryBus
from services.clock import SystemClock
from services.ingest.session import Session
from services.orders import Orders
from tests.services.explain.words import WORDS
from tests.services.ingest.support import Card, Tone, serving
from tests.services.ingest.test_policing import GUARD, Talkative, published, until
from tests.services.ingest.test_session import Rig, _facts


class Onlooker:
    """Notes what it is shown."""

    def __init__(self):
        self.session = None
        self.shown, self.heard = [], []
        self.closed = 0

    def attach(self, session):
        self.session = session

    def media(self, item):
        assert not self.closed
        self.shown.append(item)

    def said(self, events):
        self.heard += events

    def close(self):
        self.closed += 1


def observed(*, gate=None):
    rig, looker = Rig(), Onlooker()
    rig.session = Session(
        _facts(),
        scoring=rig.scoring,
        sink=rig.sink,
        clock=rig.clock,
        live=True,
        gate=gate or Gate(Decision(True, None, "")),
        observer=looker,
    )
    return rig, looker


async def test_it_sees_all_media_and_all_events_and_is_closed_once():
    rig, looker = observed()
    assert looker.session is rig.session
    rig.session.feed([rig.sound(0, 1), rig.sound(1, 2)])
    assert [len(item.samples) for item in looker.shown] == [16000, 16000]
    await rig.session.end("publisher_left")
    await rig.session.end("timeout")
    assert looker.heard == rig.sink.events
    assert isinstance(looker.heard[-1], SessionEnded)
    assert looker.closed == 1


async def test_words_take_their_place_among_the_events():
    rig, _ = observed()
    rig.session.feed([rig.sound(0, 2)])
    rig.session.explain(WORDS)
    rig.session.feed([rig.sound(2, 3)])
    await rig.session.end("publisher_left")
    rig.check_books()
    (told,) = rig.sink.of(Explanation)
    assert told.seq == 2
    rig.session.explain(WORDS)
    assert len(rig.sink.of(Explanation)) == 1, "nothing after the end"


async def test_nothing_is_said_before_the_first_media():
    rig, _ = observed()
    rig.session.explain(WORDS)
    assert not rig.sink.events


async def test_while_scoring_is_off_nothing_is_shown_and_nothing_said():
    gate = Gate(Decision(True, None, ""))
    rig, looker = observed(gate=gate)
    rig.session.feed([rig.sound(0, 1)])
    gate.switched(on=False)
    rig.session.feed([rig.sound(1, 2)])
    rig.session.explain(WORDS)
    assert len(looker.shown) == 1
    assert not rig.sink.of(Explanation)
    gate.switched(on=True)
    rig.session.feed([rig.sound(2, 3)])
    rig.session.explain(WORDS)
    assert len(looker.shown) == 2
    assert len(rig.sink.of(Explanation)) == 1


async def test_after_consent_was_withdrawn_nothing_is_shown_and_nothing_said():
    gate = Gate(Decision(True, None, ""))
    rig, looker = observed(gate=gate)
    rig.session.feed([rig.sound(0, 1)])
    gate.consented("withdrawn")
    rig.session.halt()
    rig.session.feed([rig.sound(1, 2)])
    rig.session.explain(WORDS)
    assert len(looker.shown) == 1
    assert not rig.sink.of(Explanation)


async def test_who_is_not_judged_is_never_watched():
    """Others whom the policy denies are refused at the door (test_policing)."""
    watched = []
    async with (
        serving(guard=GUARD, observe=watched.append) as server,
        published(server, "agent", Tone()),
    ):
        (publication,) = server.whip.publications()
        await until(lambda: publication.statistics().lost.get("policy", 0) > 5)
    assert not watched


async def test_who_must_agree_first_is_watched_from_then_on():
    watched = {}

    def observe(facts):
        watched[facts.session_id] = Onlooker()
        return watched[facts.session_id]

    async with (
        Orders(MemoryBus(), SystemClock()) as orders,
        serving(guard=GUARD, observe=observe, orders=orders, scoring=Talkative()) as server,
        published(server, "customer", Tone(), Card()),
    ):
        ((session_id, looker),) = watched.items()
        (publication,) = server.whip.publications()
        await until(lambda: publication.statistics().lost.get("policy", 0) > 5)
        assert not looker.shown
        until_ms = SystemClock().wall_ms() + 60_000
        await orders.give("consent", session_id, "granted", until_ms)
        await until(lambda: {AudioChunk, VideoFrame} <= set(map(type, looker.shown)))
        await until(lambda: any(isinstance(each, WindowScored) for each in looker.heard))
    assert looker.closed == 1
