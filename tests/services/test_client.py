"""A reader of the event socket against real servers, some of which are none."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from types import SimpleNamespace

import pytest
from aiohttp import web

from pipeline.errors import UsageError
from pipeline.events import (
    AnyEvent,
    Gap,
    SessionEnded,
    SessionStarted,
    WindowScored,
    decode,
)
from services.bus.memory import MemoryBus
from services.bus.types import StreamKey
from services.client import Link, NotEvents, Reader, Refused, endpoint
from services.gateway.notices import Notices
from services.sockets import listen
from tests.services.events import KEY, ManualClock, ended, scored, started
from tests.services.gateway.conftest import Bench, opened


@pytest.mark.parametrize(
    ("typed", "address"),
    [
        ("ws://localhost:8081", "ws://localhost:8081/v1/events"),
        ("localhost:8081", "ws://localhost:8081/v1/events"),
        ("http://host:1/", "ws://host:1/v1/events"),
        ("https://host", "wss://host/v1/events"),
        ("wss://host/elsewhere?x=1", "wss://host/elsewhere?x=1"),
        ("ws://[::1]:8081", "ws://[::1]:8081/v1/events"),
    ],
)
def test_what_a_person_types_becomes_an_address(typed: str, address: str) -> None:
    assert endpoint(typed) == address


@pytest.mark.parametrize("typed", ["", "ftp://x", "ws://", "ws://x:99999", "ws://[::1", "ws://x:0"])
def test_what_is_no_address_is_wrong_use(typed: str) -> None:
    with pytest.raises(UsageError, match="is no event address"):
        endpoint(typed)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with opened(MemoryBus()) as bench:
        yield bench


async def first(reader: Reader):
    async with asyncio.timeout(20), aclosing(reader.events()) as items:
        return await anext(items)


async def test_events_come_once_and_in_order(bench: Bench) -> None:
    await bench.announce()
    reader = Reader(bench.url, "dev")
    async with asyncio.timeout(20), aclosing(reader.events()) as items:
        assert await anext(items) == Link("live")
        await bench.publish(started(0), scored(1), key=KEY)
        assert isinstance(await anext(items), SessionStarted)
        assert isinstance(await anext(items), WindowScored)
        assert reader.since == {"ses_1": 1}
        await bench.publish(ended(2), key=KEY)
        assert isinstance(await anext(items), SessionEnded)
    assert reader.since == {}
    assert reader.bytes_received > 0


async def test_a_lost_connection_is_told_and_resumed_without_a_hole(bench: Bench) -> None:
    await bench.announce()
    reader = Reader(bench.url, "dev")
    seen = []
    async with asyncio.timeout(30), aclosing(reader.events()) as items:
        assert await anext(items) == Link("live")
        await bench.publish(started(0), scored(1), key=KEY)
        seen += [await anext(items), await anext(items)]
        async with opened(bench.bus) as second:
            reader.url = second.url
            await bench.gateway.drain()
            await bench.gateway.__aexit__(None, None, None)
            await bench.publish(scored(2), scored(3), key=KEY)
            lost = await anext(items)
            assert isinstance(lost, Link)
            assert (lost.state, lost.detail[:4]) == ("lost", "1001")
            assert lost.retry_in_s > 0
            assert await anext(items) == Link("live")
            seen += [await anext(items), await anext(items)]
    assert [event.seq for event in seen] == [0, 1, 2, 3]


async def test_a_session_that_began_while_we_were_away_is_read_from_its_start(
    bench: Bench,
) -> None:
    reader = Reader(bench.url, "dev")
    async with asyncio.timeout(30), aclosing(reader.events()) as items:
        assert await anext(items) == Link("live")
        async with opened(bench.bus) as second:
            reader.url = second.url
            await bench.gateway.drain()
            await bench.gateway.__aexit__(None, None, None)
            await bench.publish(started(0), scored(1), key=KEY)
            await bench.announce()
            assert (await anext(items)).state == "lost"
            assert await anext(items) == Link("live")
            assert [(await anext(items)).seq for _ in range(2)] == [0, 1]


async def test_more_sessions_than_one_message_carries_are_resumed(bench: Bench) -> None:
    names = [f"ses_{number}" for number in range(70)]
    for name in names:
        await bench.announce(name, stream=name)
        key = StreamKey("default", name)
        await bench.publish(started(0, name), scored(1, name), scored(2, name), key=key)
    reader = Reader(bench.url, "dev", since=dict.fromkeys([*names, "ses_forgotten"], 1))
    seen = []
    async with asyncio.timeout(30), aclosing(reader.events()) as items:
        while len(seen) < len(names):
            item = await anext(items)
            if not isinstance(item, Link):
                seen.append((item.session_id, item.seq))
        assert sorted(seen) == sorted((name, 2) for name in names)
        assert "ses_forgotten" not in reader.since
        key = StreamKey("default", names[0])
        await bench.publish(scored(3, names[0]), key=key)
        while isinstance(item := await anext(items), Link):
            pass
        assert (item.session_id, item.seq) == (names[0], 3)


def test_what_was_seen_is_not_news() -> None:
    reader = Reader("ws://127.0.0.1", None)
    notices = Notices(ManualClock())

    def gap(first: int, last: int) -> AnyEvent | None:
        return reader.admit(decode(notices.gap("ses_1", first, last, "log_trimmed")))

    assert reader.admit(scored(4)) is not None
    assert reader.admit(scored(4)) is None
    assert gap(0, 4) is None
    cut = gap(2, 9)
    assert isinstance(cut, Gap)
    assert (cut.from_seq, cut.to_seq) == (5, 9)
    assert gap(5, 9) is None, "announced once"
    assert reader.since == {"ses_1": 9}
    assert reader.admit(scored(9)) is None
    assert reader.admit(ended(10)) is not None
    assert reader.since == {}
    assert [reader.admit(event) for event in (started(0), scored(9), ended(10))] == [None] * 3


@pytest.mark.parametrize(
    ("token", "sessions", "code", "words"),
    [
        ("wrong", ("*",), 4401, "--token-file"),
        ("d\xe9v", ("*",), 4401, "--token-file"),
        ("dev", ("ses_none",), 4404, "--session"),
    ],
)
async def test_a_refusal_is_final(
    bench: Bench, token: str, sessions: tuple[str, ...], code: int, words: str
) -> None:
    async def read() -> None:
        async for _ in Reader(bench.url, token, sessions).events():
            pass

    with pytest.raises(Refused, match=words) as caught:
        await asyncio.wait_for(read(), 20)
    assert caught.value.code == code


@asynccontextmanager
async def pages(status: int) -> AsyncIterator[SimpleNamespace]:
    """A web server that answers everything alike."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text="<html>hello</html>")

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield SimpleNamespace(port=runner.addresses[0][1])
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [200, 401, 404, 426])
async def test_a_web_server_is_no_event_socket(status: int) -> None:
    async with pages(status) as server:
        with pytest.raises(NotEvents, match=f"HTTP {status}.*behind Events"):
            await first(Reader(f"ws://127.0.0.1:{server.port}/v1/events", "dev"))


