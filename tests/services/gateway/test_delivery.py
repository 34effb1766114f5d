"""Live delivery: replay, healing, slow readers, owners and sessions that come and go."""

import asyncio
import socket

import pytest
from structlog.testing import capture_logs

from pipeline.errors import BusError
from services.bus.memory import MemoryBus
from services.gateway import client, hub, outbox
from tests.services.events import KEY, StreamKey, alert, ended, record, scored, session, started
from tests.services.gateway.conftest import opened


def places(messages):
    """Return seqs, and (from, to) of gaps."""
    return [
        (event["from_seq"], event["to_seq"]) if event["type"] == "gap" else event["seq"]
        for event in messages
    ]


async def live(bench, reader, count=1):
    await bench.announce()
    await bench.publish(started(), *(scored(seq) for seq in range(1, count)), key=KEY)
    answer = await reader.ask(type="subscribe", id="1")
    assert answer["sessions"] == ["ses_1"]


async def test_live_events_arrive_untouched(bench):
    async with bench.reader() as reader:
        await live(bench, reader)
        event = scored(1)
        raw = record(event)
        await bench.bus.append(KEY, [raw])
        assert await asyncio.wait_for(reader.socket.recv(), 10) == raw.data.decode()


async def test_new_sessions_join_a_star(bench):
    async with bench.reader() as everything, bench.reader() as one:
        await live(bench, everything)
        await one.ask(type="subscribe", id="1", sessions=["ses_1"])
        await bench.publish(started(0, "ses_2"), key=StreamKey("default", "b"), epoch=7)
        await bench.announce("ses_2", stream="b", epoch=7)
        event = await everything.next()
        assert (event["session_id"], event["seq"]) == ("ses_2", 0)
        await bench.publish(ended(1), key=KEY)
        assert (await one.next())["type"] == "session.ended"


async def test_a_session_that_began_and_ended_unseen_is_delivered_whole(bench):
    async with bench.reader() as reader:
        await reader.ask(type="subscribe", id="1")
        with bench.bus.outage():
            bench.bus._away = False  # others reach it, we were not told of anything
            deaf, bench.bus._ctl = bench.bus._ctl, set()
            await bench.announce()
            await bench.publish(started(), scored(1), ended(2), key=KEY)
            await bench.announce(state="ended", lease_ms=0)
            bench.bus._ctl = deaf
        assert places(await reader.take(3)) == [0, 1, 2]


async def test_a_newcomer_that_cannot_be_read_yet_is_tried_again(bench, monkeypatch):
    away = [True]
    replay = bench.bus.replay

    async def sometimes(*place):
        if away:
            away.pop()
            raise BusError("away", retryable=True)
        return await replay(*place)

    monkeypatch.setattr(bench.bus, "replay", sometimes)
    async with bench.reader() as reader:
        await reader.ask(type="subscribe", id="1")
        await bench.publish(started(), key=KEY)
        await bench.announce()
        assert (await reader.next())["type"] == "session.started"


async def test_other_tenants_are_invisible(bench):
    foreign = StreamKey("tenant-b", "me")
    await bench.announce("ses_b", tenant="tenant-b")
    await bench.publish(started(0, "ses_b"), key=foreign)
    async with bench.reader() as reader:
        answer = await reader.ask(type="subscribe", id="1", snapshot=True)
        assert answer["sessions"] == answer["snapshot"] == []
        await bench.announce("ses_c", tenant="tenant-b", stream="c")
        await bench.publish(scored(1, "ses_b"), key=foreign)
        await reader.send(type="subscribe", id="2", sessions=["ses_b"])
        assert (await reader.rest())[1] == 4403


async def test_resume_replays_then_goes_on(bench):
    async with bench.reader() as reader:
        await live(bench, reader, 10)
    async with bench.reader() as reader:
        answer = await reader.ask(type="resume", id="2", since={"ses_1": 5})
        assert answer == {
            "type": "resumed",
            "id": "2",
            "recovered": {"ses_1": 4},
            "lost": {},
            "sessions": ["ses_1"],
        }
        await bench.publish(scored(10), scored(11), key=KEY)
        assert places(await reader.take(6)) == [6, 7, 8, 9, 10, 11]


