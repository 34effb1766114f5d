"""What is measured of a busy process, and what the rules make of the figures."""

import asyncio
import os
import time

import pytest

from pipeline.degrade import Ladder, Rung
from pipeline.errors import BusError
from services import load
from services.clock import SystemClock
from services.load import LONG_S, SAMPLES, SHORT_S, Load, Meter, Sliding, pressure


def test_percentiles_by_nearest_rank_over_the_time_asked_for():
    samples = Sliding()
    assert samples.percentile(0.99, 0.0, LONG_S) == 0.0
    for number in range(100):
        samples.add(number / 10, float(number))
    assert samples.percentile(0.99, 9.9, LONG_S) == 98.0
    assert samples.percentile(1.0, 9.9, LONG_S) == 99.0
    assert samples.percentile(0.5, 9.9, 1.0) == 94.0
    assert samples.percentile(0.5, 12.0, SHORT_S) == 0.0
    assert samples.percentile(1.0, 30.0, LONG_S) == 0.0
    assert len(samples) == 0


def test_samples_are_bounded():
    samples = Sliding()
    for number in range(SAMPLES + 10):
        samples.add(0.0, float(number))
    assert len(samples) == SAMPLES


@pytest.mark.parametrize(
    ("figures", "judged"),
    [
        ({}, "low"),
        ({"recent_wait_s": 0.3}, "some"),
        ({"recent_wait_s": 0.51}, "high"),
        ({"recent_lag_s": 0.15}, "some"),
        ({"recent_lag_s": 0.26}, "high"),
        ({"oldest_s": 0.3}, "some"),
        ({"oldest_s": 0.8}, "high"),
        ({"lag_p99_s": 9.0, "wait_p95_s": 9.0}, "low"),
    ],
)
def test_pressure(figures, judged):
    assert pressure(Load(**figures)) == judged


class Scoring:
    def __init__(self):
        self.waits = Sliding()
        self.oldest = 0.0

    def oldest_wait_s(self):
        return self.oldest


class Bus:
    def __init__(self):
        self.away = False

    async def ping(self):
        if self.away:
            raise BusError("the bus is away", retryable=True)


async def measured(meter, condition):
    async with asyncio.timeout(20):
        while not condition(meter.now):
            await asyncio.sleep(0.02)
    return meter.now


async def test_a_blocked_loop_is_seen(monkeypatch):
    monkeypatch.setattr(load, "SUM_S", 0.05)
    monkeypatch.setattr(load, "SAMPLE_S", 0.01)
    async with Meter(SystemClock(), Scoring(), Bus().ping) as meter:
        for _ in range(3):
            await asyncio.sleep(0.05)
            time.sleep(0.3)  # the fault under test
            assert meter.lag_s() > 0.2
        now = await measured(meter, lambda now: now.lag_p99_s > 0.2)
    assert now.recent_lag_s >= 0.0
    assert not meter.running


async def test_waits_memory_and_an_absent_bus_are_seen(monkeypatch):
    monkeypatch.setattr(load, "SUM_S", 0.05)
    monkeypatch.setattr(load, "SAMPLE_S", 0.01)
    monkeypatch.setattr(load, "PING_S", 0.01)
    clock, scoring, bus = SystemClock(), Scoring(), Bus()
    told = []
    async with Meter(clock, scoring, bus.ping, memory_limit_mb=4096) as meter:
        meter.on_measure(told.append)
        assert meter.running
        scoring.oldest = 2.0
        scoring.waits.add(clock.monotonic_s(), 0.7)
        bus.away = True
        now = await measured(meter, lambda now: now.bus_away_s > 0 and now.wait_p95_s > 0)
        assert (now.wait_p95_s, now.recent_wait_s, now.oldest_s) == (0.7, 0.7, 2.0)
        assert now.memory_limit_bytes == 4096 << 20
        assert 0 < now.memory_share < 1
        assert 0 <= now.cpu_share <= 1
        bus.away = False
        await measured(meter, lambda now: now.bus_away_s == 0)
    assert told
    assert meter.statistics()["scorer_wait_seconds_p95"] == 0.7


async def test_the_ladder_follows_the_measurement(monkeypatch):
    monkeypatch.setattr(load, "SUM_S", 0.05)
    monkeypatch.setattr(load, "SAMPLE_S", 0.01)
    scoring = Scoring()
    ladder = Ladder(up_s=0.0, down_s=0.0)
    async with Meter(SystemClock(), scoring, Bus().ping, ladder=ladder) as meter:
        scoring.oldest = 2.0
        await measured(meter, lambda _: meter.rung == Rung.DROP)
        scoring.oldest = 0.0
        monkeypatch.setattr(load, "EASE_LAG_S", 60.0)  # whatever this machine does meanwhile
        monkeypatch.setattr(load, "STEP_LAG_S", 60.0)
        await measured(meter, lambda _: meter.rung == Rung.FULL)
    assert meter.statistics()["degrade_changes_total"] == 10


def test_memory_is_that_of_the_children_too():
    own = load.resident_bytes()
    assert own > 1 << 20
    assert load.memory_limit(512) == 512 << 20
    machine = load.memory_limit()
    assert own < machine <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_control_group_bounds_memory_and_cores(monkeypatch):
    files = {"/sys/fs/cgroup/memory.max": "268435456\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n"}
    monkeypatch.setattr(load, "_read", lambda path: files.get(path, ""))
    assert load.memory_limit() == 256 << 20
    assert load.cores() == 0.5
    files["/sys/fs/cgroup/cpu.max"] = "max 100000\n"
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert load.cores() == len(os.sched_getaffinity(0))
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = str(128 << 20)
    assert load.memory_limit() == 128 << 20
