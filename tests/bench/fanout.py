"""CPU of one delivery to a WebSocket client, beside a bare ``socket.send`` of the ready frame.

Both sides run in this process and in one run; the readers are a child process that discards what
it reads. ``python -m tests.bench.fanout [--clients N] [--ticks N] [--burst N]``.
"""

import argparse
import asyncio
import base64
import json
import multiprocessing
import os
import selectors
import socket
import time

from services.auth import Guard
from services.bus.memory import MemoryBus
from services.clock import SystemClock
from services.gateway.app import Gateway
from services.gateway.feed import text_frame
from services.settings import Settings
from tests.services.events import KEY, record, scored, session, started

try:
    import uvloop
except ImportError:
    uvloop = None

TICK_S = 0.005
"""Both sides rest between ticks, as events do, so that readers fall asleep alike."""
REQUEST = (
    "GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nAuthorization: Bearer dev\r\n\r\n"
)


def masked(text: str) -> bytes:
    """Return a client's text frame (masked with zeros)."""
    data = text.encode()
    return bytes((0x81, 0x80 | len(data))) + bytes(4) + data


def drain(ports: list[int], clients: int, websocket: bool) -> None:
    """Connect ``clients`` times and discard everything until killed."""
    selector = selectors.DefaultSelector()
    for number in range(clients):
        made = socket.create_connection(("127.0.0.1", ports[number % len(ports)]))
        if websocket:
            key = base64.b64encode(os.urandom(16)).decode()
            made.sendall(REQUEST.format(key=key).encode())
            made.sendall(masked('{"type":"subscribe","id":"1"}'))
        made.setblocking(False)
        selector.register(made, selectors.EVENT_READ, made)
    while True:
        for key, _ in selector.select():
            key.fileobj.recv(1 << 16)  # type: ignore[union-attr]


def readers(port: int, clients: int, *, websocket: bool) -> multiprocessing.Process:
    """Start the child that reads."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=drain, args=([port], clients, websocket), daemon=True)
    child.start()
    return child  # type: ignore[return-value]


def bare(clients: int, ticks: int, burst: int) -> float:
    """Return CPU seconds of a bare send for each event and client."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=clients)
    child = readers(listener.getsockname()[1], clients, websocket=False)
    peers = [listener.accept()[0] for _ in range(clients)]
    frame = text_frame(record(scored(1)).data)
    begun = time.process_time()
    for _ in range(ticks):
        for _ in range(burst):
            for peer in peers:
                peer.send(frame)
        time.sleep(TICK_S)
    spent = time.process_time() - begun
    child.terminate()
    for peer in (*peers, listener):
        peer.close()
    return spent


async def gateway(clients: int, ticks: int, burst: int) -> float:
    """Return CPU seconds of the gateway for the same deliveries."""
    bus, clock = MemoryBus(), SystemClock()
    settings = Settings(ws_port=0)
    guard = Guard.bound_to([settings.host])
    async with Gateway(bus, guard=guard, clock=clock, settings=settings) as door:
        await bus.announce(session(), clock.wall_ms() + 3_600_000)
        await bus.append(KEY, [record(started())])
        child = readers(door.ws_port, clients, websocket=True)
        while door.statistics()["readers"] < clients:
            await asyncio.sleep(0.05)
        begun, seq = time.process_time(), 0
        for _ in range(ticks):
            events = [record(scored(seq + n)) for n in range(1, burst + 1)]
            seq += burst
            await bus.append(KEY, events)
            members = door.hub._feeds["ses_1"].members
            await asyncio.sleep(TICK_S)
            while min(member.cursor for member in members) < seq:
                await asyncio.sleep(TICK_S)
        spent = time.process_time() - begun
        conflated = sum(member.outbox.conflated for member in members)
        assert not conflated, "readers were too slow for a fair figure"
        child.terminate()
    return spent


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--ticks", type=int, default=100)
    parser.add_argument("--burst", type=int, default=10, help="events a tick")
    given = parser.parse_args()
    shape = (given.clients, given.ticks, given.burst)
    deliveries = given.clients * given.ticks * given.burst
    plain = bare(*shape) / deliveries
    run = asyncio.run if uvloop is None else uvloop.run
    ours = run(gateway(*shape)) / deliveries
    told = {
        "clients": given.clients,
        "events_per_tick": given.burst,
        "bare_send_us": round(plain * 1e6, 2),
        "gateway_us": round(ours * 1e6, 2),
        "ratio": round(ours / plain, 2),
        "loop": "asyncio" if uvloop is None else "uvloop",
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