async def test_resume_covers_sessions_that_began_meanwhile(bench):
    async with bench.reader() as reader:
        await live(bench, reader, 3)
    await bench.announce("ses_2", stream="b", epoch=7)
    await bench.publish(
        started(0, "ses_2"), scored(1, "ses_2"), key=StreamKey("default", "b"), epoch=7
    )
    async with bench.reader() as reader:
        answer = await reader.ask(type="resume", id="2", since={"ses_1": 2})
        assert answer["recovered"] == {"ses_1": 0, "ses_2": 2}
        seen = await reader.take(2)
    assert [(event["session_id"], event["seq"]) for event in seen] == [("ses_2", 0), ("ses_2", 1)]


async def test_resume_of_a_session_that_ended_meanwhile(bench):
    async with bench.reader() as reader:
        await live(bench, reader, 3)
    await bench.publish(scored(3), ended(4), key=KEY)
    await bench.announce(state="ended", lease_ms=0)
    async with bench.reader() as reader:
        answer = await reader.ask(type="resume", id="2", since={"ses_1": 2})
        assert answer["recovered"] == {"ses_1": 2}
        assert places(await reader.take(2)) == [3, 4]


async def test_resume_past_the_log_begins_with_a_gap(bench):
    await bench.announce()
    await bench.publish(started(), *(scored(seq) for seq in range(1, 300)), key=KEY)
    async with bench.reader() as reader:
        answer = await reader.ask(type="resume", id="2", since={"ses_1": 10})
        assert answer["lost"] == {"ses_1": 33}
        seen = await reader.take(257)
    assert places(seen) == [(11, 43), *range(44, 300)]
    assert seen[0]["cause"] == "log_trimmed"
    assert seen[0]["seq"] is None


async def test_resume_of_an_unknown_session_beside_a_star(bench):
    async with bench.reader() as reader:
        answer = await reader.ask(type="resume", id="2", since={"ses_gone": 10})
        assert answer["lost"] == {"ses_gone": None}
        assert (await reader.ask(type="ping", id="1"))["type"] == "pong"


async def test_a_hole_in_the_live_path_is_healed_from_the_log(bench):
    async with bench.reader() as reader:
        await live(bench, reader)
        swallow = bench.bus._live.copy()
        bench.bus._live.clear()
        await bench.publish(scored(1), scored(2), key=KEY)
        bench.bus._live.update(swallow)
        await bench.publish(scored(3), key=KEY)
        assert places(await reader.take(3)) == [1, 2, 3]
    assert bench.gateway.statistics()["heals_total"] >= 1


async def test_a_lost_last_message_is_found_by_the_tail_check(bench):
    async with bench.reader() as reader:
        await live(bench, reader)
        swallow = bench.bus._live.copy()
        bench.bus._live.clear()
        await bench.publish(scored(1), scored(2), key=KEY)
        bench.bus._live.update(swallow)
        await bench.gateway.hub.tick(tails=True)
        assert places(await reader.take(2)) == [1, 2]


async def test_what_even_the_log_lost_is_told(bench):
    async with bench.reader() as reader:
        await live(bench, reader)
        await bench.publish(scored(5), key=KEY)
        gap, event = await reader.take(2)
    assert (gap["from_seq"], gap["to_seq"], gap["cause"]) == (1, 4, "log_trimmed")
    assert gap["session_id"] == "ses_1"
    assert event["seq"] == 5


async def test_a_log_that_vanished_is_waited_for(bench):
    async with bench.reader() as reader:
        await live(bench, reader, 3)
        missing = [record(scored(seq)) for seq in (3, 4)]
        bench.bus.wipe()
        for feed in bench.bus._live:
            feed.put((KEY, record(scored(5))))  # published just before the server went
        async with asyncio.timeout(30):
            while bench.gateway.statistics()["heals_total"] < 3:
                await asyncio.sleep(0.01)
        await bench.bus.append(KEY, missing, restart=True)
        assert places(await reader.take(3)) == [3, 4, 5]


async def test_a_log_that_stays_silent_has_lost_it(bench, monkeypatch):
    monkeypatch.setattr(hub, "HOLE_PATIENCE_S", 0.3)
    async with bench.reader() as reader:
        await live(bench, reader, 3)
        bench.bus.wipe()
        for feed in bench.bus._live:
            feed.put((KEY, record(scored(5))))
        assert places(await reader.take(2)) == [(3, 4), 5]


