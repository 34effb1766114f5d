"""What every result bus promises, on each of them."""

import asyncio

import msgspec
import pytest

from pipeline.errors import BusError
from services.bus.types import LOG_RECORDS, LogLost, Reconnected, StreamKey
from services.orders import Order
from tests.services.events import KEY, record, records, scored, seqs, session, started, take


async def test_log_keeps_order_and_replays_behind_a_position(bus):
    await bus.append(KEY, records(0, 4))
    await bus.append(KEY, records(5, 9))
    everything = await bus.replay(KEY, 1000, -1)
    assert (seqs(everything.records), everything.lost) == (list(range(10)), None)
    assert everything.records == tuple(records(0, 9))
    rest = await bus.replay(KEY, 1000, 6)
    assert (seqs(rest.records), rest.lost) == ([7, 8, 9], None)
    assert (await bus.replay(KEY, 1000, 9)).records == ()
    assert (await bus.last(KEY)).header.seq == 9


async def test_trimmed_log_says_what_is_lost(bus):
    last = LOG_RECORDS + 40
    for first in range(0, last + 1, 50):
        await bus.append(KEY, records(first, min(first + 49, last)))
    replay = await bus.replay(KEY, 1000, 10)
    oldest = last - LOG_RECORDS + 1
    assert replay.lost == (11, oldest - 1)
    assert seqs(replay.records) == list(range(oldest, last + 1))


async def test_a_record_is_published_once_after_it_was_written(bus):
    async with bus.subscribe() as feed:
        await feed.add(KEY)
        await bus.append(KEY, records(0, 2))
        await bus.append(KEY, records(1, 3))  # 1 and 2 again: idempotent, not published twice
        items = await take(feed, 4)
    assert items == [(KEY, item) for item in records(0, 3)]


async def test_an_older_epoch_is_fenced_and_publishes_nothing(bus):
    await bus.append(KEY, records(0, 3, epoch=1000))
    await bus.append(KEY, records(0, 0, epoch=2000, session_id="ses_2"))
    async with bus.subscribe() as feed:
        await feed.add(KEY)
        with pytest.raises(BusError) as refused:
            await bus.append(KEY, records(4, 5, epoch=1000))
        assert not refused.value.retryable
        await bus.append(KEY, records(1, 1, epoch=2000, session_id="ses_2"))
        ((_, item),) = await take(feed, 1)
    assert item.header.session_id == "ses_2"
    assert seqs((await bus.replay(KEY, 1000, -1)).records) == [0, 1, 2, 3]


async def test_two_owners_of_one_epoch_the_second_is_fenced(bus):
    await bus.append(KEY, records(0, 0))
    with pytest.raises(BusError) as refused:
        await bus.append(KEY, [record(started(0, "ses_other"))])
    assert not refused.value.retryable


async def test_epoch_grows_past_the_log_and_follows_the_clock(bus):
    assert await bus.epoch(KEY, 5000) == 5000
    await bus.append(KEY, records(0, 0, epoch=9000))
    assert await bus.epoch(KEY, 5000) == 9001
    assert await bus.epoch(KEY, 12000) == 12000


async def test_a_log_that_is_gone_is_asked_for_again(bus, fault):
    await bus.append(KEY, records(0, 2))
    await fault.wipe()
    with pytest.raises(LogLost) as lost:
        await bus.append(KEY, records(3, 4))
    assert lost.value.retryable
    assert await bus.last(KEY) is None
    await bus.append(KEY, records(1, 4), restart=True)
    replay = await bus.replay(KEY, 1000, -1)
    assert (seqs(replay.records), replay.lost) == ([1, 2, 3, 4], (0, 0))


async def test_streams_do_not_mix(bus):
    other = StreamKey("default", "other")
    foreign = StreamKey("tenant-b", "me")
    async with bus.subscribe() as feed:
        await feed.add(KEY)
        await feed.add(other)
        await bus.append(foreign, records(0, 0, session_id="ses_b"))
        await bus.append(other, records(0, 0, session_id="ses_o"))
        await bus.append(KEY, records(0, 0))
        await feed.remove(other)
        await bus.append(other, records(1, 1, session_id="ses_o"))
        await bus.append(KEY, records(1, 1))
        items = await take(feed, 3)
    assert [(key, item.header.session_id) for key, item in items] == [
        (other, "ses_o"),
        (KEY, "ses_1"),
        (KEY, "ses_1"),
    ]
    assert await bus.last(StreamKey("default", "nobody")) is None


async def test_many_writers_in_one_turn_each_get_their_answer(bus):
    streams = [StreamKey("default", f"s{number}") for number in range(40)]
    jobs = [
        bus.append(key, records(0, 5, session_id=f"ses_{number}"))
        for number, key in enumerate(streams)
    ]
    await asyncio.gather(*jobs)
    for number, key in enumerate(streams):
        assert (await bus.last(key)).header.session_id == f"ses_{number}"
        assert seqs((await bus.replay(key, 1000, -1)).records) == [0, 1, 2, 3, 4, 5]


