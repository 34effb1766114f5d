"""All services in one process: what ``demeanor up`` runs.

The order of opening is the order of the flow turned round, so that everything that sends finds its
receiver: bus, scorer, gateway, WHIP, HTTP. Closing goes the other way and loses nothing: publishers
are refused, readers are told, sessions end and are written out, then the bus closes.
"""

import asyncio
import secrets
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web

from pipeline.events import LoadedModel
from pipeline.scorer import OrtScorer
from services import calibration, policing, problems
from services.addresses import Addresses
from services.audit.log import AuditLog, default_folder
from services.auth import Guard
from services.bus.open import open_bus
from services.clock import SystemClock
from services.ending import Died, Ending, Watch
from services.explain.desk import Desk, open_desk
from services.front import Front
from services.gateway import http as gateway_http
from services.gateway.app import Gateway
from services.gateway.metrics import Source
from services.identity import open as identity
from services.ingest import http as ingest_http
from services.ingest.admission import Admission
from services.ingest.decoding import Decoding
from services.ingest.retention import Retention
from services.ingest.sink import bus_sinks
from services.ingest.whip import Whip
from services.load import Meter
from services.orders import Orders
from services.process import Process
from services.queues import Registry
from services.scorer.loop import ScoringLoop
from services.settings import Settings
from services.sockets import listen
from services.tls import server_context

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything listens; what people must know of it."""

    http: str
    """Base address of pages, WHIP and REST."""
    events: str
    """Address of the event socket."""
    bus: str
    model: LoadedModel
    policy: str
    retention_s: int
    """How long scores stay after the end of a stream."""
    audit: Path
    """Folder of the audit log."""
    guard: Guard
    streams: str
    """How many streams it takes, and how that is known."""
    moved: tuple[str, ...]
    """One sentence per port that was taken."""
    explain: str | None = None
    """Name of the explain model, when that tier is on."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Listening sockets, opened before anything slow so that a busy port is told at once."""

    http: socket.socket
    events: socket.socket

    def close(self) -> None:
        """Close both; servers that own them by then close them again without harm."""
        self.http.close()
        self.events.close()

    def moved(self, settings: Settings) -> tuple[str, ...]:
        """Tell which port gave way to which."""
        wanted = ((settings.http_port, self.http), (settings.ws_port, self.events))
        return tuple(
            f"port {port} is in use; listening on {bound.getsockname()[1]} instead"
            for port, bound in wanted
            if port not in (0, bound.getsockname()[1])
        )


def open_doors(settings: Settings) -> Doors:
    """Bind both ports. Raises :class:`~pipeline.errors.UsageError`."""
    http = listen(settings.host, settings.http_port)
    try:
        return Doors(http, listen(settings.host, settings.ws_port))
    except BaseException:
        http.close()
        raise


@asynccontextmanager
async def running(
    settings: Settings, doors: Doors, scorer: OrtScorer, ending: Ending
) -> AsyncIterator[Ready]:
    """Run every service while the context lasts; yields once all doors are open.

    Leaving it drains what runs. ``ending`` is told when a part dies that must live.
    """
    clock, queues = SystemClock(), Registry()
    settings, known = calibration.effective(settings, scorer.loaded.digest)
    admission = Admission(settings.max_streams)
    policy = policing.load(settings)
    identity.check(settings)
    tls = server_context(settings.tls_cert, settings.tls_key, clock)
    known_as = Addresses.of(settings, doors.http, doors.events, secure=tls is not None)
    owner = f"ing_{secrets.token_hex(4)}"
    async with (
        AuditLog(
            settings.audit or default_folder(), clock=clock, policy=policy.tag, queues=queues
        ) as audit,
        open_bus(settings) as opened,
        Orders(opened.bus, clock) as orders,
        identity.open_guard(settings, clock, orders) as guard,
        ScoringLoop(scorer, clock, max_age_ms=settings.max_age_ms, queues=queues) as scoring,
        Meter(clock, scoring, opened.bus.ping, memory_limit_mb=settings.memory_limit_mb) as meter,
        Gateway(
            opened.bus,
            guard=guard,
            clock=clock,
            settings=settings,
            socket=doors.events,
            events_url=known_as.events,
            model=scorer.loaded,
            policy=policy,
            queues=queues,
            orders=orders,
            audit=audit,
            tls=tls,
        ) as gateway,
        Decoding.open(settings, queues) as decoding,
        open_desk(settings, orders, queues) as desk,
        Retention(opened.bus, clock, policy.retention_s, queues) as retention,
        Whip(
            settings,
            guard=guard,
            scoring=scoring,
            open_sink=bus_sinks(opened.bus, clock, owner, queues, retention.ended),
            policy=policy,
            model=scorer.loaded,
            clock=clock,
            events_url=lambda _session_id: known_as.events,
            queues=queues,
            orders=orders,
            audit=audit,
            admission=admission,
            rung=lambda: meter.rung,
            decoding=decoding,
            observe=desk.observe if desk is not None else lambda _facts: None,
        ) as whip,
    ):
        process = Process(settings, scorer.loaded, scoring, meter, gateway, whip, decoding, ending)
        meter.on_measure(lambda load: admission.note(load, meter.rung, clock.monotonic_s()))
        http = _http(doors.http, process, audit, desk, known_as=known_as, tls=tls)
        async with http, Watch(ending, process.vital()):
            yield Ready(
                http=known_as.http,
                events=known_as.events,
                bus=opened.description,
                model=scorer.loaded,
                policy=f"{policy.tag}: roles {', '.join(policy.score_roles)}",
                retention_s=policy.retention_s,
                audit=audit.folder,
                guard=guard,
                moved=doors.moved(settings),
                explain=desk.tier.identity if desk is not None else None,
                streams=f"up to {settings.max_streams} at once ({known})",
            )
            audit.note("drained", None)
            await process.drain()


