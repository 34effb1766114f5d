"""Real parts around the code under test: a server on loopback, publishers, a scorer that echoes."""

import asyncio
import fractions
from collections import deque
from contextlib import asynccontextmanager

import aiohttp
import av
import numpy as np
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.mediastreams import AudioStreamTrack, MediaStreamTrack

from pipeline.events import LoadedModel, SessionEnded, WindowScored, WindowSkipped
from pipeline.policy import Policy
from pipeline.stream import Timing
from pipeline.types import SLOT_TICKS, WINDOW_SLOTS, FrameReading, Outcome, SlotReading
from services.audit import SILENT
from services.auth import Guard
from services.clock import SystemClock
from services.ingest.http import routes
from services.ingest.whip import Whip
from services.problems import middleware
from services.settings import Settings

MODEL = LoadedModel("identity", "1", "sha256:" + "0" * 64, ["CPU"])
AUTH = {"Authorization": "Bearer dev"}
SDP_TYPE = {"Content-Type": "application/sdp"}


class ManualClock:
    """Both clocks, moved by hand."""

    def __init__(self, wall_ms=1_700_000_000_000):
        self.start_ms = wall_ms
        self.now_s = 0.0

    def wall_ms(self):
        return self.start_ms + round(self.now_s * 1000)

    def monotonic_s(self):
        return self.now_s


class IdentityScorer:
    """A real scorer that measures what came in: brightness of pictures, loudness of sound."""

    def score(self, batch):
        return [self._one(job) for job in batch.jobs]

    def forget(self, session_ids):
        pass

    def _one(self, job):
        window = job.window
        frames = slots = None
        if window.frames is not None:
            frames = tuple(
                FrameReading(frame.at, float(frame.rgb.mean()), 100.0, 1.0, ())
                for frame in window.frames
            )
        if window.audio is not None:
            sound = window.audio[-WINDOW_SLOTS * SLOT_TICKS :].reshape(WINDOW_SLOTS, -1)
            slots = tuple(
                SlotReading(window.index + i, window.audio_coverage[i], 0.0, _dbfs(row), None, None)
                for i, row in enumerate(sound)
            )
        return Outcome(job.session_id, window.index, frames, slots, None)


def _dbfs(samples):
    rms = np.sqrt(np.mean((samples.astype(np.float64) / 32768) ** 2))
    return max(-120.0, 20 * np.log10(max(rms, 1e-6)))


class DirectScoring:
    """Scores on the event loop at once, or holds windows back until told."""

    def __init__(self, *, hold=False, clock=None):
        self.scorer = IdentityScorer()
        self.jobs = []
        self.held = deque()
        self.forgotten = []
        self.windows = {}
        self._hold = hold
        self._clock = clock or SystemClock()

    def submit(self, job, done):
        self._note(job)
        if self._hold:
            self.held.append((job, done))
        else:
            done(job, *self._result(job))

    async def score(self, job):
        self._note(job)
        await asyncio.sleep(0)
        return self._result(job)

    def forget(self, session_id):
        self.forgotten.append(session_id)

    def release(self, *, newest_first=False):
        while self.held:
            job, done = self.held.pop() if newest_first else self.held.popleft()
            done(job, *self._result(job))

    def _note(self, job):
        self.jobs.append(job)
        self.windows.setdefault(job.session_id, []).append(job.window)

    def _result(self, job):
        from pipeline.types import Batch

        (outcome,) = self.scorer.score(Batch((job,)))
        age_ms = round((self._clock.monotonic_s() - job.arrived_s) * 1000)
        return outcome, Timing(age_ms=max(0, age_ms), queue_ms=0, score_ms=0)


