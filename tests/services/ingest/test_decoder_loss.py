"""Live publishers while the decoder's process is killed, held up and crashed under them."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import WindowSkipped
from pipeline.types import AudioChunk
from services.ingest import decoding as module
from services.ingest.decoding import Decoding
from services.ingest.items import Reached
from services.queues import Registry
from tests.services.ingest import faulty
from tests.services.ingest.support import Card, Tone, publishing, serving
from tests.services.ingest.test_session import Rig


@asynccontextmanager
async def endpoint():
    async with (
        Decoding(Registry(), 4, program=faulty.__name__) as decoding,
        serving(decoding=decoding) as server,
    ):
        yield server, decoding


def check_books(server):
    for session in server.whip.sessions():
        books = session.statistics()
        assert books.cut == books.scored + sum(books.skipped.values()) + books.in_flight


async def whole_again(server):
    """Wait until every session has a window that lacks nothing of sound and pictures."""

    def whole(window):
        return window.audio_coverage == (1.0,) * 4 and len(window.frames) == 8

    before = {name: len(server.scoring.windows.get(name, ())) for name in server.sinks}
    async with asyncio.timeout(60):
        while not all(
            any(map(whole, server.scoring.windows.get(name, ())[count:]))
            for name, count in before.items()
        ):
            check_books(server)
            await asyncio.sleep(0.05)


async def test_two_live_streams_go_on(monkeypatch):
    async with (
        endpoint() as (server, decoding),
        publishing(server, Tone(), Card(), stream="a"),
        publishing(server, Tone(), Card(), stream="b", codec="video/H264"),
    ):
        await whole_again(server)
        os.kill(decoding.pid, signal.SIGKILL)
        await whole_again(server)
        assert decoding.statistics().restarts == 1
        assert decoding.statistics().ends == {"killed": 1}
        monkeypatch.setattr(module, "DEADLINE_S", 0.5)
        os.kill(decoding.pid, signal.SIGSTOP)
        while decoding.statistics().restarts == 1:
            check_books(server)
            await asyncio.sleep(0.02)
        monkeypatch.setattr(module, "DEADLINE_S", 30.0)
        await whole_again(server)
        ends = decoding.statistics().ends
        assert ends["killed"] == 1
        assert set(ends) == {"killed", "late"}  # a busy machine may be late by itself
        assert len(server.whip.sessions()) == 2
    for sink in server.sinks.values():
        await sink.until(lambda sink: sink.closed)
        assert sink.ended == "publisher_left"
        indices = [event.window.index for event in sink.windows]
        assert indices == list(range(len(indices)))
        assert [event.seq for event in sink.events] == list(range(len(sink.events)))


async def test_who_crashes_it_twice_ends_and_the_neighbour_goes_on():
    async with (
        endpoint() as (server, decoding),
        publishing(server, Tone(), Card(), stream="good"),
    ):
        await whole_again(server)
        async with publishing(server, Card(*faulty.CURSED), stream="cursed", codec="video/VP8"):
            await server.sink(1).until(lambda sink: sink.closed, timeout_s=60)
            assert server.sink(1).ended == "bad_media"
            while decoding.statistics().restarts < 2:
                await asyncio.sleep(0.01)
            assert decoding.statistics().ends == {"crashed": 2}
        assert [session.facts.stream for session in server.whip.sessions()] == ["good"]
        server.sinks.pop(list(server.sinks)[1])
        await whole_again(server)
        assert decoding.statistics().restarts == 2
        check_books(server)


def skipped(rig):
    return dict(rig.session.statistics().skipped)


async def test_a_window_with_nothing_left_says_why():
    rig = Rig(tracks=("audio",))
    rig.session.feed([rig.sound(0, 3)])
    rig.session.lose({"audio": (48_000, 96_000)})
    rig.session.feed([rig.sound(6, 9)])
    assert skipped(rig)["decoder_crash"] == 3  # those that begin at 3.0, 3.5 and 4.0 s
    reasons = {
        event.window.index: event.reason
        for event in rig.sink.windows
        if isinstance(event, WindowSkipped) and event.window.index in (6, 7, 8)
    }
    assert reasons == dict.fromkeys((6, 7, 8), "model_error")
    await rig.session.end("publisher_left")
    rig.check_books()
    assert rig.indices == list(range(len(rig.indices)))


async def test_a_window_that_has_another_track_is_scored():
    rig = Rig(tracks=("audio", "video"))
    rig.session.feed([rig.sound(0, 6), Reached("video", 48_000)])
    rig.session.lose({"video": (48_000, 96_000)})
    assert skipped(rig).get("decoder_crash") is None
    await rig.session.end("publisher_left")
    rig.check_books()


async def test_silence_of_the_publisher_is_not_blamed_on_the_decoder():
    rig = Rig(tracks=("audio",))
    rig.session.lose({"audio": (0, 8_000)})
    rig.session.feed([Reached("audio", 96_000), rig.sound(6, 7)])
    assert skipped(rig).get("decoder_crash", 0) == 1  # the one window that the loss touches
    await rig.session.end("publisher_left")
    rig.check_books()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60_000)), max_size=12))
def test_the_books_are_exact_whatever_is_lost(stretches):
    async def run():
        rig = Rig(tracks=("audio",))
        at = 0
        for lost, ticks in stretches:
            if lost:
                rig.session.lose({"audio": (at, at + ticks)})
            else:
                rig.session.feed([AudioChunk(at, np.full(ticks, 1000, np.int16))])
            at += ticks
            rig.check_books()
        await rig.session.end("publisher_left")
        rig.check_books()
        assert rig.session.statistics().in_flight == 0

    asyncio.run(run())
