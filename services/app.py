"""All services in one process: what ``demeanor up`` runs.

The order of opening is the order of the flow turned round, so that everything that sends finds its
receiver: bus, scorer, gateway, WHIP, HTTP. Closing goes the other way and loses nothing: publishers
are refused, readers are told, sessions end and are written out, then the bus closes.
"""

import asyncio
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from aiohttp import web

from pipeline.events import LoadedModel
from pipeline.policy import Policy
from pipeline.scorer import OrtScorer
from services import problems
from services.auth import Guard
from services.bus.open import open_bus
from services.clock import SystemClock
from services.gateway import http as gateway_http
from services.gateway.app import Gateway
from services.ingest import http as ingest_http
from services.ingest.sink import bus_sinks
from services.ingest.whip import Whip
from services.queues import Registry
from services.scorer.loop import ScoringLoop
from services.settings import Settings
from services.sockets import address, listen

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
    guard: Guard
    moved: tuple[str, ...]
    """One sentence per port that was taken."""


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
async def running(settings: Settings, doors: Doors, scorer: OrtScorer) -> AsyncIterator[Ready]:
    """Run every service while the context lasts; yields once all doors are open."""
    clock, queues = SystemClock(), Registry()
    policy = Policy(settings.score_roles)
    guard = Guard.bound_to([settings.host])
    events_url = f"ws://{address(doors.events)}/v1/events"
    owner = f"ing_{secrets.token_hex(4)}"
    async with (
        open_bus(settings) as opened,
        ScoringLoop(scorer, clock, max_age_ms=settings.max_age_ms, queues=queues) as scoring,
        Gateway(
            opened.bus,
            guard=guard,
            clock=clock,
            settings=settings,
            socket=doors.events,
            events_url=events_url,
            model=scorer.loaded,
            policy=policy,
            queues=queues,
        ) as gateway,
        Whip(
            settings,
            guard=guard,
            scoring=scoring,
            open_sink=bus_sinks(opened.bus, clock, owner, queues),
            policy=policy,
            model=scorer.loaded,
            clock=clock,
            events_url=lambda _session_id: events_url,
            queues=queues,
        ) as whip,
        _http(doors.http, gateway, whip, scoring),
    ):
        yield Ready(
            http=f"http://{address(doors.http)}",
            events=events_url,
            bus=opened.description,
            model=scorer.loaded,
            policy=policy.sentence,
            guard=guard,
            moved=doors.moved(settings),
        )
        whip.drain()
        await gateway.drain()


@asynccontextmanager
async def _http(
    bound: socket.socket, gateway: Gateway, whip: Whip, scoring: ScoringLoop
) -> AsyncIterator[None]:
    """Serve WHIP, pages, REST, SSE and metrics on one socket."""
    sources = {"ingest": lambda: _of_ingest(whip), "scorer": lambda: _of_scorer(scoring)}
    app = web.Application(middlewares=[problems.middleware])
    ingest_http.routes(app, whip)
    gateway_http.routes(app, gateway, sources=sources)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.SockSite(runner, bound).start()
        yield
    finally:
        await runner.cleanup()


def _of_ingest(whip: Whip) -> dict[str, float]:
    """Return the numbers of the WHIP endpoint for ``/metrics``."""
    now = whip.statistics()
    return {
        "live_sessions": now.live,
        "half_open_sessions": now.half_open,
        "accepted_total": now.accepted,
        "refused_total": sum(now.refused.values()),
        "close_timeouts_total": now.close_timeouts,
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
        "batch_seconds_p95": (now.percentile_ms(0.95) or 0.0) / 1000,
    }


async def serve(
    settings: Settings, doors: Doors, scorer: OrtScorer, on_ready: Callable[[Ready], None]
) -> None:
    """Run until SIGINT or SIGTERM, then drain. A second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    async with running(settings, doors, scorer) as ready:
        on_ready(ready)
        await stop.wait()
        log.info("draining")
