"""One good stream beside four hostile publishers: how much later do its events come?

    python -m tests.bench.hostile                 # about a minute: three conditions in turn
    python -m tests.bench.hostile --rounds 4 --seconds 6

The conditions alternate in one run: `alone`; `elsewhere`, the same attackers throwing the same
packets at sockets that nobody reads, which shows what their own CPU costs on a small machine; and
`attack`. Attackers are processes of their own, pinned to the last core at a low priority, and the
rest of the run to the other cores, since real attackers use the CPU of another machine:

  senders   a connected peer sends each packet from a new SSRC, 1000 a second
  flood     a connected peer sends 20 000 small RTP packets a second
  garbage   peers send oversized VP8 key frames, damaged ones, far sequence numbers, 500 a second
  door      50 offers a second that never connect, and 2000 DTLS alerts a second to all media ports

Each has a token of its own, all of one tenant. Everything stays on 127.0.0.0/8.
"""

import argparse
import asyncio
import itertools
import os
import random
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
from aiortc import RTCSessionDescription

from services.settings import Settings
from services.tasks import cancelled
from tests.bench import clip
from tests.bench.live import Listener, centile, listen, publish, usage
from tests.chaos.holes import media, pairs
from tests.e2e.harness import ROOT, Server, environment, launch
from tests.services.identity.tokens import CONSENT, Issuer

KINDS = ("senders", "flood", "garbage", "door")
CONDITIONS = ("alone", "elsewhere", "attack")
SETTLE_S = 1.0
"""At the start of each phase, not counted."""
TICK_S = 0.005
NICE = 10
CORES = range(os.cpu_count() or 1)
PORTS = Settings().udp_ports
HEADERS = {"Content-Type": "application/sdp"}
DOOR_STREAMS = 40