async def test_another_websocket_path_is_no_event_socket(bench: Bench) -> None:
    with pytest.raises(NotEvents, match="HTTP 404"):
        await first(Reader(bench.url.replace("events", "nothing"), "dev"))


async def test_a_server_that_is_busy_is_asked_again() -> None:
    async with pages(503) as server:
        link = await first(Reader(f"ws://127.0.0.1:{server.port}/v1/events", "dev"))
        assert (link.state, link.detail) == ("lost", "HTTP 503")


@asynccontextmanager
async def saying(words: bytes) -> AsyncIterator[int]:
    """A server that is not HTTP: it says a few words and closes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(words)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_another_protocol_is_no_event_socket() -> None:
    async with saying(b"220 mail.example ESMTP\r\n") as port:
        with pytest.raises(NotEvents, match="does not speak this protocol"):
            await first(Reader(f"ws://127.0.0.1:{port}/v1/events", "dev"))


async def test_a_server_without_tls_is_told() -> None:
    async with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        reader = Reader(f"wss://127.0.0.1:{port}/v1/events", "dev")
        with pytest.raises(NotEvents, match="TLS") as caught:
            await first(reader)
        assert not isinstance(caught.value, ssl.SSLError)


async def test_a_connection_that_ends_at_once_is_tried_again() -> None:
    async with saying(b"") as port:
        link = await first(Reader(f"ws://127.0.0.1:{port}/v1/events", "dev"))
        assert (link.state, link.detail) == ("lost", "the server closed the connection")


async def test_nothing_there_says_how_to_start_it() -> None:
    with closing(listen("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    link = await first(Reader(f"ws://127.0.0.1:{port}/v1/events", "dev"))
    assert link.state == "lost"
    assert f":{port}" in link.detail
    assert "demeanor up" in link.detail


async def test_a_host_that_does_not_exist_is_named() -> None:
    link = await first(Reader("ws://no-such-host.invalid/v1/events", None))
    assert "no host 'no-such-host.invalid'" in link.detail
