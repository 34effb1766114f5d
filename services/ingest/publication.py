"""One accepted publisher: its connection, its frames on the way to the decoder, its session.

The peer calls in from the event loop; one task (:meth:`Publication.run`) decodes what has gathered,
feeds the session and, once there is a reason to end, takes everything down in order: connection,
last frames, session, codecs.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from pipeline.clock import MediaClock, ntp_seconds
from pipeline.events import EndReason
from pipeline.stream import StreamSettings
from pipeline.types import Kind
from pipeline.windowing import HELD_FRAMES, HELD_TICKS
from services.clock import Clock
from services.ingest.collector import BOUND, Collector, Encoded
from services.ingest.decoding import Decoding
from services.ingest.gate import Rate
from services.ingest.ice import RECEIVE_PACKETS, SOCKET_BYTES, Ports
from services.ingest.layers import LayerFilter
from services.ingest.packets import CAPACITY, Frame
from services.ingest.peer import Callbacks, Peer
from services.ingest.rates import TokenBucket
from services.ingest.sdp import Offer
from services.ingest.session import Session
from services.ingest.shapes import LEAST_PIXELS, PIXELS_PER_S, ShapeWatch
from services.ingest.sink import Stop
from services.queues import Registered, Registry

HANDSHAKE_S: Final = 10
"""A publisher that is not connected this long after its POST is let go."""
FLOOD_PACKETS: Final = 500
"""So many packets in a second beyond what is allowed are a flood: an honest publisher learns from
its losses and sends less."""
FLOOD_S: Final = 5
"""A flood that lasts this long ends the session (``bad_media``)."""
MAX_OVERSIZED: Final = 3
"""Frames in a row that are too large to decode before the session ends (``bad_media``)."""

STALE_S: Final = 3
"""A connected publisher that sent nothing for this long may be replaced: a page that was closed
hard says no goodbye, and comes back under the same name."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of one publication beside its session's."""

    corrupt: dict[Kind, int]
    oversized: int
    lost: dict[str, int]
    """Packets and frames that were not taken, by reason."""
    undecoded: int
    """Frames of higher temporal layers that no window needed."""
    decoded: int
    """Batches of frames that went to the decoder."""
    jumps: int


class Flood:
    """Tells, second by second, a publisher that goes on sending far more than is taken."""

    def __init__(self) -> None:
        self._refused = 0
        self._seconds = 0

    def lasts(self, refused: int) -> bool:
        """Take how many packets were refused so far; call once a second."""
        grown, self._refused = refused - self._refused, refused
        self._seconds = self._seconds + 1 if grown >= FLOOD_PACKETS else 0
        return self._seconds >= FLOOD_S