class Orders:
    """What the attacker should do now, as its parent says on standard input."""

    def __init__(self):
        self.mode = "alone"

    async def follow(self):
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            self.mode = line.decode().strip()

    async def ticks(self):
        """Yield while there is work to do, each :data:`TICK_S`, and how many seconds passed."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            passed, last = min(now - last, 10 * TICK_S), now
            if self.mode != "alone":
                yield passed


class Hostile:
    """A connected peer and its bare socket."""

    def __init__(self, server, name):
        self.url = f"{server}/whip/{name}"
        self.sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sink.bind(("127.0.0.9", 0))
        self.publisher = None

    async def connect(self, http):
        publisher = await pairs.offered("video", "VP8")
        offer = publisher.localDescription.sdp
        async with http.post(self.url, data=offer, headers=HEADERS) as response:
            body = await response.text()
        if response.status != 201:
            await publisher.close()
            return False
        await publisher.setRemoteDescription(RTCSessionDescription(body, "answer"))
        ended = time.monotonic() + 15
        while publisher.connectionState != "connected" and time.monotonic() < ended:
            await asyncio.sleep(0.01)
        self.publisher = publisher
        self.link = publisher.getTransceivers()[0].sender.transport
        (pair,) = self.link.transport._connection._nominated.values()
        self.socket = pair.protocol.transport.get_extra_info("socket")
        self.bare = socket.socket(fileno=os.dup(self.socket.fileno()))
        self.there = pair.remote_addr
        self.number = int(re.search(r"m=video \d+ \S+ (\d+)", body)[1])
        return True

    @property
    def over(self):
        return self.publisher is None or self.publisher.connectionState != "connected"

    def send(self, sequence, ssrc, payload, *, elsewhere):
        head = struct.pack(
            "!BBHII", 0x80, 0x80 | self.number, sequence % 65536, sequence * 90 % 2**32, ssrc
        )
        data = self.link._tx_srtp.protect(head + payload)
        with suppress(OSError):
            self.bare.sendto(data, self.sink.getsockname() if elsewhere else self.there)

    async def close(self):
        if self.publisher is not None:
            self.bare.close()
            await self.publisher.close()
            self.publisher = None


async def attack(kind, server):
    """Do harm as told, until standard input ends; its first line is a token."""
    os.nice(NICE)
    os.sched_setaffinity(0, {CORES[-1]})
    HEADERS["Authorization"] = f"Bearer {sys.stdin.readline().strip()}"
    orders = Orders()
    telling = asyncio.create_task(orders.follow())
    harming = asyncio.create_task(_HARM[kind](server, orders))
    print("ready", flush=True)
    await asyncio.wait([telling, harming], return_when=asyncio.FIRST_COMPLETED)
    if harming.done():
        harming.result()
    await cancelled(harming)
    await cancelled(telling)


async def _packets(server, orders, name, per_s, make):
    """Send what ``make`` gives, ``per_s`` times a second; connect anew after being thrown out."""
    hostile, due, count = Hostile(server, name), 0.0, itertools.count()
    sent = again = 0
    async with aiohttp.ClientSession() as http:
        try:
            async for passed in orders.ticks():
                if hostile.over:
                    await hostile.close()
                    again += 1
                    if not await hostile.connect(http):
                        await asyncio.sleep(1)
                        continue
                due = min(due + passed * per_s, per_s / 10)
                for _ in range(int(due)):
                    sequence, ssrc, payload = make(next(count))
                    hostile.send(sequence, ssrc, payload, elsewhere=orders.mode == "elsewhere")
                    sent += 1
                due -= int(due)
        finally:
            print(f"{name}: {sent} packets, connected {again} times", file=sys.stderr)
            await hostile.close()


async def senders(server, orders):
    def make(number):
        return 1, 10_000 + number, b"\x10" + bytes(40)

    await _packets(server, orders, "senders", 1000, make)


async def flood(server, orders):
    def make(number):
        return number, 77, b"\x10\x11" + bytes(40)  # a picture that leans on others

    await _packets(server, orders, "flood", 20_000, make)


async def garbage(server, orders):
    chance = random.Random("garbage")
    oversized = b"\x10" + media.vp8_key(16_383, 16_383)[:1100]

    at = 0

    def make(number):
        nonlocal at
        at += 32_000 if number % 4 == 1 else 1
        match number % 4:
            case 0:
                return at, 88, oversized
            case 1:
                return at, 88, b"\x10" + chance.randbytes(200)
            case 2:
                return at, 88, b"\x10" + b"\x10" + chance.randbytes(300)
            case _:
                return at, 88, chance.randbytes(chance.randint(1, 60))

    await _packets(server, orders, "garbage", 500, make)


async def door(server, orders):
    publisher = await pairs.offered()
    offer = publisher.localDescription.sdp
    junk = b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02\x28"
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("127.0.0.2", 0))
    statuses, posts, due, owed, count = Counter(), set(), 0.0, 0.0, itertools.count()

    async def post(http, number):
        with suppress(aiohttp.ClientError):
            url = f"{server}/whip/door-{number % DOOR_STREAMS}"
            async with http.post(url, data=offer, headers=HEADERS) as response:
                statuses[response.status] += 1

    try:
        async with aiohttp.ClientSession() as http:
            async for passed in orders.ticks():
                elsewhere = orders.mode == "elsewhere"
                due, owed = due + passed * 2000, owed + passed * 50
                for _ in range(int(due)):
                    port = PORTS[0] + next(count) % (PORTS[1] - PORTS[0] + 1)
                    sender.sendto(junk, ("127.0.0.9" if elsewhere else "127.0.0.1", port))
                due -= int(due)
                if owed >= 1:
                    owed -= 1
                    if not elsewhere and len(posts) < 20:
                        task = asyncio.create_task(post(http, next(count)))
                        posts.add(task)
                        task.add_done_callback(posts.discard)
    finally:
        print(
            f"door: {next(count)} datagrams and offers, answers {dict(statuses)}", file=sys.stderr
        )
        await publisher.close()


_HARM = {"senders": senders, "flood": flood, "garbage": garbage, "door": door}


async def measure(call: Path, rounds: int, seconds: float) -> None:
    """Alternate the conditions and print what the good stream's client saw in each."""
    os.sched_setaffinity(0, CORES[:-1] or CORES)
    with tempfile.TemporaryDirectory() as folder:
        issuer = Issuer(Path(folder))
        server = await asyncio.to_thread(launch, Path(folder), f"--token-keys={issuer.jwks}")
        try:
            late = await _measured(server, issuer, call, rounds, seconds)
        finally:
            await asyncio.to_thread(server.stop)
    _tell(late)


