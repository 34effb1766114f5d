"""A transport that is closed under a connection's feet is a lost connection on every loop."""

import asyncio

import pytest
import uvloop
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import ConnectionError as Lost

from services.bus import server
from services.bus.channels import Channels
from services.bus.connections import _Tcp, _Tls, _Unix, translate
from services.bus.redis import RedisBus
from services.bus.types import Reconnected
from tests.chaos.proxy import Proxy
from tests.services.valkey import PASSWORD

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.Loop}


def played(loop, scene):
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(asyncio.wait_for(scene(), 60))


@pytest.mark.parametrize("loop", LOOPS)
def test_writing_to_a_transport_that_was_reset_is_a_lost_connection(valkey, loop):
    async def scene():
        client = server.client(valkey.url)
        connection = await client.connection_pool.get_connection()
        connection._writer.transport.abort()
        await asyncio.sleep(0.01)

        async def ask():
            await connection.send_command("PING")
            await connection.read_response()

        with pytest.raises(Lost):
            await ask()
        await connection.disconnect(nowait=True)
        await client.aclose()

    played(loop, scene)


@pytest.mark.parametrize("loop", LOOPS)
def test_resets_at_any_moment_end_no_reader(valkey, loop):
    async def scene():
        async with Proxy(str(valkey.socket)) as proxy:
            url = f"redis://:{PASSWORD}@127.0.0.1:{proxy.port}"
            async with RedisBus.at(url) as bus, Channels(bus._client) as channels:
                await channels.add("x")
                for pause in range(12):
                    proxy.cut()
                    await asyncio.sleep(0.004 * pause)
                    proxy.heal()
                    await asyncio.sleep(0.004 * pause)
                    proxy.reset()
                async for item in channels:
                    if isinstance(item, Reconnected):
                        break
                assert not channels.failed

    played(loop, scene)


@pytest.mark.parametrize(
    ("url", "kind"),
    [("redis://127.0.0.1", _Tcp), ("rediss://127.0.0.1", _Tls), ("unix:///s", _Unix)],
)
def test_every_kind_of_address_is_covered(url, kind):
    pool = BlockingConnectionPool.from_url(url)
    translate(pool)
    assert pool.connection_class is kind
    assert server.client(url).connection_pool.connection_class is kind
