"""A publisher whose media tells its own time, behind a bad radio link.

Pictures grow brighter in steps of four frames; sound is loud for half a second and quiet for the
next. So what a window holds says when it was sent, whatever was lost on the way. The steps are
large because an encoder that saves bits leaves small changes out.
"""

import fractions
from collections.abc import Collection, Iterable
from contextlib import asynccontextmanager

import aiohttp
import av
import numpy as np
from aiortc import RTCSessionDescription

from pipeline.types import LEAD_TICKS, SLOT_TICKS, TICKS_PER_S, Kind, Window
from tests.chaos.relay import Relay
from tests.services.ingest.support import AUTH, SDP_TYPE, Card, Publisher, Tone

STEPS = 15
"""Brightness begins anew after this many steps."""
STEP_FRAMES = 4
DARKEST, STEP_LEVELS = 30, 13
FPS = 30
LAP_S = STEPS * STEP_FRAMES / FPS
LOUD, QUIET = 8000, 1000
PERIOD_TICKS = 2 * SLOT_TICKS
GRID_TICKS = 320
"""Phases of the sound are looked for in steps of 20 ms."""


class Beat(Tone):
    """A tone that is loud for half a second, then quiet for half a second."""

    async def recv(self):
        frame = await super().recv()
        loud = (frame.pts // 24_000) % 2 == 0
        samples = frame.to_ndarray().astype(np.int32) * (LOUD if loud else QUIET) // 8000
        made = av.AudioFrame.from_ndarray(samples.astype(np.int16), format="s16", layout="stereo")
        made.sample_rate, made.pts = frame.sample_rate, frame.pts
        made.time_base = fractions.Fraction(1, 48_000)
        return made


class Stairs(Card):
    """Pictures whose brightness tells their number."""

    async def recv(self):
        frame = await super().recv()
        level = DARKEST + STEP_LEVELS * ((self.frames - 1) // STEP_FRAMES % STEPS)
        pixels = np.full((frame.height, frame.width, 3), level, np.uint8)
        made = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        made.pts, made.time_base = frame.pts, frame.time_base
        return made


class Radio(Publisher):
    """A publisher all of whose packets pass a relay."""

    def __init__(self, url: str, relay: Relay, kinds: Collection[Kind]) -> None:
        tracks = {"audio": Beat, "video": lambda: Stairs(160, 90)}
        super().__init__(url, *(tracks[kind]() for kind in kinds))
        self.relay = relay

    async def publish(self, http):
        offer = self.relay.hide(await self.offer())
        async with http.post(self.url, data=offer, headers=AUTH | SDP_TYPE) as response:
            answer = await response.text()
            assert response.status == 201, answer
            self.location = response.headers["Location"]
        answer = self.relay.rewrite(answer)
        await self.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def leave(self, http) -> None:
        """End the session by request: a goodbye over the air may get lost."""
        async with http.delete(self.location, headers=AUTH) as response:
            assert response.status == 200


@asynccontextmanager
async def on_air(url: str, seed: int | str, kinds: Collection[Kind]):
    """Publish to ``url`` through a relay."""
    async with aiohttp.ClientSession() as http, Relay(seed) as relay:
        radio = Radio(url, relay, kinds)
        try:
            await radio.publish(http)
            radio.http = http
            yield radio
        finally:
            await radio.close()


def frame_shifts(windows: Iterable[Window]) -> list[float]:
    """Return by how many seconds each sampled frame is off the time that its brightness tells.

    Up to a constant; in [0, LAP_S).
    """
    shifts = []
    for window in windows:
        for frame in window.frames or ():
            step = round((float(frame.rgb.mean()) - DARKEST) / STEP_LEVELS)
            shifts.append((frame.at / TICKS_PER_S - step * STEP_FRAMES / FPS) % LAP_S)
    return shifts


def sound_phases(windows: Iterable[Window]) -> list[float]:
    """Return at which second of a period the sound turns loud, one per window with enough sound."""
    phases = []
    for window in windows:
        if window.audio is None or sum(window.audio_coverage) < 0.4 * len(window.audio_coverage):
            continue
        level = np.abs(window.audio[LEAD_TICKS:].astype(np.int64))
        ticks = (window.start + np.arange(len(level))) % PERIOD_TICKS
        there = level > 0
        best = max(range(0, PERIOD_TICKS, GRID_TICKS), key=lambda at: _fit(level, ticks, there, at))
        phases.append(best / TICKS_PER_S)
    return phases


def _fit(level, ticks, there, at: int) -> float:
    loud = (ticks - at) % PERIOD_TICKS < SLOT_TICKS
    on, off = level[there & loud], level[there & ~loud]
    return float(on.mean() - off.mean()) if len(on) and len(off) else -1.0


def spread(values: list[float], period: float) -> float:
    """Return how far apart values on a circle of length ``period`` are at most."""
    if not values:
        return 0.0
    at = values[0]
    off = [(value - at + period / 2) % period - period / 2 for value in values]
    return max(off) - min(off)


def dishonesty(windows: Iterable[Window]) -> float:
    """Return by how much the coverage of a slot differs at most from the sound that is there."""
    worst = 0.0
    for window in windows:
        if window.audio is None:
            continue
        slots = window.audio[LEAD_TICKS:].reshape(-1, SLOT_TICKS)
        for share, samples in zip(window.audio_coverage, slots, strict=True):
            worst = max(worst, abs(share - float(np.count_nonzero(samples)) / SLOT_TICKS))
    return worst