class MemorySink:
    """Keeps a session's events and tells when one came."""

    def __init__(self):
        self.events = []
        self.closed = self.erased = False
        self._changed = asyncio.Condition()
        self._tasks = set()

    def put(self, events):
        assert not self.closed
        self.events += events
        task = asyncio.ensure_future(self._tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def erase(self):
        self.erased = True

    async def close(self):
        self.closed = True
        await self._tell()

    async def until(self, condition, timeout_s=20):
        """Wait until ``condition(self)`` holds."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def windows(self):
        return [e for e in self.events if isinstance(e, WindowScored | WindowSkipped)]

    @property
    def ended(self):
        ends = self.of(SessionEnded)
        return ends[0].reason if ends else None

    async def _tell(self):
        async with self._changed:
            self._changed.notify_all()


class Server:
    """A WHIP endpoint on a free loopback port."""

    def __init__(self, whip, url, scoring, sinks):
        self.whip = whip
        self.url = url
        self.scoring = scoring
        self.sinks = sinks
        self.openings = []

    def endpoint(self, stream="cam", query=""):
        return f"{self.url}/whip/{stream}{query}"

    def sink(self, number=0):
        return list(self.sinks.values())[number]


@asynccontextmanager
async def serving(
    *,
    scoring=None,
    clock=None,
    guard=None,
    score_roles=("customer", "self"),
    policy=None,
    orders=None,
    audit=SILENT,
    door=None,
    decoding=None,
    observe=lambda _facts: None,
    **settings,
):
    scoring = scoring or DirectScoring()
    sinks = {}
    openings = []

    async def open_sink(opening, on_stop):
        openings.append((opening, on_stop))
        sinks[opening.session_id] = MemorySink()
        return sinks[opening.session_id]

    settings.setdefault("udp_ports", (41000, 41199))
    whip = Whip(
        Settings(**settings),
        guard=guard or Guard(loopback_only=True),
        scoring=scoring,
        open_sink=open_sink,
        policy=policy or Policy(score_roles),
        model=MODEL,
        clock=clock or SystemClock(),
        events_url=lambda session_id: f"ws://127.0.0.1:8081/v1/events?session={session_id}",
        orders=orders,
        audit=audit,
        decoding=decoding,
        observe=observe,
    )
    app = web.Application(middlewares=[middleware])
    routes(app, whip, **(door or {}))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    async with whip:
        await site.start()
        port = runner.addresses[0][1]
        server = Server(whip, f"http://127.0.0.1:{port}", scoring, sinks)
        server.openings = openings
        try:
            yield server
        finally:
            await runner.cleanup()


class Tone(AudioStreamTrack):
    """A 440 Hz tone in stereo at 48 kHz; the open gate may be shut."""

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def recv(self):
        await self.gate.wait()
        frame = await super().recv()
        start = frame.pts * 6
        wave = np.sin(2 * np.pi * 440 * (start + np.arange(960)) / 48000) * 8000
        tone = av.AudioFrame.from_ndarray(
            np.repeat(wave.astype(np.int16), 2).reshape(1, -1), format="s16", layout="stereo"
        )
        tone.sample_rate = 48000
        tone.pts = start
        tone.time_base = fractions.Fraction(1, 48000)
        return tone


class Card(VideoStreamTrack):
    """A grey card that grows brighter; its size may be changed on the way."""

    def __init__(self, width=320, height=180):
        super().__init__()
        self.size = width, height
        self.frames = 0

    async def recv(self):
        pts, time_base = await self.next_timestamp()
        width, height = self.size
        level = 40 + self.frames % 160
        frame = av.VideoFrame.from_ndarray(
            np.full((height, width, 3), level, np.uint8), format="rgb24"
        )
        self.frames += 1
        frame.pts, frame.time_base = pts, time_base
        return frame


class Publisher:
    """A plain aiortc peer that speaks WHIP."""

    def __init__(self, url, *tracks: MediaStreamTrack, codec=None):
        self.url = url
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.location = self.etag = self.link = None
        for track in tracks:
            transceiver = self.peer.addTransceiver(track, direction="sendonly")
            if codec and track.kind == codec.split("/")[0]:
                from aiortc import RTCRtpSender

                known = RTCRtpSender.getCapabilities(track.kind).codecs
                transceiver.setCodecPreferences([c for c in known if c.mimeType == codec])

    async def offer(self):
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return self.peer.localDescription.sdp

    async def publish(self, http, edit=lambda sdp: sdp, auth=AUTH):
        sdp = edit(await self.offer())
        async with http.post(self.url, data=sdp, headers=auth | SDP_TYPE) as response:
            body = await response.text()
            assert response.status == 201, body
            self.location = response.headers["Location"]
            self.etag = response.headers["ETag"]
            self.link = response.headers["Link"]
        await self.peer.setRemoteDescription(RTCSessionDescription(body, "answer"))
        return body

    async def close(self):
        await self.peer.close()


@asynccontextmanager
async def publishing(server, *tracks, stream="cam", codec=None, query=""):
    async with aiohttp.ClientSession() as http:
        publisher = Publisher(server.endpoint(stream, query), *tracks, codec=codec)
        try:
            await publisher.publish(http)
            publisher.http = http
            yield publisher
        finally:
            await publisher.close()


def self_signed(key):
    """Return a certificate for ``key``, good for a day."""
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "publisher")])
    now = dt.datetime.fromtimestamp(SystemClock().wall_ms() / 1000, dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
