"""Ticks from RTP timestamps: exact, wrap-proof, tied by arrival and then by sender reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clock import DEAD_BAND_TICKS, Jump, MediaClock, ntp_seconds
from pipeline.types import Gap

WRAP = 1 << 32
NTP = 3_970_000_000.0


def clock(audio_hz=48_000, video_hz=90_000):
    made = MediaClock()
    made.add("audio", audio_hz)
    made.add("video", video_hz)
    return made


def started(late_ms=0):
    """Both tracks begun in the same instant; video's first packet took ``late_ms`` longer."""
    made = clock()
    assert made.tick("audio", 1000, 10.0) == 0
    made.tick("video", 5000, 10.0 + late_ms / 1000)
    return made


@given(
    first=st.integers(0, WRAP - 1),
    rate_hz=st.sampled_from([8_000, 44_100, 48_000, 90_000]),
    steps=st.lists(st.integers(0, 200_000), max_size=50),
)
def test_ticks_are_exact_over_any_number_of_wraps(first, rate_hz, steps):
    made = clock(audio_hz=rate_hz)
    made.tick("audio", first, 0.0)
    elapsed = 0
    for step in steps:
        elapsed += step
        tick = made.tick("audio", (first + elapsed) % WRAP, elapsed / rate_hz)
        assert tick == elapsed * 16_000 // rate_hz


@given(st.permutations(range(40)), st.integers(WRAP - 20 * 960, WRAP - 1))
def test_order_of_packets_does_not_matter(order, first):
    made = clock()
    made.tick("audio", first, 5.0)
    for n in order:
        assert made.tick("audio", (first + n * 960) % WRAP, 5.0 + n / 50) == n * 320


def test_packets_from_before_the_first_are_never_negative():
    made = clock()
    made.tick("audio", 100, 0.0)
    assert made.tick("audio", (100 - 960) % WRAP, 0.01) == 0
    assert made.tick("audio", 100 + 960, 0.02) == 320


def test_second_track_is_placed_by_arrival_beside_the_first():
    made = clock()
    made.tick("video", 7, 100.0)
    made.tick("video", 7 + 90_000, 100.5)  # faster than real time: one second after half of one
    assert made.tick("audio", 12345, 100.75) == 16_000 + 4_000
    assert made.tick("audio", 12345 + 48_000, 101.75) == 16_000 + 4_000 + 16_000


def test_a_clock_that_runs_backwards_places_nothing_before_the_first_track():
    made = clock()
    made.tick("audio", 0, 10.0)
    assert made.tick("video", 0, 9.0) == 0


@pytest.mark.parametrize("late_ms", [-80, -11, 11, 50, 80])
def test_small_corrections_are_silent(late_ms):
    made = started(max(late_ms, 0))
    behind = max(-late_ms, 0) / 1000
    assert made.report("audio", 1000, NTP) is None
    assert made.report("video", 5000, NTP + behind) is None
    expected = 16_000 + round(behind * 16_000)
    assert made.tick("video", 5000 + 90_000, 12.0) == expected


def test_the_dead_band_leaves_wandering_reports_alone():
    made = started()
    made.report("audio", 1000, NTP)
    made.report("video", 5000, NTP + DEAD_BAND_TICKS / 16_000)
    assert made.tick("video", 5000 + 90_000, 11.0) == 16_000


def test_large_corrections_are_announced_and_applied_once():
    made = started(late_ms=300)
    assert made.tick("video", 5000 + 90_000, 11.3) == 16_000 + 4_800
    assert made.report("video", 5000, NTP) is None
    jump = made.report("audio", 1000, NTP)
    assert jump == Jump("video", -4_800, 20_800)
    assert jump.gap == Gap(16_000, 20_800, ("video",), "clock_jump")
    assert made.tick("video", 5000 + 90_000, 11.3) == 16_000
    assert made.report("video", 5000 + 90_000, NTP + 1) is None
    assert made.tick("video", 5000 + 180_000, 12.3) == 32_000


def test_only_the_track_that_came_second_moves():
    made = clock()
    made.tick("video", 5000, 10.0)
    made.tick("audio", 1000, 10.0)
    made.report("video", 5000, NTP)
    jump = made.report("audio", 1000, NTP + 1.0)
    assert jump == Jump("audio", 16_000, 0)
    assert jump.gap == Gap(0, 16_000, ("audio",), "clock_jump")
    assert made.tick("video", 5000 + 90_000, 11.0) == 16_000
    assert made.tick("audio", 1000 + 48_000, 11.0) == 32_000


@given(st.integers(-50, 50), st.integers(0, 3))
def test_reports_before_the_first_packet_place_the_track_at_once(apart_packets, wait_s):
    made = clock()
    first = 500  # so near to zero that a report before it has wrapped
    assert made.report("audio", (first - 960) % WRAP, NTP - 0.02) is None
    assert made.report("video", (first + apart_packets * 3000) % WRAP, NTP + 2) is None
    made.tick("audio", first, 10.0)
    tick = made.tick("video", first, 12.0 + wait_s)
    assert abs(tick - (32_000 - apart_packets * 533.33)) <= DEAD_BAND_TICKS + 1


def test_one_track_alone_is_never_moved():
    made = MediaClock()
    made.add("audio", 8_000)
    made.tick("audio", 0, 0.0)
    assert made.report("audio", 0, NTP) is None
    assert made.report("audio", 8_000, NTP + 7) is None
    assert made.tick("audio", 8_000, 1.0) == 16_000


def test_senders_without_a_clock_and_absurd_reports_are_ignored():
    made = started()
    made.report("audio", 1000, NTP)
    assert made.report("video", 5000, 0.0) is None
    assert made.implausible_reports == 0
    assert made.report("video", 5000, NTP + 3600) is None
    assert made.implausible_reports == 1
    assert made.tick("video", 5000 + 90_000, 11.0) == 16_000


@pytest.mark.parametrize("leap_s", [3600, -3600, 11, -11])
def test_a_leap_of_timestamps_restarts_the_track_by_arrival(leap_s):
    made = started()
    made.report("audio", 1000, NTP)
    made.report("video", 5000, NTP)
    rtp = (1000 + 960 + leap_s * 48_000) % WRAP
    assert made.tick("audio", rtp, 10.02) == 320
    assert made.tick("audio", (rtp + 960) % WRAP, 10.04) == 640
    assert made.restarts == {"audio": 1, "video": 0}
    # The old report says nothing about the new timestamps.
    assert made.report("video", 5000, NTP + 1) is None


def test_silence_and_a_burst_after_a_stalled_network_are_no_leap():
    made = started()
    assert made.tick("audio", 1000 + 60 * 48_000, 70.0) == 60 * 16_000
    assert made.tick("audio", 1000 + 60 * 48_000 + 960, 95.0) == 60 * 16_000 + 320
    assert made.restarts == {"audio": 0, "video": 0}


def test_a_replaced_track_goes_on_where_the_session_is():
    made = clock()
    made.tick("audio", 0, 10.0)
    made.tick("audio", 48_000, 11.0)
    made.add("audio", 8_000)
    assert made.tick("audio", 999, 13.0) == 3 * 16_000
    assert made.tick("audio", 999 + 8_000, 14.0) == 4 * 16_000
    assert made.tick("video", 1, 15.0) == 5 * 16_000
    made.add("audio", 48_000)  # video is the first track from now on
    assert made.tick("audio", 5, 16.0) == 6 * 16_000


def test_ntp_seconds_reads_fixed_point():
    assert ntp_seconds((3_970_000_000 << 32) + (1 << 31)) == 3_970_000_000.5
