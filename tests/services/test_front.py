"""Connections that say nothing, or little and slowly, do not keep the others out."""

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from services.clock import SystemClock
from services.front import Front
from services.tls import server_context
from tests.services.certificates import Authority

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def served(front, tls=None):
    async def hello(_request):
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        bound.setblocking(False)
        async with front.serving(app, bound, tls):
            yield bound.getsockname()[1]


@asynccontextmanager
async def caller(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answered(reader, writer):
    writer.write(REQUEST)
    return (await asyncio.wait_for(reader.readuntil(b"hello"), 20)).split(b"\r\n")[0]


async def ended(reader):
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n"])
async def test_who_finishes_no_request_is_sent_away(said):
    front = Front(silent_s=0.3)
    async with served(front) as port, caller(port) as (reader, writer):
        writer.write(said)
        assert await ended(reader) == b""
        await until(lambda: front.statistics()["connections"] == 0)


async def test_who_drips_letters_is_sent_away_as_well():
    async with served(Front(silent_s=0.5)) as port, caller(port) as (reader, writer):
        gone = asyncio.create_task(ended(reader))
        for letter in REQUEST * 400:
            if gone.done():
                break
            writer.write(bytes([letter]))
            await asyncio.sleep(0.05)
        assert await gone == b""


async def test_between_two_requests_the_same_time_is_given():
    async with served(Front(silent_s=0.5)) as port, caller(port) as (reader, writer):
        for _ in range(3):
            assert await answered(reader, writer) == b"HTTP/1.1 200 OK"
        assert await ended(reader) == b""


def told(front, number):
    """Tell whether the front knows of the last of so many callers."""
    now = front.statistics()
    return now["silent_connections"] + now["displaced_connections_total"] == number


async def test_of_the_silent_the_oldest_leaves_for_the_newest():
    front = Front(silent=3)
    async with served(front) as port, AsyncExitStack() as stack:
        speaking = await stack.enter_async_context(caller(port))
        assert await answered(*speaking) == b"HTTP/1.1 200 OK"
        silent = []
        for number in range(5):
            silent.append(await stack.enter_async_context(caller(port)))
            await until(partial(told, front, number + 1))
        assert [await ended(reader) for reader, _ in silent[:2]] == [b"", b""]
        assert front.statistics()["displaced_connections_total"] == 2
        for pair in (*silent[2:], speaking):
            assert await answered(*pair) == b"HTTP/1.1 200 OK"
        assert front.statistics()["silent_connections"] == 0


async def test_there_are_only_so_many():
    front = Front(connections=2)
    async with served(front) as port, AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(caller(port)) for _ in range(2)]
        assert [await answered(*pair) for pair in pairs] == [b"HTTP/1.1 200 OK"] * 2
        async with caller(port) as (reader, _):
            assert await ended(reader) == b""
        assert front.statistics()["crowded_connections_total"] == 1
        pairs[0][1].close()
        await until(lambda: front.statistics()["connections"] == 1)
        async with caller(port) as pair:
            assert await answered(*pair) == b"HTTP/1.1 200 OK"
    assert front.statistics()["connections"] == 0


async def test_what_is_no_http_is_refused_and_counted_and_not_logged(caplog):
    front = Front()
    async with served(front) as port, caller(port) as (reader, writer):
        with capture_logs() as ours:
            writer.write(b"G\0T c4nary\x1b[31m HTTP/1.1\r\n\r\n")
            assert (await ended(reader)).startswith(b"HTTP/1.0 400 ")
        assert front.statistics()["unreadable_requests_total"] == 1
    assert (ours, caplog.records) == ([], [])


async def test_who_does_not_finish_the_handshake_is_sent_away(tmp_path):
    authority = Authority(tmp_path)
    tls = server_context(*authority.server(), SystemClock())
    async with served(Front(silent_s=0.5), tls) as port:
        async with caller(port) as (reader, writer):
            writer.write(b"\x16\x03\x01")
            assert await ended(reader) == b""
        trusting = ssl.create_default_context(cafile=authority.ca)
        reader, writer = await asyncio.open_connection("localhost", port, ssl=trusting)
        assert await answered(reader, writer) == b"HTTP/1.1 200 OK"
        writer.close()
        await writer.wait_closed()
