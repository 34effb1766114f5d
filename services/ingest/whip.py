"""The WHIP endpoint without its HTTP: who may publish what, and what is live (RFC 9725).

:meth:`Whip.publish` turns an offer into a session and an answer; each resource is a fresh 128-bit
secret. Refusals are :class:`~services.problems.Problem`, raised before anything was built, and
never disturb another session.
"""

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from pipeline.events import LoadedModel, Source
from pipeline.ids import ENTROPY_BYTES, ulid
from pipeline.policy import Policy
from pipeline.stream import Facts
from services.auth import Guard, Principal
from services.clock import Clock
from services.ingest.decoding import Decoding
from services.ingest.ice import NoPort, Ports, offered_addresses
from services.ingest.publication import Publication
from services.ingest.sdp import OfferRefused, parse, parse_fragment
from services.ingest.session import Scoring, Session
from services.ingest.sink import Opening, OpenSink
from services.problems import Problem
from services.queues import Registry
from services.settings import Settings

STREAM_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
CHECK_S: Final = 1.0
"""How often deadlines are looked at."""
DELETE_S: Final = 15.0
"""How long a DELETE may wait until everything is freed."""
_RETRY_S: Final = (3, 4, 5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Request:
    """A publisher's wish."""

    principal: Principal
    stream: str
    offer: bytes
    meta: Mapping[str, str]
    user_agent: str | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A session that was opened."""

    session_id: str
    resource: str
    """Secret name of the WHIP resource."""
    etag: str
    """Without quotes."""
    answer: str
    events_url: str
    """WebSocket URL of this session's events."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Gauges and counters of the endpoint."""

    live: int
    half_open: int
    accepted: int
    refused: dict[str, int]
    close_timeouts: int


@dataclass(slots=True)
class _Resource:
    tenant: str
    stream: str
    etag: str
    publication: Publication


@dataclass(slots=True)
class _Counters:
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    close_timeouts: int = 0


class Whip:
    """All publishers of one ingest process; an async context manager that ends them all."""

    def __init__(
        self,
        settings: Settings,
        *,
        guard: Guard,
        scoring: Scoring,
        open_sink: OpenSink,
        policy: Policy,
        model: LoadedModel,
        clock: Clock,
        events_url: Callable[[str], str],
        queues: Registry | None = None,
    ) -> None:
        """Make the endpoint; nothing runs before it is entered.

        ``events_url`` gives the address of a session's event socket.
        """
        self.guard = guard
        self.queues = queues or Registry()
        self._settings = settings
        self._scoring = scoring
        self._open_sink = open_sink
        self._policy = policy
        self._model = model
        self._clock = clock
        self._events_url = events_url
        self._ports = Ports(*settings.udp_ports)
        self._decoding = Decoding(self.queues, settings.max_streams)
        self._resources: dict[str, _Resource] = {}
        self._streams: set[tuple[str, str]] = set()
        self._counters = _Counters()
        self._draining = False
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._decoding)
        await self._stack.enter_async_context(self._tasks)
        self._watch = self._tasks.create_task(self._watch_over(), name="whip-watch")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drain()
        for resource in list(self._resources.values()):
            resource.publication.stop("drained")
        self._watch.cancel()
        await self._stack.__aexit__(kind, error, trace)

    def drain(self) -> None:
        """Refuse new publishers from now on; running ones go on."""
        self._draining = True

    def sessions(self) -> list[Session]:
        """Return the live sessions."""
        return [resource.publication.session for resource in self._resources.values()]

    def publications(self) -> list[Publication]:
        """Return the live publications, for their counters."""
        return [resource.publication for resource in self._resources.values()]

    def end(self, session_id: str) -> bool:
        """End a session by its id (``deleted``); False when it is not live here."""
        for resource in self._resources.values():
            if resource.publication.session.session_id == session_id:
                resource.publication.stop("deleted")
                return True
        return False

    def statistics(self) -> Statistics:
        """Return gauges and counters as they stand."""
        publications = self.publications()
        return Statistics(
            live=len(self._streams),
            half_open=sum(publication.half_open for publication in publications),
            accepted=self._counters.accepted,
            refused=dict(self._counters.refused),
            close_timeouts=self._counters.close_timeouts,
        )

    def admit(self, principal: Principal, stream: str) -> None:
        """Check what can be told before the offer is read. Raises :class:`Problem`."""
        decision = self._policy.decide(principal.role)
        if not decision.scored:
            raise self._refusal(403, "policy_denied", decision.sentence)
        if self._draining:
            raise self._busy("draining", "the server is shutting down: try again in a moment")
        if self._is_live(principal.tenant, stream):
            raise self._refusal(
                409, "stream_live", f"the stream '{stream}' is live: end it or choose another name"
            )
        if len(self._streams) >= self._settings.max_streams:
            raise self._busy(
                "at_capacity",
                f"all {self._settings.max_streams} streams are in use: try again later",
            )

    async def publish(self, request: Request) -> Accepted:
        """Open a session for an offer. Raises :class:`Problem` or, from the bus, ``BusError``."""
        self.admit(request.principal, request.stream)
        try:
            offer = parse(request.offer)
        except OfferRefused as error:
            raise self._refusal(error.status, error.code, error.detail) from None
        key = request.principal.tenant, request.stream
        await self._replace(*key)
        self._streams.add(key)
        publication = Publication(
            offer,
            ports=self._ports,
            addresses=offered_addresses(self._settings.ice_addresses, self._settings.host),
            ice_servers=self._settings.ice_servers,
            decoding=self._decoding,
            queues=self.queues,
            clock=self._clock,
        )
        try:
            answer = await publication.answer()
            session = await self._open(request, publication)
        except BaseException as error:
            await publication.discard()
            self._streams.discard(key)
            if isinstance(error, NoPort):
                raise self._busy("no_udp_port", f"{error}: try again later") from None
            raise
        publication.attach(session)
        return self._register(request, publication, answer)

    def trickle(
        self, principal: Principal, stream: str, resource: str, if_match: str | None, body: bytes
    ) -> None:
        """Take a trickle fragment; its candidates are not needed. Raises :class:`Problem`."""
        live = self._find(principal, stream, resource)
        if if_match is None:
            raise self._refusal(
                428, "precondition_required", "send 'If-Match' with the ETag of the 201 answer"
            )
        try:
            fragment = parse_fragment(body)
        except OfferRefused as error:
            raise self._refusal(error.status, error.code, error.detail) from None
        known = {media.ufrag for media in live.publication.offer.media}
        if if_match.strip() == "*" or (fragment.ufrag and fragment.ufrag not in known):
            raise self._refusal(
                422, "no_ice_restart", "ICE restart is not supported: the session goes on as it is"
            )
        if live.etag not in [tag.strip().strip('"') for tag in if_match.split(",")]:
            raise self._refusal(
                412, "precondition_failed", "'If-Match' is not the ETag of this session"
            )

    async def delete(self, principal: Principal, stream: str, resource: str) -> None:
        """End a session and wait until all is freed. Raises :class:`Problem` (404)."""
        live = self._find(principal, stream, resource)
        live.publication.stop("publisher_left")
        try:
            async with asyncio.timeout(DELETE_S):
                await live.publication.finished.wait()
        except TimeoutError:
            return

    def _find(self, principal: Principal, stream: str, resource: str) -> _Resource:
        live = self._resources.get(resource)
        if live is None or (live.tenant, live.stream) != (principal.tenant, stream):
            raise self._refusal(
                404, "no_such_resource", "there is no such session, or it is over: POST a new offer"
            )
        return live

    def _is_live(self, tenant: str, stream: str) -> bool:
        if (tenant, stream) not in self._streams:
            return False
        publication = self._of(tenant, stream)
        return publication is None or not publication.stale

    def _of(self, tenant: str, stream: str) -> Publication | None:
        """Return the publication of a stream; None while it is being opened."""
        found = (r for r in self._resources.values() if (r.tenant, r.stream) == (tenant, stream))
        return next((resource.publication for resource in found), None)

    async def _replace(self, tenant: str, stream: str) -> None:
        """End a publisher of the same stream that fell silent, and wait until it is gone."""
        stale = self._of(tenant, stream)
        if stale is not None:
            stale.stop("timeout")
            await stale.finished.wait()
            await asyncio.sleep(0)  # its task gives the name back right after
            if self._is_live(tenant, stream):
                raise self._refusal(409, "stream_live", f"the stream '{stream}' was just taken")

    async def _open(self, request: Request, publication: Publication) -> Session:
        wall_ms = self._clock.wall_ms()
        session_id = "ses_" + ulid(wall_ms, secrets.token_bytes(ENTROPY_BYTES))
        role = request.principal.role
        opening = Opening(session_id, request.principal.tenant, request.stream, role)
        facts = Facts(
            session_id=session_id,
            stream=request.stream,
            role=role,
            scored=True,
            why_not=None,
            tracks=publication.offer.kinds,
            source=Source(kind="whip", user_agent=request.user_agent),
            meta=dict(request.meta),
            model=self._model,
        )
        sink = await self._open_sink(opening, publication.stop_for)
        return Session(facts, scoring=self._scoring, sink=sink, clock=self._clock, live=True)

    def _register(self, request: Request, publication: Publication, answer: str) -> Accepted:
        name = secrets.token_urlsafe(16)
        etag = secrets.token_hex(8)
        self._resources[name] = _Resource(
            request.principal.tenant, request.stream, etag, publication
        )
        self._counters.accepted += 1
        self._tasks.create_task(self._run(name, publication), name="publication")
        session_id = publication.session.session_id
        return Accepted(session_id, name, etag, answer, self._events_url(session_id))

    async def _run(self, name: str, publication: Publication) -> None:
        try:
            await publication.run()
        finally:
            resource = self._resources.pop(name)
            self._streams.discard((resource.tenant, resource.stream))
            self._counters.close_timeouts += publication.abandoned

    async def _watch_over(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            for resource in list(self._resources.values()):
                resource.publication.check()

    def _refusal(self, status: int, code: str, detail: str) -> Problem:
        self._counters.refused[code] = self._counters.refused.get(code, 0) + 1
        return Problem(status, code, detail)

    def _busy(self, code: str, detail: str) -> Problem:
        problem = self._refusal(503, code, detail)
        problem.headers["Retry-After"] = str(secrets.choice(_RETRY_S))
        return problem
