"""What a reader gets: strictly rising, and every seq delivered, left out, or in exactly one gap."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.bus.types import LOG_RECORDS
from services.gateway.feed import RECORDS, Entry, Feed, text_frame
from services.gateway.member import Member, Missing
from services.gateway.protocol import Selection
from tests.services.events import alert, ended, record, records, scored, session, skipped


class Outbox:
    """Notes what a member tells its connection."""

    def __init__(self):
        self.due = []
        self.overruns = 0

    def ready(self, member):
        self.due.append(member)

    def overrun(self):
        self.overruns += 1


MAKE = {"w": scored, "s": skipped, "a": alert}


def joined(feed, after=-1, **selection):
    outbox = Outbox()
    member = Member(feed, outbox, Selection(**selection), after)
    feed.members.add(member)
    return member, outbox


def flat(items):
    return [(item.first, item.last) if isinstance(item, Missing) else item.seq for item in items]


def publish(feed, kinds):
    for kind in kinds:
        feed.receive(record(MAKE[kind](feed.last + 1)))


step = st.one_of(
    st.text(alphabet="wsa", min_size=1, max_size=40),
    st.tuples(st.integers(1, 40), st.booleans()),
    st.just("lose"),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(step, max_size=40), st.sampled_from([None, ["window.scored"], ["alert.*"]]))
def test_books_balance(steps, wanted):
    feed = Feed(session())
    member, outbox = joined(feed, events=wanted)
    got, gaps, kinds = [], [], {}
    for action in [*steps, *[(40, False)] * 40]:
        if isinstance(action, str) and action != "lose":
            for kind in action:
                kinds[feed.last + 1] = kind
                publish(feed, kind)
        elif action == "lose":
            feed.held[feed.last + 4] = record(scored(feed.last + 4))
            kinds[feed.last + 4] = "w"
            feed.accept_holes()
        else:
            items, again = member.take(0.0, action[0], slow=action[1])
            assert again is None
            for item in items:
                if isinstance(item, Entry):
                    got.append(item.seq)
                else:
                    gaps.append((item.first, item.last))
    assert member.cursor == feed.last
    covered = [seq for first, last in gaps for seq in range(first, last + 1)]
    assert got == sorted(set(got))
    assert len(covered) == len(set(covered))
    assert not set(got) & set(covered)
    tags = {"w": "window.scored", "s": "window.skipped", "a": "alert.raised"}
    must = {s for s, kind in kinds.items() if member.selection.takes(tags[kind])}
    assert must <= set(got) | set(covered)
    must_never_go = {s for s in must if kinds[s] == "a"}
    assert outbox.overruns or must_never_go <= set(got)


def test_a_slow_reader_gets_the_newest_window_and_one_gap_per_run():
    feed = Feed(session())
    member, _ = joined(feed)
    publish(feed, "wwwwawwsw")
    items, _ = member.take(0.0, 40, slow=True)
    assert flat(items) == [(0, 3), 4, (5, 7), 8]
    assert member.why(Missing(0, 3)) == "slow_reader"


def test_a_replay_is_never_conflated():
    feed = Feed(session())
    publish(feed, "wwwwww")
    member, _ = joined(feed, after=1)
    publish(feed, "ww")
    assert (member.recovered, member.lost, member.behind) == (6, 0, 2)
    items, _ = member.take(0.0, 3, slow=True)
    assert flat(items) == [2, 3, 4]
    items, _ = member.take(0.0, 9, slow=True)
    assert flat(items) == [5, (6, 6), 7]


def test_what_the_log_lost_is_told_first():
    feed = Feed(session())
    feed.heal(tuple(records(100, 110)))
    member, _ = joined(feed, after=40)
    assert (member.recovered, member.lost) == (11, 59)
    items, _ = member.take(0.0, 3, slow=False)
    assert flat(items) == [(41, 99), 100, 101]
    assert member.why(items[0]) == "log_trimmed"


def test_a_position_that_left_the_cache_is_told_too():
    feed = Feed(session())
    publish(feed, "w" * (RECORDS + 50))
    member, _ = joined(feed, after=10)
    items, _ = member.take(0.0, 1, slow=False)
    assert flat(items) == [(11, 49), 50]
    assert member.why(items[0]) == "log_trimmed"


def test_a_reader_that_sleeps_through_the_cache_is_slow():
    feed = Feed(session())
    publish(feed, "w")
    member, outbox = joined(feed, after=0)
    publish(feed, "w" * (RECORDS + 9))
    items, _ = member.take(0.0, 1, slow=False)
    assert flat(items) == [(1, 9), 10]
    assert member.why(items[0]) == "slow_reader"
    assert outbox.overruns == 0


def test_an_alert_is_not_overwritten_in_silence():
    feed = Feed(session())
    _, outbox = joined(feed)
    _, quiet = joined(feed, events=["window.*"])
    publish(feed, "a" + "w" * RECORDS)
    assert (outbox.overruns, quiet.overruns) == (1, 0)


def test_max_hz_keeps_the_newest_and_makes_no_gap():
    feed = Feed(session())
    member, _ = joined(feed, max_hz=2)
    publish(feed, "www")
    assert (flat(member.take(10.0, 9, slow=False)[0])) == [2]
    publish(feed, "ww")
    assert member.take(10.1, 9, slow=False) == ([], 10.5)
    publish(feed, "w")
    assert flat(member.take(10.6, 9, slow=True)[0]) == [5]


def test_max_hz_never_holds_back_an_alert():
    feed = Feed(session())
    member, _ = joined(feed, max_hz=1)
    publish(feed, "w")
    assert flat(member.take(10.0, 9, slow=False)[0]) == [0]
    publish(feed, "wwa")
    assert flat(member.take(10.1, 9, slow=False)[0]) == [3]
    publish(feed, "wwaw")
    items, again = member.take(10.2, 9, slow=False)
    assert (flat(items), again) == ([6], 11.0)


def test_unwanted_events_wake_nobody():
    feed = Feed(session())
    member, outbox = joined(feed, events=["alert.*"])
    publish(feed, "wws")
    assert (member.cursor, outbox.due) == (2, [])
    publish(feed, "a")
    assert outbox.due == [member]


def test_a_session_that_ends_is_finished_even_for_those_who_left_its_end_out():
    feed = Feed(session())
    member, outbox = joined(feed, events=["alert.*"])
    feed.receive(record(ended(0)))
    assert member.finished
    assert outbox.due == [member]


# the feed


@settings(deadline=None)
@given(st.permutations(range(12)))
def test_records_in_any_order_come_out_in_order(order):
    feed = Feed(session())
    made = records(0, 11)
    complete = [feed.receive(made[seq]) for seq in order]
    assert [entry.seq for entry in feed.entries] == list(range(12))
    assert complete[-1] is True
    assert not feed.held
    assert not feed.holes


def test_doubles_are_dropped():
    feed = Feed(session())
    for item in [*records(0, 3), *records(1, 4), *records(0, 0)]:
        assert feed.receive(item)
    assert len(feed.entries) == 5


def test_a_hole_is_healed_or_told():
    feed = Feed(session())
    made = records(0, 9)
    assert feed.receive(made[0])
    assert not feed.receive(made[4])
    assert feed.last == 0
    feed.heal(tuple(made[2:6]))  # 1 is gone for good
    assert feed.last == 5
    assert list(feed.holes) == [(1, 1, "log_trimmed")]
    assert not feed.held


def test_held_records_are_bounded():
    feed = Feed(session())
    for seq in range(2, LOG_RECORDS + 20):
        assert not feed.receive(record(scored(seq)))
    assert len(feed.held) == LOG_RECORDS
    feed.accept_holes()
    assert feed.entries[0].seq == 2


def test_erasing_leaves_only_the_end():
    feed = Feed(session())
    publish(feed, "wwa")
    feed.receive(record(ended(3)))
    feed.erase()
    assert [entry.kind for entry in feed.entries] == ["session.ended"]


def test_frames_by_rfc_6455():
    from websockets.frames import Frame, Opcode

    for size in (0, 1, 125, 126, 65535, 65536, 70000):
        data = b"x" * size
        assert text_frame(data) == Frame(Opcode.TEXT, data).serialize(mask=False)
