"""A gateway in a process of its own, so that it can be killed, stopped and started alone.

    python -m tests.chaos.door --redis URL --port 9001

Composes the product's own gateway over a Redis bus. SIGTERM drains it.
"""

import argparse
import asyncio
import signal

import uvloop

from pipeline.errors import BusError
from services.auth import Guard
from services.bus.redis import RedisBus
from services.clock import SystemClock
from services.gateway.app import Gateway
from services.settings import Settings

RETRY_S = 0.1


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--redis", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    while not over.is_set():
        try:
            async with RedisBus.at(given.redis) as bus:
                await serve(bus, given.port, over)
        except BusError:  # as a supervisor would start it again
            await asyncio.sleep(RETRY_S)


async def serve(bus: RedisBus, port: int, over: asyncio.Event) -> None:
    settings = Settings(ws_port=port, http_port=0)
    guard = Guard.bound_to([settings.host])
    async with Gateway(bus, guard=guard, clock=SystemClock(), settings=settings):
        print("ready", flush=True)
        await over.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.Loop) as runner:  # as in the product
        runner.run(main())