class Publication:
    """One live publisher. :meth:`answer`, then :meth:`attach`, then await :meth:`run` as a task."""

    def __init__(
        self,
        offer: Offer,
        *,
        ports: Ports,
        addresses: Sequence[str],
        ice_servers: Sequence[str],
        decoding: Decoding,
        queues: Registry,
        clock: Clock,
        rate: Rate | None = None,
    ) -> None:
        self.offer = offer
        self.finished = asyncio.Event()
        """Set when everything has been freed."""
        self.abandoned = False
        """The connection did not close in time."""
        self._clock = clock
        self._decoding = decoding
        self._collector = Collector()
        self._media = MediaClock()
        self._rates_hz: dict[Kind, int] = {}
        self._session: Session | None = None
        self._connected = False
        self._made_s = self._heard_s = clock.monotonic_s()
        self._reason: EndReason | None = None
        self._due = asyncio.Event()
        self._corrupt: Counter[Kind] = Counter()
        self._oversized = 0
        self._oversized_in_a_row = 0
        self._jumps = 0
        self._refused: Counter[str] = Counter()
        self._shapes = ShapeWatch()
        self._flood = Flood()
        self._pace = TokenBucket(PIXELS_PER_S, 2 * PIXELS_PER_S)
        self._layers = LayerFilter()
        self._undecoded = 0
        self._decoded = 0
        self._peer = Peer(
            offer,
            Callbacks(self._frame, self._report, self._on_connected, self._on_closed, self._passes),
            ports=ports,
            addresses=addresses,
            ice_servers=ice_servers,
            now=clock.monotonic_s,
            rate=rate,
        )
        self._queues = self._register(queues)

    @property
    def session(self) -> Session:
        """The session this publisher feeds; there once :meth:`attach` was called."""
        if self._session is None:
            raise RuntimeError("attach a session first")
        return self._session

    @property
    def half_open(self) -> bool:
        """Whether the publisher has yet to connect."""
        return not self._connected

    @property
    def reason(self) -> EndReason | None:
        """Why it ended or is ending; None while it runs."""
        return self._reason

    @property
    def stale(self) -> bool:
        """Whether the publisher is connected and silent, so that another may take its place."""
        return self._connected and self._clock.monotonic_s() - self._heard_s >= STALE_S

    async def answer(self) -> str:
        """Return the SDP answer. Raises :class:`~services.ingest.ice.NoPort`."""
        return await self._peer.answer()

    def attach(self, session: Session) -> None:
        """Name the session that media goes to."""
        self._session = session
        self._decoding.watch(session.session_id, self._peer.damaged)

    def stop(self, reason: EndReason) -> None:
        """Ask for the end; the first reason counts. :attr:`finished` tells when it is done."""
        if self._reason is None:
            self._reason = reason
            self._due.set()

    def stop_for(self, why: Stop) -> None:
        """Ask for the end because the sink wants it."""
        self.stop("owner_lost" if why == "fenced" else "deleted")

    def obey(self, *, consent: str | None, scoring: bool) -> None:
        """Take what was ordered about consent (None: nothing) and about scoring."""
        if self._session is None:
            return
        gate = self._session.gate
        consented = gate.consented(consent)
        if consented and gate.consent == "withdrawn":
            self.stop("policy")
            self._session.erase()
        elif consented:
            self._peer.damaged()
        if gate.switched(on=scoring) or consented:
            self._session.halt()

    def check(self) -> None:
        """Watch over deadlines; call about once a second."""
        now_s = self._clock.monotonic_s()
        late = self.half_open and now_s - self._made_s >= HANDSHAKE_S
        if late or self.session.check():
            self.stop("timeout")
        self._peer.gathering.buffers.note()
        refused = self._peer.gathering.gate.dropped["too_fast"] + self._peer.dropped["unknown_ssrc"]
        if self._flood.lasts(refused):
            self.stop("bad_media")
        if self._collector.due(now_s):
            self._due.set()

    async def run(self) -> None:
        """Decode and feed until there is a reason to end, then free everything."""
        try:
            while self._reason is None:
                await self._due.wait()
                self._due.clear()
                await self._decode()
        except Exception:  # noqa: BLE001 - the boundary of this session's task: others go on
            _log.exception("a session failed", session_id=self.session.session_id)
            self.stop("error")
        finally:
            await self._finish()

    async def discard(self) -> None:
        """Free a publication that never got a session."""
        self.abandoned = not await self._peer.close()
        self._unregister()
        self.finished.set()

    def statistics(self) -> Statistics:
        """Return the counters as they stand."""
        return Statistics(
            corrupt=dict(self._corrupt),
            oversized=self._oversized,
            lost=dict(
                self._lost()
                + self._peer.gathering.refused
                + self._peer.gathering.buffers.dropped
                + self._collector.dropped
            ),
            undecoded=self._undecoded,
            decoded=self._decoded,
            jumps=self._jumps,
        )

    async def _finish(self) -> None:
        self.abandoned = not await self._peer.close()
        try:
            if self._reason != "error":
                await self._decode()
            await self.session.end(self._reason or "error")
        except Exception:  # noqa: BLE001 - the rest must still be freed
            _log.exception("a session did not end cleanly", session_id=self.session.session_id)
        finally:
            await self._decoding.forget(self.session.session_id)
            self._unregister()
            self.finished.set()

    async def _decode(self) -> None:
        if not len(self._collector):
            return
        arrived_s = self._collector.arrived_s
        batch = self._collector.take()
        if not self.session.gate.opens:
            return
        self._decoded += 1
        decoded = await self._decoding.decode(self.session.session_id, batch)
        self._corrupt["audio"] += decoded.corrupt_audio
        self._corrupt["video"] += decoded.corrupt_video
        self._oversized += decoded.oversized
        self._refused["crowded"] += decoded.crowded
        if decoded.corrupt_video or decoded.oversized or decoded.lost:
            self._peer.damaged()
        self._judge_sizes(batch, decoded.oversized)
        self.session.feed(decoded.items, arrived_s)
        if decoded.lost:
            self.session.lose(decoded.lost, arrived_s)
        if decoded.hostile:
            self.stop("bad_media")

    def _judge_sizes(self, batch: Sequence[Encoded], oversized: int) -> None:
        if oversized:
            self._oversized_in_a_row += oversized
        elif any(frame.kind == "video" and frame.key for frame in batch):
            self._oversized_in_a_row = 0
        if self._oversized_in_a_row >= MAX_OVERSIZED:
            self.stop("bad_media")

    def _frame(self, kind: Kind, codec: str, clock_hz: int, frame: Frame) -> None:
        if self._session is None or self._reason is not None or not self._session.gate.opens:
            return
        now_s = self._heard_s = self._clock.monotonic_s()
        if self._rates_hz.get(kind) != clock_hz:
            self._rates_hz[kind] = clock_hz
            self._media.add(kind, clock_hz)
        if kind == "video" and not self._welcome(codec, frame, now_s):
            self._peer.damaged()
            return
        self._session.begin()
        tick = self._media.tick(kind, frame.timestamp, now_s)
        needed = kind == "audio" or self._needs(frame)
        data = frame.data if needed else b""
        encoded = Encoded(kind, codec, tick, data, frame.key, needed)
        if not self._collector.add(encoded, now_s):
            self._peer.damaged()
        if self._collector.due(now_s):
            self._due.set()

    def _welcome(self, codec: str, frame: Frame, now_s: float) -> bool:
        """Refuse pictures that come, or change their size, faster than any camera's."""
        if not self._shapes.accepts(codec, frame, now_s):
            self._refused["size_changes"] += 1
            return False
        if not self._pace.take(now_s, max(self._shapes.pixels, LEAST_PIXELS)):
            self._refused["too_many_pixels"] += 1
            return False
        return True

    def _needs(self, frame: Frame) -> bool:
        skipped_before = self._layers.skipping
        needed = self._layers.needs(frame.layer, frame.timestamp)
        if skipped_before and not self._layers.skipping:
            self._peer.damaged()
        self._undecoded += not needed
        return needed

    def _passes(self) -> bool:
        """Tell whether a packet may be kept at all; whoever is not looked at is still alive."""
        if self._session is None or self._session.gate.passes():
            return True
        self._heard_s = self._clock.monotonic_s()
        if self._reason is None:
            self._session.unseen()
        return False

    def _report(self, kind: Kind, rtp: int, ntp: int) -> None:
        if kind not in self._rates_hz:
            return
        jump = self._media.report(kind, rtp, ntp_seconds(ntp))
        if jump is not None and self._session is not None:
            self._jumps += 1
            self._session.gap(jump.gap)

    def _on_connected(self) -> None:
        self._connected = True
        self._heard_s = self._clock.monotonic_s()

    def _on_closed(self, left: bool) -> None:
        self.stop("publisher_left" if left and self._connected else "timeout")

    def _register(self, queues: Registry) -> list[Registered]:
        return [
            queues.add(
                "ice_rx",
                bound=RECEIVE_PACKETS,
                unit="packets",
                rule="drop_newest",
                depth=lambda: self._peer.gathering.waiting,
                dropped=lambda: self._peer.gathering.refused,
            ),
            queues.add(
                "jitter",
                bound=CAPACITY,
                unit="packets",
                rule="drop_oldest",
                depth=lambda: self._peer.waiting,
                dropped=self._lost,
            ),
            queues.add(
                "udp_socket",
                bound=SOCKET_BYTES,
                unit="bytes",
                rule="drop_newest",
                depth=lambda: self._peer.gathering.buffers.waiting_bytes,
                dropped=lambda: self._peer.gathering.buffers.dropped,
            ),
            queues.add(
                "decoder_in",
                bound=sum(BOUND.values()),
                unit="frames",
                rule="drop_oldest",
                depth=lambda: len(self._collector),
                dropped=lambda: self._collector.dropped,
            ),
            queues.add(
                "decoded_video",
                bound=HELD_FRAMES,
                unit="frames",
                rule="overwrite",
                depth=lambda: self._session.held("video") if self._session else 0,
                dropped=lambda: self._unused("late_frames", "surplus_frames"),
            ),
            queues.add(
                "decoded_audio",
                bound=HELD_TICKS,
                unit="samples",
                rule="overwrite",
                depth=lambda: self._session.held("audio") if self._session else 0,
                dropped=lambda: self._unused("late_audio_ticks", "duplicate_audio_ticks"),
            ),
            queues.add(
                "sequencer",
                bound=StreamSettings().max_in_flight,
                unit="windows",
                rule="drop_oldest",
                depth=lambda: self._session.statistics().in_flight if self._session else 0,
                dropped=self._unanswered,
            ),
        ]

    def _unused(self, *reasons: str) -> dict[str, int]:
        """Return decoded media that no window took, by reason."""
        dropped = self._session.statistics().dropped if self._session else {}
        return {reason: dropped.get(reason, 0) for reason in reasons}

    def _unanswered(self) -> dict[str, int]:
        skipped = self._session.statistics().skipped if self._session else {}
        return {"unanswered": skipped.get("unanswered", 0)}

    def _lost(self) -> Counter[str]:
        return self._peer.lost() + self._refused

    def _unregister(self) -> None:
        for queue in self._queues:
            queue.close()