@asynccontextmanager
async def _http(
    bound: socket.socket,
    process: Process,
    audit: AuditLog,
    desk: Desk | None,
    *,
    known_as: Addresses,
    tls: ssl.SSLContext | None,
) -> AsyncIterator[None]:
    """Serve WHIP, pages, REST, SSE, health and metrics on one socket."""
    front = Front()
    sources = _sources(process, front, audit, desk)
    app = web.Application(middlewares=[problems.middleware])
    ingest_http.routes(
        app,
        process.whip,
        allows=process.gateway.allows,
        brake=process.gateway.brake,
        addresses=known_as,
    )
    gateway_http.routes(app, process.gateway, sources=sources, vitals=process.vitals())
    async with front.serving(app, bound, tls):
        yield


def _sources(
    process: Process, front: Front, audit: AuditLog, desk: Desk | None
) -> dict[str, Source]:
    """Return what ``/metrics`` counts beside the gateway, the bus and the queues."""
    return {
        **({"explain": desk.statistics} if desk is not None else {}),
        "ingest": lambda: _of_ingest(process.whip),
        "scorer": lambda: _of_scorer(process.scoring),
        "audit": audit.statistics,
        "load": process.meter.statistics,
        "identity": lambda: identity.statistics(process.whip.guard),
        "http": front.statistics,
        "process": lambda: {"tasks": len(asyncio.all_tasks())},
    }


def _of_ingest(whip: Whip) -> dict[str, float | dict[str, float]]:
    """Return the numbers of the WHIP endpoint for ``/metrics``."""
    now, books = whip.statistics(), whip.books()
    return {
        "windows_cut_total": books.cut,
        "windows_scored_total": books.scored,
        "windows_skipped_total": {str(reason): n for reason, n in books.skipped.items()},
        "windows_in_flight": books.in_flight,
        "refusals_total": {code: float(n) for code, n in now.refused.items()},
        "live_sessions": now.live,
        "half_open_sessions": now.half_open,
        "accepted_total": now.accepted,
        "refused_total": sum(now.refused.values()),
        "close_timeouts_total": now.close_timeouts,
        "expired_sessions_total": now.untenured.get("expired", 0),
        "revoked_sessions_total": now.untenured.get("revoked", 0),
        **_of_decoder(whip),
    }


def _of_decoder(whip: Whip) -> dict[str, float]:
    """Return the numbers of the decoder's process."""
    now = whip.decoding.statistics()
    return {
        "decoder_running": now.running,
        "decoder_restarts_total": now.restarts,
        "decoder_crashes_total": now.ends.get("crashed", 0),
        "decoder_kills_total": now.ends.get("killed", 0),
        "decoder_late_total": now.ends.get("late", 0),
        "decoder_lies_total": now.ends.get("lied", 0),
        "decoder_lost_batches_total": now.lost_batches,
    }


def _of_scorer(scoring: ScoringLoop) -> dict[str, float]:
    """Return the numbers of the scoring loop for ``/metrics``."""
    now = scoring.statistics()
    return {
        "waiting_windows": now.waiting,
        "batches_total": now.batches,
        "windows_total": now.windows,
        "skipped_windows_total": sum(now.skipped.values()),
        "failed_windows_total": sum(now.failures.values()),
        "hangs_total": now.hangs,
        "batch_seconds_p95": (now.percentile_ms(0.95) or 0.0) / 1000,
    }


async def serve(
    settings: Settings,
    doors: Doors,
    scorer: OrtScorer,
    on_ready: Callable[[Ready], None],
    on_end: Callable[[float], object] = lambda _soft_s: None,
) -> None:
    """Run until SIGINT, SIGTERM or ``POST /v1/drain``, then drain.

    ``on_end`` is called when that begins, with the seconds that running streams may go on.

    A second signal ends the process at once, as that signal does. Raises
    :class:`~services.ending.Died` when a part died that must live.
    """
    ending = Ending()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        on_end(0.0)
        ending.hard()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    async with running(settings, doors, scorer, ending) as ready:
        on_ready(ready)
        await ending.begun()
        on_end(ending.soft_s)
    if ending.died is not None:
        raise Died(f"{ending.died} has ended; start the server again")