async def test_a_short_outage_costs_nothing(bench):
    async with bench.reader() as reader:
        await live(bench, reader)
        log = bench.bus._logs[KEY]
        with bench.bus.outage():
            for event in (scored(1), scored(2)):
                bench.bus._accept(log, record(event))  # written by another node meanwhile
        assert places(await reader.take(2)) == [1, 2]


async def test_owner_lost_is_told_and_is_not_fatal(bench):
    async with bench.reader() as reader:
        await bench.announce(lease_ms=1)
        await bench.publish(started(), key=KEY)
        await reader.ask(type="subscribe", id="1", sessions=["ses_1"])
        async with asyncio.timeout(30):
            while bench.clock.wall_ms() < (await bench.bus.lookup("ses_1")).lease_ms + 2:
                await asyncio.sleep(0.001)
        await bench.gateway.hub.tick(tails=False)
        await bench.gateway.hub.tick(tails=False)
        error = await reader.next()
        assert (error["code"], error["fatal"], error["session_id"]) == (
            "stream_lost",
            False,
            "ses_1",
        )
        await bench.announce()
        await bench.publish(scored(1), key=KEY)
        assert (await reader.next())["seq"] == 1, "an owner that comes back is heard, told once"


async def test_who_came_while_the_owner_was_gone_follows_when_it_is_back(bench):
    async with bench.reader() as before, bench.reader() as meanwhile:
        await bench.announce(lease_ms=1)
        await bench.publish(started(), key=KEY)
        assert (await before.ask(type="subscribe", id="1"))["sessions"] == ["ses_1"]
        async with asyncio.timeout(30):
            while bench.clock.wall_ms() < (await bench.bus.lookup("ses_1")).lease_ms + 2:
                await asyncio.sleep(0.001)
        await bench.gateway.hub.tick(tails=False)
        assert (await meanwhile.ask(type="subscribe", id="1"))["sessions"] == []
        await bench.announce()
        await bench.gateway.hub.tick(tails=False)
        await bench.publish(scored(1), key=KEY)
        assert places(await meanwhile.take(2)) == [0, 1]
        assert (await before.next())["code"] == "stream_lost"
        assert places(await before.take(1)) == [1], "who knew it reads on"


async def test_a_session_whose_announcement_was_lost_is_found_by_its_lease(bench):
    async with bench.reader() as reader:
        await reader.ask(type="subscribe", id="1")
        entry = session("ses_9", stream="z")
        await bench.bus.announce(entry, bench.clock.wall_ms() + 60_000, quiet=True)
        await bench.publish(started(0, "ses_9"), key=StreamKey("default", "z"))
        await bench.gateway.hub.tick(tails=False)
        assert (await reader.next())["session_id"] == "ses_9"


async def test_idle_feeds_are_let_go(bench, monkeypatch):
    monkeypatch.setattr(hub, "LINGER_S", -1.0)
    async with bench.reader() as reader:
        await live(bench, reader)
        await bench.gateway.hub.tick(tails=False)
        assert bench.gateway.statistics()["feeds"] == 1
        await bench.publish(ended(1), key=KEY)
        assert (await reader.next())["type"] == "session.ended"
        await reader.ask(type="ping", id="1")
    await bench.gateway.hub.tick(tails=False)
    assert bench.gateway.statistics()["feeds"] == 0


async def test_a_feed_that_is_still_opening_is_not_idle(bench, monkeypatch):
    opening, go_on = asyncio.Event(), asyncio.Event()
    replay = bench.bus.replay

    async def slowly(*place):
        opening.set()
        await go_on.wait()
        return await replay(*place)

    monkeypatch.setattr(bench.bus, "replay", slowly)
    entry = await bench.announce()
    async with asyncio.TaskGroup() as group:
        feed = group.create_task(bench.gateway.hub.feed(entry))
        await opening.wait()
        await bench.gateway.hub.tick(tails=False)
        assert bench.gateway.statistics()["feeds"] == 1
        go_on.set()
    assert bench.gateway.hub._feeds["ses_1"] is feed.result()


async def test_max_hz_on_the_wire(bench):
    async with bench.reader() as reader:
        await bench.announce()
        await bench.publish(started(), key=KEY)
        await reader.ask(type="subscribe", id="1", max_hz=0.001)
        await bench.publish(scored(1), key=KEY)
        assert (await reader.next())["seq"] == 1
        await bench.publish(scored(2), scored(3), alert(4), scored(5), key=KEY)
        assert (await reader.next())["seq"] == 4
        assert (await reader.ask(type="ping", id="1"))["type"] == "pong"


