"""A UDP relay between a publisher and the server: seeded loss, jitter, reorder, doubles, blackouts.

The publisher is given the relay's port in place of the server's (:meth:`Relay.rewrite`), so every
packet of both directions passes here. Each packet draws the same number of random values whatever
the weather, from a generator of its own direction: packet N of a direction has the same fate in
every run of a seed.
"""

import asyncio
import random
import re
from collections import Counter
from dataclasses import dataclass
from typing import Self

_CANDIDATE = re.compile(r"(a=candidate:\S+ \d+ udp \d+ )(\S+) (\d+)( typ host)", re.IGNORECASE)
_NOWHERE = r"\g<1>127.0.0.9 9\g<4>"
REORDER_S = 0.03
"""How long a reordered packet is held back: behind the next ones of a live stream."""
IN_AIR = 4096
"""Packets that may be under way; more are dropped, as in a full queue of a router."""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to each packet; shares are probabilities."""

    loss: float = 0.0
    double: float = 0.0
    reorder: float = 0.0
    jitter_s: float = 0.0
    """Delay drawn from [0, this]; larger than the packets' distance, it reorders too."""
    dark: bool = False
    """Nothing passes."""


FAIR = Weather()
DARK = Weather(dark=True)
PROFILES = {
    "loss-1": Weather(loss=0.01),
    "loss-5": Weather(loss=0.05),
    "loss-10": Weather(loss=0.10),
    "loss-20": Weather(loss=0.20),
    "loss-40": Weather(loss=0.40),
    "jitter-50": Weather(jitter_s=0.05),
    "jitter-200": Weather(jitter_s=0.2),
    "mixed": Weather(loss=0.05, double=0.05, reorder=0.05, jitter_s=0.03),
}


def fate(drawn: random.Random, weather: Weather) -> list[float]:
    """Return after how many seconds each copy of a packet goes on; empty: it is lost.

    Always draws five values, so one packet's weather does not change the next one's luck.
    """
    lost, doubled, late = (drawn.random() for _ in range(3))
    delay_s, second_s = (drawn.random() * weather.jitter_s for _ in range(2))
    if weather.dark or lost < weather.loss:
        return []
    delay_s += REORDER_S if late < weather.reorder else 0.0
    return [delay_s, second_s + REORDER_S / 2] if doubled < weather.double else [delay_s]


class Relay:
    """Between one publisher and one server port, on 127.0.0.1; ``async with`` it."""

    def __init__(self, seed: int | str, weather: Weather = FAIR) -> None:
        self.weather = weather
        self.counts: Counter[str] = Counter()
        """Packets ``up`` and ``down``, ``…_lost``, and ``full``."""
        self._drawn = {way: random.Random(f"{seed}-{way}") for way in ("up", "down")}
        self._server: tuple[str, int] | None = None
        self._publisher: tuple[str, int] | None = None
        self._front: asyncio.DatagramTransport | None = None
        self._back: asyncio.DatagramTransport | None = None
        self._in_air: set[asyncio.TimerHandle] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._front, _ = await loop.create_datagram_endpoint(
            lambda: _Side(self._from_publisher), ("127.0.0.1", 0)
        )
        self._back, _ = await loop.create_datagram_endpoint(
            lambda: _Side(self._from_server), ("127.0.0.1", 0)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for timer in self._in_air:
            timer.cancel()
        for side in (self._front, self._back):
            if side is not None:
                side.close()
        await asyncio.sleep(0)

    def rewrite(self, answer: str) -> str:
        """Return the server's SDP answer with our port in its candidate."""
        assert self._front is not None
        found = _CANDIDATE.search(answer)
        assert found is not None, "the server offers a candidate"
        self._server = (found[2], int(found[3]))
        port = self._front.get_extra_info("sockname")[1]
        return _CANDIDATE.sub(rf"\g<1>127.0.0.1 {port}\g<4>", answer)

    @staticmethod
    def hide(offer: str) -> str:
        """Return the publisher's SDP offer with addresses that lead nowhere: no way around us."""
        return _CANDIDATE.sub(_NOWHERE, offer)

    def _from_publisher(self, data: bytes, sender: tuple[str, int]) -> None:
        self._publisher = sender
        if self._server is not None:
            self._pass("up", self._back, data, self._server)

    def _from_server(self, data: bytes, sender: tuple[str, int]) -> None:
        if sender == self._server and self._publisher is not None:
            self._pass("down", self._front, data, self._publisher)

    def _pass(
        self,
        way: str,
        out: asyncio.DatagramTransport | None,
        data: bytes,
        where: tuple[str, int],
    ) -> None:
        assert out is not None
        self.counts[way] += 1
        copies = fate(self._drawn[way], self.weather)
        if not copies:
            self.counts[f"{way}_lost"] += 1
        for delay_s in copies:
            if not delay_s:
                out.sendto(data, where)
            elif len(self._in_air) >= IN_AIR:
                self.counts["full"] += 1
            else:
                self._later(delay_s, out, data, where)

    def _later(
        self,
        delay_s: float,
        out: asyncio.DatagramTransport,
        data: bytes,
        where: tuple[str, int],
    ) -> None:
        def fire() -> None:
            self._in_air.discard(timer)
            if not out.is_closing():
                out.sendto(data, where)

        timer = asyncio.get_running_loop().call_later(delay_s, fire)
        self._in_air.add(timer)


class _Side(asyncio.DatagramProtocol):
    def __init__(self, received) -> None:
        self.datagram_received = received
