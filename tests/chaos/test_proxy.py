"""The chaos proxy does what its weather says, and the bus and its readers live with it."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from tests.chaos.proxy import BLACK_HOLE, DRIP, FAIR, HALF_OPEN, SLICED, SLOW, Proxy, Weather


@asynccontextmanager
async def echo():
    async def serve(reader, writer):
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


@asynccontextmanager
async def through(weather=FAIR, seed=1):
    async with echo() as server, Proxy(server, seed=seed, weather=weather) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            yield proxy, reader, writer
        finally:
            writer.close()


async def silent(reader):
    """Tell whether nothing comes for a moment."""
    try:
        async with asyncio.timeout(0.2):
            await reader.readexactly(1)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("weather", [FAIR, SLICED, SLOW, Weather(bytes_per_s=200_000)])
async def test_bytes_arrive_whole_and_in_order(weather):
    data = bytes(range(256)) * 8
    async with asyncio.timeout(30), through(weather) as (_, reader, writer):
        writer.write(data)
        assert await reader.readexactly(len(data)) == data


async def test_a_black_hole_holds_everything_until_it_is_gone():
    async with asyncio.timeout(30), through() as (proxy, reader, writer):
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.change(BLACK_HOLE)
        writer.write(b"two")
        assert await silent(reader)
        proxy.heal()
        assert await reader.readexactly(3) == b"two"


async def test_half_open_hears_and_does_not_answer():
    async with asyncio.timeout(30), through(HALF_OPEN) as (proxy, reader, writer):
        writer.write(b"one")
        assert await silent(reader)
        proxy.change(FAIR)
        assert await reader.readexactly(3) == b"one"


async def test_a_drip_passes_single_bytes():
    async with asyncio.timeout(30), through(DRIP) as (_, reader, writer):
        writer.write(b"xyz")
        assert await reader.read(3) == b"x"


async def test_cut_resets_and_refuses_until_healed():
    async with asyncio.timeout(30), through() as (proxy, reader, writer):
        writer.write(b"one")
        await reader.readexactly(3)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        late, closing = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await late.readexactly(1)
        closing.close()
        proxy.heal()
        again, writing = await asyncio.open_connection("127.0.0.1", proxy.port)
        writing.write(b"two")
        assert await again.readexactly(3) == b"two"
        writing.close()
        assert proxy.refused == 1


async def test_the_second_server_is_asked_when_the_first_is_away():
    async with asyncio.timeout(30), echo() as server:
        gone = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = gone.sockets[0].getsockname()[1]
        gone.close()
        await gone.wait_closed()
        async with Proxy(("127.0.0.1", port), server) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            writer.close()