def narrow(url):
    """Connect with a tiny receive buffer, so that a reader that stops is noticed soon."""
    host, port = url.removeprefix("ws://").partition("/")[0].split(":")
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect((host, int(port)))
    made.setblocking(False)
    return made


async def stalled(bench, reader, events_per_round=50):
    """Publish until the gateway has conflated something for a reader that does not read."""
    seq = 0
    member = None
    async with asyncio.timeout(30):
        while bench.gateway.hub._feeds["ses_1"].members:
            made = [scored(seq := seq + 1) for _ in range(events_per_round)]
            made[7] = alert(made[7].seq)
            await bench.publish(*made, key=KEY)
            member = next(iter(bench.gateway.hub._feeds["ses_1"].members))
            for _ in range(3):
                await asyncio.sleep(0)
            if member.cursor < seq - 150:
                return seq, member
    return seq, member


async def test_a_slow_reader_gets_gaps_that_cover_exactly_what_is_missing(bench, monkeypatch):
    monkeypatch.setattr(outbox, "QUEUE_MESSAGES", 32)
    async with bench.reader(sock=narrow(bench.url), max_queue=1, compression=None) as reader:
        await live(bench, reader)
        last, _ = await stalled(bench, reader)
        seen = []
        while not seen or seen[-1] != last:
            seen += places([await reader.next()])
        delivered = [item for item in seen if isinstance(item, int)]
        gaps = [item for item in seen if isinstance(item, tuple)]
        covered = [seq for first, final in gaps for seq in range(first, final + 1)]
        assert delivered == sorted(set(delivered))
        assert gaps, "it was slow enough to be conflated"
        assert sorted(delivered + covered) == list(range(1, last + 1))
        alerts = set(range(8, last + 1, 50))
        assert alerts <= set(delivered), "alerts are never conflated"
        await bench.publish(scored(last + 1), key=KEY)
        assert (await reader.next())["seq"] == last + 1, "it has caught up"


async def test_a_reader_that_stops_reading_is_closed_and_others_are_not(bench, monkeypatch):
    monkeypatch.setattr(client, "SEND_S", 0.2)
    monkeypatch.setattr(client, "CLOSE_S", 0.2)
    async with (
        bench.reader(sock=narrow(bench.url), max_queue=1) as stuck,
        bench.reader() as fast,
    ):
        await live(bench, stuck)
        await fast.ask(type="subscribe", id="1")
        seq = 0
        async with asyncio.timeout(20):
            while len(bench.gateway.hub._feeds["ses_1"].members) == 2:
                made = [scored(seq := seq + 1) for _ in range(20)]
                await bench.publish(*made, key=KEY)
                for _ in made:
                    assert (await fast.next())["type"] == "window.scored"
        _, code = await stuck.rest()
        assert code in (4508, 1006)  # 1006 where even the close frame finds no room
        assert (await fast.ask(type="ping", id="1"))["type"] == "pong"


async def test_alerts_that_pile_up_close_with_4508(bench):
    async with bench.reader(sock=narrow(bench.url), max_queue=1) as reader:
        await live(bench, reader)
        seq = 0
        async with asyncio.timeout(20):
            while bench.gateway.hub._feeds["ses_1"].members:
                made = [alert(seq := seq + 1) for _ in range(200)]
                await bench.publish(*made, key=KEY)
                await asyncio.sleep(0)
                if seq > 100_000:
                    pytest.fail("alerts pile up without end")
                if any(
                    member.outbox.closing for member in bench.gateway.hub._feeds["ses_1"].members
                ):
                    break
        seen, code = await reader.rest()
    assert code in (4508, 1006)
    numbers = [event["seq"] for event in seen if event["type"] == "alert.raised"]
    assert numbers == list(range(1, len(numbers) + 1)), "what came is without a hole"


async def test_hub_tells_when_a_task_of_its_own_ended():
    with capture_logs() as said:
        async with opened(MemoryBus()) as bench:
            assert bench.gateway.hub.running
        assert said == [], "closing is no fault"
        async with opened(MemoryBus()) as bench:
            bench.gateway.hub._tasks[0].cancel()
            await asyncio.gather(bench.gateway.hub._tasks[0], return_exceptions=True)
            assert not bench.gateway.hub.running
    assert [(line["log_level"], line["task"]) for line in said] == [("error", "hub_read")]
