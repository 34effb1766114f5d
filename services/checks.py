"""What ``doctor`` looks at. Each check returns one finding and never raises."""

import importlib.metadata
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from pipeline.errors import DemeanorError
from pipeline.scorer import OrtScorer
from pipeline.types import LEAD_TICKS, SLOT_TICKS, WINDOW_SLOTS, WINDOW_TICKS, Batch, Job, Window
from pipeline.types import VideoFrame as Frame
from services import policing
from services.bus.open import open_bus
from services.ingest import selftest
from services.settings import Settings

ROUNDS = 12
NOFILE = 1024


class Finding(msgspec.Struct, frozen=True):
    """One line of the report."""

    name: str
    status: Literal["ok", "warning", "error"]
    text: str
    fix: str | None = None


Check = Callable[[Settings], Awaitable[Finding]]


async def run_all(settings: Settings, *, redact: bool) -> list[Finding]:
    """Run every check in order; ``redact`` leaves out what tells about the machine."""
    checks: Sequence[tuple[str, Check]] = (
        ("python", _python),
        ("media", _media),
        ("webrtc", _webrtc),
        ("udp", _udp),
        ("runtime", _runtime),
        ("model", _model),
        ("bus", _bus),
        ("limits", _limits),
        ("policy", _policy),
    )
    findings = []
    for name, check in checks:
        try:
            finding = await check(settings)
        except (DemeanorError, OSError) as error:
            finding = Finding(name, "error", str(error))
        if redact and name in {"udp", "bus"}:
            finding = Finding(name, finding.status, "(left out)", None)
        findings.append(finding)
    return findings


async def _python(_: Settings) -> Finding:
    libc = " ".join(platform.libc_ver()) or "unknown libc"
    text = f"{platform.python_version()}, {sys.platform} {platform.machine()}, {libc}"
    return Finding("python", "ok", text)


async def _media(_: Settings) -> Finding:
    facts = selftest.media()
    formats, decoders = " ".join(facts.formats), " ".join(facts.decoders)
    text = f"PyAV {facts.version}, formats {formats}, decoders {decoders}"
    if facts.missing:
        fix = "reinstall the locked wheel: make install"
        return Finding("media", "error", f"{text}; missing {' '.join(facts.missing)}", fix)
    return Finding("media", "ok", text)


async def _webrtc(settings: Settings) -> Finding:
    pair = await selftest.pair(settings)
    text = (
        f"in-process pair: connected in {pair.connected_ms:.0f} ms, "
        f"{pair.frames} frames in {pair.media_ms:.0f} ms"
    )
    return Finding("webrtc", "ok", text)


async def _udp(settings: Settings) -> Finding:
    first, last = settings.udp_ports
    free = selftest.free_ports(settings)
    where = ", ".join(selftest.offered(settings))
    text = f"{first}-{last}: {free} of {last - first + 1} ports free on {where}"
    if free == 0:
        return Finding("udp", "error", text, "choose another range: udp_ports = [FIRST, LAST]")
    return Finding("udp", "ok", text)


async def _runtime(settings: Settings) -> Finding:
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            installed.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    text = f"{', '.join(installed) or 'no ONNX Runtime'}, device {settings.device}"
    if len(installed) != 1:
        fix = "keep exactly one: pip uninstall onnxruntime onnxruntime-gpu, then make install"
        return Finding("runtime", "error", text, fix)
    return Finding("runtime", "ok", text)


async def _model(settings: Settings) -> Finding:
    scorer = OrtScorer.open(settings.device, settings.model)
    scorer.golden()
    times = sorted(_times_ms(scorer))
    model = scorer.loaded
    text = (
        f"{model.id} {model.version} ({model.providers[0]}), hashes ok, golden check passed, "
        f"a live window {statistics.median(times):.0f} ms (median of {ROUNDS})"
    )
    return Finding("model", "ok", text)


def _times_ms(scorer: OrtScorer) -> list[float]:
    """Score noise as a live session would: each window brings one new slot and two new frames."""
    noise = np.random.default_rng(0)
    sound = noise.integers(-3000, 3000, LEAD_TICKS + WINDOW_TICKS + ROUNDS * SLOT_TICKS, np.int16)
    picture = noise.integers(0, 255, (180, 320, 3), np.uint8)
    times = []
    for index in range(ROUNDS + 1):
        start = index * SLOT_TICKS
        frames = tuple(Frame(start + cell * 4000, picture) for cell in range(2 * WINDOW_SLOTS))
        audio = sound[start : start + LEAD_TICKS + WINDOW_TICKS]
        window = Window(index, audio, (1.0,) * WINDOW_SLOTS, frames)
        began = time.perf_counter()
        scorer.score(Batch((Job("doctor", window, 0.0, 0.0),)))
        times.append((time.perf_counter() - began) * 1000)
    scorer.forget(["doctor"])
    return times[1:]


async def _bus(settings: Settings) -> Finding:
    async with open_bus(settings) as opened:
        trip_ms = await opened.bus.ping() * 1000
        return Finding("bus", "ok", f"{opened.description}, round trip {trip_ms:.1f} ms")


async def _limits(_: Settings) -> Finding:
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{files} open files, {cores} cores"
    if files < NOFILE:
        return Finding("limits", "warning", text, f"raise it: ulimit -n {NOFILE * 4}")
    return Finding("limits", "ok", text)


async def _policy(settings: Settings) -> Finding:
    policy = policing.load(settings)
    roles = ", ".join(policy.score_roles)
    text = (
        f"{policy.tag}: roles {roles} are scored, consent is {policy.consent.replace('_', ' ')}, "
        f"no media is kept, scores for {policy.retention_s} s"
    )
    return Finding("policy", "ok", text)
