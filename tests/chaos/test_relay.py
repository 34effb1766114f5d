"""A real publisher over a bad link: windows go on, coverage is honest, time does not shift."""

import asyncio
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.events import SessionEnded, WindowScored, WindowSkipped
from tests.chaos.radio import LAP_S, dishonesty, frame_shifts, on_air, sound_phases, spread
from tests.chaos.relay import DARK, FAIR, PROFILES, Relay, Weather, fate
from tests.services.ingest.support import serving

DARK_S = 1.5
SHIFT_S = 0.3
"""Brightness tells the time within two of its steps; a shift by lost media grows without end."""
HONEST = 0.12
LIVES = {"loss-20": ("audio", "video"), "mixed": ("video",), "jitter-200": ("audio",)}
"""Tracks by weather. A sender's reports tie its two clocks together, and a busy sender's are off by
as much as it is late; so a picture's time is looked at where no sound is."""
LONG = []
"""``make chaos``: every weather for sound and for pictures, and a longer blackout."""
if "DEMEANOR_CHAOS_EXAMPLES" in os.environ:
    LONG = [{name: kinds} for name in PROFILES for kinds in (("audio",), ("video",))]


async def live(server, name, weather, kinds, dark_s=DARK_S):
    """Publish through ``weather`` and a blackout; return the windows, the events, the counts."""
    async with on_air(server.endpoint(name), f"1-{name}", kinds) as radio:
        async with asyncio.timeout(60):
            while (sink := sink_of(server, name)) is None:
                await asyncio.sleep(0.05)

        async def more(count):
            first = len(sink.windows)
            await sink.until(lambda s: len(s.windows) >= first + count, 60)

        await more(2)
        radio.relay.weather = weather
        await more(6)
        radio.relay.weather = DARK
        await asyncio.sleep(dark_s)
        radio.relay.weather = FAIR
        await more(4)
        windows = server.scoring.windows[sink.events[0].session_id]
        await sink.until(lambda _: is_back(windows[-1], kinds), 60)
        await radio.leave(radio.http)
        await sink.until(lambda s: s.ended is not None and s.closed, 30)
    return windows, sink, radio.relay.counts


def is_back(window, kinds):
    """Tell whether a window has every track again."""
    sound = "audio" not in kinds or max(window.audio_coverage) > 0.5
    return sound and ("video" not in kinds or bool(window.frames))


def sink_of(server, stream):
    for sink in server.sinks.values():
        if sink.events and sink.events[0].stream == stream:
            return sink
    return None


def books_are_exact(windows, sink):
    (end,) = sink.of(SessionEnded)
    scored, skipped = len(sink.of(WindowScored)), len(sink.of(WindowSkipped))
    assert end.counts.scored == scored
    assert sum(end.counts.skipped.values()) == skipped
    assert len(windows) == scored + skipped
    indices = [event.window.index for event in sink.windows]
    assert indices == sorted(set(indices))
    assert [event.seq for event in sink.events] == list(range(len(sink.events)))


def sound_is_honest(windows, weather):
    assert spread(sound_phases(windows), 1.0) < SHIFT_S
    assert dishonesty(windows) < HONEST
    shares = [share for window in windows for share in window.audio_coverage]
    assert min(shares) < 0.5, "the blackout shows"
    assert max(shares) > 0.9
    if weather.loss:
        assert any(0.5 < share < 0.99 for share in shares), "loss shows"


@pytest.mark.parametrize("lives", [LIVES, *LONG])
async def test_time_holds_through_loss_jitter_doubles_and_a_blackout(lives):
    dark_s = 3.0 if LONG else DARK_S
    async with asyncio.timeout(100), serving(udp_ports=(43000, 43099)) as server:
        made = await asyncio.gather(
            *(live(server, name, PROFILES[name], kinds, dark_s) for name, kinds in lives.items())
        )
    for (name, kinds), (windows, sink, counts) in zip(lives.items(), made, strict=True):
        books_are_exact(windows, sink)
        assert counts["up_lost"] > 0
        if "audio" in kinds:
            sound_is_honest(windows, PROFILES[name])
        else:
            assert spread(frame_shifts(windows), LAP_S) < SHIFT_S


@given(
    seed=st.integers(0, 2**32),
    weathers=st.lists(
        st.builds(
            Weather,
            loss=st.floats(0, 1),
            double=st.floats(0, 1),
            reorder=st.floats(0, 1),
            jitter_s=st.floats(0, 0.2),
            dark=st.booleans(),
        ),
        min_size=2,
        max_size=2,
    ),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_packet_has_the_same_luck_whatever_the_weather_before_it_was(seed, weathers):
    one, two = weathers
    straight, changed = random.Random(seed), random.Random(seed)
    fate(straight, one)
    fate(changed, two)
    assert fate(straight, one) == fate(changed, one)


def test_shares_are_what_they_say():
    drawn = random.Random(3)
    fates = [fate(drawn, Weather(loss=0.2, double=0.1, jitter_s=0.2)) for _ in range(20_000)]
    there = [copies for copies in fates if copies]
    assert len(there) / len(fates) == pytest.approx(0.8, abs=0.02)
    assert sum(len(copies) == 2 for copies in there) / len(there) == pytest.approx(0.1, abs=0.02)
    assert 0 <= min(map(min, there)) <= max(map(max, there)) <= 0.22


def test_addresses_that_lead_around_the_relay_are_hidden():
    line = "a=candidate:1 1 udp 2130706431 192.168.0.9 40000 typ host\r\n"
    assert Relay.hide(line) == "a=candidate:1 1 udp 2130706431 127.0.0.9 9 typ host\r\n"