async def _measured(
    server: Server, issuer: Issuer, call: Path, rounds: int, seconds: float
) -> dict[str, list[float]]:
    listener, late = Listener(), {name: [] for name in CONDITIONS}
    cpu_s = {name: [] for name in CONDITIONS}
    reading = asyncio.create_task(listen(server, listener))
    await listener.ready.wait()
    total_s = rounds * len(CONDITIONS) * (seconds + SETTLE_S) + 20
    good = asyncio.create_task(publish(server, call, 1, total_s))
    attackers = [await _attacker(kind, server, issuer) for kind in KINDS]
    while not listener.heard.late_ms:
        await asyncio.sleep(0.1)
    (ours,) = listener.heard.scored
    for turn in range(rounds):
        for step in range(len(CONDITIONS)):
            name = CONDITIONS[(turn + step) % len(CONDITIONS)]
            for attacker in attackers:
                attacker.stdin.write(f"{name}\n".encode())
                await attacker.stdin.drain()
            await asyncio.sleep(SETTLE_S)
            before = usage(server.process.pid)
            late[name] += await _late(listener, ours, seconds)
            cpu_s[name].append(usage(server.process.pid).cpu_s - before.cpu_s)
    for attacker in attackers:
        attacker.stdin.close()
    await asyncio.gather(*(attacker.wait() for attacker in attackers))
    await cancelled(good)
    await cancelled(reading)
    for name, spent in cpu_s.items():
        print(f"  {name:10s} the server used {sum(spent) / len(spent) / seconds:.2f} cores")
    return late


async def _late(listener: Listener, ours: str, seconds: float) -> list[float]:
    """Return how late the good stream's windows were while ``seconds`` passed."""
    listener.heard = listener.heard.fresh()
    listener.heard.started_ms = {ours: listener.heard.started_ms[ours]}
    await asyncio.sleep(seconds)
    lost = {name: count for name, count in listener.heard.lost.items() if count}
    if lost:
        print(f"  windows skipped (of any stream): {lost}")
    return listener.heard.late_ms


async def _attacker(kind: str, server: Server, issuer: Issuer) -> asyncio.subprocess.Process:
    streams = [f"door-{number}" for number in range(DOOR_STREAMS)] if kind == "door" else [kind]
    token = issuer.token(
        tenant="hostile",
        scope=" ".join(f"ingest:{stream}" for stream in streams),
        consent=CONSENT,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.hostile", "--attack", kind, "--server", server.http),
        cwd=ROOT,
        env=environment(server.runtime),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    process.stdin.write(f"{token}\n".encode())
    await process.stdout.readline()
    return process


def _tell(late: dict[str, list[float]]) -> None:
    print("end of window -> event at the good stream's client")
    for name, values in late.items():
        print(
            f"  {name:10s} {len(values):4d} windows  p50 {centile(values, 50):6.0f} ms  "
            f"p90 {centile(values, 90):6.0f} ms  p99 {centile(values, 99):6.0f} ms"
        )
    for name in ("alone", "elsewhere"):
        ratios = [centile(late["attack"], p) / centile(late[name], p) for p in (50, 90, 99)]
        told = "  ".join(f"p{p} x{r:.2f}" for p, r in zip((50, 90, 99), ratios, strict=True))
        print(f"  attack / {name:10s} {told}")
    print(f"  load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.5)
    parser.add_argument("--attack", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        asyncio.run(attack(given.attack, given.server))
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(clip.make(Path(folder)), given.rounds, given.seconds))


if __name__ == "__main__":
    main()