async def test_one_refused_writer_does_not_disturb_another_of_the_same_turn(bus):
    other = StreamKey("default", "other")
    await bus.append(KEY, records(0, 0, epoch=2000, session_id="ses_new"))
    outcomes = await asyncio.gather(
        bus.append(KEY, records(0, 1, epoch=1000)),
        bus.append(other, records(0, 1, session_id="ses_o")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], BusError)
    assert outcomes[1] is None


async def test_directory(bus):
    async with bus.changes() as changes:
        await bus.announce(session("ses_1", epoch=1), 10_000)
        await bus.announce(session("ses_2", epoch=2, stream="b"), 10_500)
        await bus.announce(session("ses_1", epoch=1), 11_000, quiet=True)
        await bus.announce(session("ses_b", tenant="tenant-b"), 10_000)
        await bus.announce(session("ses_1", epoch=1, state="ended"), 11_500)
        told = await take(changes, 4)
    assert [(item.session_id, item.state, item.lease_ms) for item in told] == [
        ("ses_1", "live", 10_000),
        ("ses_2", "live", 10_500),
        ("ses_b", "live", 10_000),
        ("ses_1", "ended", 11_500),
    ]
    entries = await bus.sessions("default", 12_000)
    assert [(item.session_id, item.state) for item in entries] == [
        ("ses_1", "ended"),
        ("ses_2", "live"),
    ]
    assert await bus.leases("default", 12_000) == {"ses_1": 11_500, "ses_2": 10_500}
    assert await bus.lookup("ses_2") == session("ses_2", epoch=2, stream="b", lease_ms=10_500)
    assert await bus.lookup("ses_9") is None


async def test_directory_forgets_two_minutes_after_the_end(bus):
    await bus.announce(session("ses_1", state="ended"), 10_000)
    assert await bus.sessions("default", 10_000 + 120_000) != []
    assert await bus.sessions("default", 10_000 + 120_001) == []


async def test_erase_flag_survives_the_owner_renewing(bus):
    entry = session("ses_1")
    await bus.announce(entry, 10_000)
    await bus.announce(msgspec.structs.replace(entry, erase=True), 10_000)
    await bus.announce(entry, 11_000, quiet=True)
    assert (await bus.lookup("ses_1")).erase
    assert (await bus.lookup("ses_1")).lease_ms == 11_000


async def test_erasing_a_session_leaves_the_others_and_the_fence(bus):
    await bus.append(KEY, records(0, 3, epoch=1000))
    await bus.append(KEY, records(0, 1, epoch=2000, session_id="ses_2"))
    await bus.erase_session(KEY, 1000)
    assert (await bus.replay(KEY, 1000, -1)).records == ()
    assert seqs((await bus.replay(KEY, 2000, -1)).records) == [0, 1]
    await bus.erase_session(KEY, 2000)
    assert await bus.last(KEY) is None
    with pytest.raises(BusError) as refused:
        await bus.append(KEY, records(4, 4, epoch=1000))
    assert not refused.value.retryable
    await bus.append(KEY, records(2, 2, epoch=2000, session_id="ses_2"))
    await bus.erase([KEY])
    assert await bus.last(KEY) is None


async def test_outage_is_an_error_to_writers_and_a_sign_to_readers(bus, fault):
    await bus.append(KEY, records(0, 1))
    async with bus.subscribe() as feed, bus.changes() as changes:
        await feed.add(KEY)
        async with fault.outage():
            with pytest.raises(BusError) as away:
                await bus.append(KEY, records(2, 2))
            assert away.value.retryable
            with pytest.raises(BusError):
                await bus.ping()
        assert await take(feed, 1) == [Reconnected()]
        assert await take(changes, 1) == [Reconnected()]
        await bus.append(KEY, records(0, 2), restart=True)
        await bus.announce(session("ses_1"), 10_000)
        assert [item[1].header.seq for item in await take(feed, 3)] == [0, 1, 2]
        assert (await take(changes, 1))[0].session_id == "ses_1"
    assert await bus.ping() >= 0.0


async def test_bytes_pass_untouched(bus):
    event = record(scored(0))
    raw = type(event)(event.header, event.data + " \u00fc\U0001f642\x00".encode())
    async with bus.subscribe() as feed:
        await feed.add(KEY)
        await bus.append(KEY, [raw])
        assert (await take(feed, 1))[0][1] == raw
    assert await bus.last(KEY) == raw


async def test_orders_stand_until_they_expire(bus):
    await bus.give_order(Order("scoring", "acme", "off", 5_000), 1_000)
    await bus.give_order(Order("revoked", "jti", "", 3_000), 1_000)
    await bus.give_order(Order("scoring", "acme", "on", 6_000), 2_000)
    by_name = sorted(await bus.orders(2_000), key=lambda order: order.name)
    assert by_name == [Order("scoring", "acme", "on", 6_000), Order("revoked", "jti", "", 3_000)]
    assert await bus.orders(4_000) == [Order("scoring", "acme", "on", 6_000)]
    await bus.give_order(Order("revoked", "later", "", 9_000), 7_000)
    assert await bus.orders(1_000) == [Order("revoked", "later", "", 9_000)]
