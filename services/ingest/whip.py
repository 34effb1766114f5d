"""The WHIP endpoint without its HTTP: who may publish what, and what is live (RFC 9725).

:meth:`Whip.publish` turns an offer into a session and an answer; each resource is a fresh 128-bit
secret. Refusals are :class:`~services.problems.Problem`, raised before anything was built, and
never disturb another session.
"""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from pipeline.degrade import Rung
from pipeline.events import LoadedModel, Source
from pipeline.ids import ENTROPY_BYTES, ulid
from pipeline.policy import Decision, Gate, Policy
from pipeline.stream import Facts, StreamSettings
from services.audit import SILENT, Audit
from services.auth import Guard, Principal
from services.clock import Clock
from services.ingest.admission import Admission, busy
from services.ingest.books import Books
from services.ingest.decoding import Decoding
from services.ingest.gate import Rate
from services.ingest.ice import NoPort, Ports, offered_addresses
from services.ingest.limits import Limits, Refused
from services.ingest.publication import Publication
from services.ingest.sdp import OfferRefused, parse, parse_fragment
from services.ingest.session import Observer, Scoring, Session
from services.ingest.sink import Opening, OpenSink
from services.ingest.tenure import Over, Tenure
from services.orders import Orders
from services.policing import case_of, person_settings, scoring_on
from services.problems import Problem
from services.queues import Registry
from services.settings import Settings
from services.tasks import cancelled

STREAM_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
CHECK_S: Final = 1.0
"""How often deadlines are looked at."""
DELETE_S: Final = 15.0
"""How long a DELETE may wait until everything is freed."""


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
    why_not: str | None = None
    """Why nothing of it is looked at, for now or for good; None: it is scored."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Gauges and counters of the endpoint."""

    live: int
    half_open: int
    accepted: int
    refused: dict[str, int]
    close_timeouts: int
    untenured: dict[Over, int]
    """Sessions that ended because of their token."""


@dataclass(slots=True)
class _Resource:
    tenant: str
    stream: str
    token_id: str
    etag: str
    publication: Publication
    tenure: Tenure


@dataclass(slots=True)
class _Counters:
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    close_timeouts: int = 0
    untenured: Counter[Over] = field(default_factory=Counter)


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
        orders: Orders | None = None,
        audit: Audit = SILENT,
        admission: Admission | None = None,
        rung: Callable[[], Rung] = lambda: Rung.FULL,
        decoding: Decoding | None = None,
        observe: Callable[[Facts], Observer | None] = lambda _facts: None,
    ) -> None:
        """Make the endpoint; nothing runs before it is entered.

        ``events_url`` gives the address of a session's event socket. ``admission`` judges by what
        is measured whether one more stream is taken, ``rung`` how much of live windows to give up.
        ``decoding`` is a decoder that runs; when left out, the endpoint runs one of its own.
        """
        self.admission = admission or Admission(settings.max_streams)
        self._rung = rung
        self._observe = observe
        self.guard = guard
        self.queues = queues or Registry()
        self._settings = settings
        self._scoring = scoring
        self._open_sink = open_sink
        self._policy = policy
        self._stream_settings = StreamSettings(person=person_settings(policy))
        self._model = model
        self.clock = self._clock = clock
        self._events_url = events_url
        self._orders = orders
        self._audit = audit
        self._ports = Ports(*settings.udp_ports)
        self._rate = Rate(settings.rtp_packets_per_s, settings.rtp_kbits_per_s)
        self._limits = Limits(
            half_open=settings.half_open,
            half_open_per_token=settings.half_open_per_token,
            posts_per_s=settings.posts_per_s,
        )
        self._opening: Counter[str] = Counter()
        """Offers being answered, by token."""
        self._own_decoding = decoding is None
        self.decoding = decoding or Decoding(
            self.queues, settings.max_streams, memory_mb=settings.decoder_memory_mb
        )
        self._resources: dict[str, _Resource] = {}
        self._streams: set[tuple[str, str]] = set()
        self._counters = _Counters()
        self._gone = Books()
        self._watch: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        if self._own_decoding:
            await self._stack.enter_async_context(self.decoding)
        await self._stack.enter_async_context(self._tasks)
        if self._orders is not None:
            self._stack.callback(self._orders.on_change(self._obey))
        self._watch = asyncio.create_task(self._watch_over(), name="whip-watch")
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
        await cancelled(self._watch)
        await self._stack.__aexit__(kind, error, trace)

    def drain(self) -> None:
        """Refuse new publishers from now on; running ones go on."""
        self.admission.draining = True

    async def end_all(self) -> None:
        """Refuse new publishers, end the running ones and wait until each is written out."""
        self.drain()
        ending = self.publications()
        for publication in ending:
            publication.stop("drained")
        for publication in ending:
            await publication.finished.wait()

    @property
    def live(self) -> int:
        """Streams that are live or being opened."""
        return len(self._streams)

    @property
    def running(self) -> bool:
        """Whether deadlines are still looked at."""
        return self._watch is not None and not self._watch.done()

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
            untenured=dict(self._counters.untenured),
        )

    def books(self) -> Books:
        """Return the books of all sessions since the process began."""
        books = self._gone.copy()
        for session in self.sessions():
            books.add(session)
        return books

    def admit(self, principal: Principal, stream: str) -> None:
        """Count an offer and check what can be told before it is read. Raises :class:`Problem`."""
        self._permit(principal, stream)
        now_s = self._clock.monotonic_s()
        self._limit(self._limits.knock(principal, now_s))
        self._limit(self._limits.rested(principal.tenant, stream, now_s))
        self._check(principal, stream)

    def _permit(self, principal: Principal, stream: str) -> None:
        if not principal.may_publish(stream):
            raise self._refusal(
                403,
                "forbidden",
                f"this token may not publish '{stream}': it needs the scope 'ingest:{stream}'",
            )

    def _check(self, principal: Principal, stream: str) -> None:
        decision = self._policy.decide(case_of(principal))
        if not decision.admitted:
            self._audit.note("refused", principal, why=decision.why_not)
            raise self._refusal(403, "policy_denied", decision.sentence)
        others = len(self._streams) - ((principal.tenant, stream) in self._streams)
        if (problem := self.admission.refusal(others)) is not None:
            raise self._counted(problem)
        if self._is_live(principal.tenant, stream) and not principal.takeover:
            raise self._refusal(
                409, "stream_live", f"the stream '{stream}' is live: end it or choose another name"
            )

    async def publish(self, request: Request) -> Accepted:
        """Open a session for an offer. Raises :class:`Problem` or, from the bus, ``BusError``."""
        self._permit(request.principal, request.stream)
        self._check(request.principal, request.stream)
        self._limit(self._limits.room(request.principal, self._connecting()))
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
            decoding=self.decoding,
            queues=self.queues,
            clock=self._clock,
            rate=self._rate,
        )
        self._opening[request.principal.token_id] += 1
        try:
            answer = await publication.answer()
            session = await self._open(request, publication)
        except BaseException as error:
            await publication.discard()
            self._streams.discard(key)
            if isinstance(error, NoPort):
                raise self._busy("no_udp_port", f"{error}: try again later") from None
            raise
        finally:
            self._opening -= Counter([request.principal.token_id])
        publication.attach(session)
        return self._register(request, publication, answer)

    def trickle(
        self, principal: Principal, stream: str, resource: str, if_match: str | None, body: bytes
    ) -> None:
        """Take a trickle fragment; its candidates are not needed. Raises :class:`Problem`."""
        live = self._find(principal, stream, resource)
        live.tenure.check(principal)
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
        live.tenure.renew(principal)

    async def delete(self, principal: Principal, stream: str, resource: str) -> None:
        """End a session and wait until all is freed. Raises :class:`Problem` (404)."""
        live = self._find(principal, stream, resource, by_admin=True)
        own = principal.may_publish(stream)
        live.publication.stop("publisher_left" if own else "deleted")
        try:
            async with asyncio.timeout(DELETE_S):
                await live.publication.finished.wait()
        except TimeoutError:
            return

    def _find(
        self, principal: Principal, stream: str, resource: str, *, by_admin: bool = False
    ) -> _Resource:
        """Return a live resource; whose it is not learns no more than that there is none."""
        live = self._resources.get(resource)
        allowed = principal.may_publish(stream) or (by_admin and principal.may("admin"))
        of_token = (principal.tenant, stream)
        if not allowed or live is None or (live.tenant, live.stream) != of_token:
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
        """End the publisher of a stream that makes way, and wait until it is gone.

        It fell silent, or it lost the stream to a publisher that may take it over.
        """
        old = self._of(tenant, stream)
        if old is not None:
            old.stop("timeout" if old.stale else "owner_lost")
            await old.finished.wait()
            await asyncio.sleep(0)  # its task gives the name back right after
        if self._is_live(tenant, stream):
            raise self._refusal(409, "stream_live", f"the stream '{stream}' was just taken")

    async def _open(self, request: Request, publication: Publication) -> Session:
        decision = self._policy.decide(case_of(request.principal))
        wall_ms = self._clock.wall_ms()
        session_id = "ses_" + ulid(wall_ms, secrets.token_bytes(ENTROPY_BYTES))
        role = request.principal.role
        opening = Opening(session_id, request.principal.tenant, request.stream, role)
        facts = Facts(
            session_id=session_id,
            stream=request.stream,
            role=role,
            scored=decision.scored,
            why_not=decision.why_not,
            tracks=publication.offer.kinds,
            source=Source(kind="whip", user_agent=request.user_agent),
            meta=dict(request.meta),
            model=self._model,
            policy=self._policy.tag,
            notice=self._policy.notice.version,
        )
        sink = await self._open_sink(opening, publication.stop_for)
        self._tell_audit(request, session_id, decision)
        return Session(
            facts,
            scoring=self._scoring,
            sink=sink,
            clock=self._clock,
            live=True,
            gate=Gate(decision),
            settings=self._stream_settings,
            rung=self._rung,
            observer=self._observe(facts) if decision.scored or decision.asks else None,
        )

    def _tell_audit(self, request: Request, session_id: str, decision: Decision) -> None:
        record = request.principal.consent
        self._audit.note(
            "published",
            request.principal,
            session=session_id,
            role=request.principal.role,
            scored=decision.scored,
            why_not=decision.why_not,
            notice=None if record is None else record.notice_version,
        )

    def _obey(self) -> None:
        """Take the standing orders: who withdrew or gave consent, where scoring is off."""
        for resource in list(self._resources.values()):
            self._obey_one(resource)

    def _obey_one(self, resource: _Resource) -> None:
        if self._orders is not None:
            resource.publication.obey(
                consent=self._orders.value("consent", resource.publication.session.session_id),
                scoring=scoring_on(self._orders, resource.tenant),
            )

    def _register(self, request: Request, publication: Publication, answer: str) -> Accepted:
        name = secrets.token_urlsafe(16)
        etag = secrets.token_hex(8)
        self._resources[name] = _Resource(
            request.principal.tenant,
            request.stream,
            request.principal.token_id,
            etag,
            publication,
            Tenure(request.principal),
        )
        self._obey_one(self._resources[name])
        self._counters.accepted += 1
        self._tasks.create_task(self._run(name, publication), name="publication")
        facts = publication.session.facts
        events_url = self._events_url(facts.session_id)
        return Accepted(facts.session_id, name, etag, answer, events_url, facts.why_not)

    async def _run(self, name: str, publication: Publication) -> None:
        try:
            await publication.run()
        finally:
            resource = self._resources.pop(name)
            self._streams.discard((resource.tenant, resource.stream))
            self._gone.add(publication.session)
            if publication.reason == "bad_media":
                now_s = self._clock.monotonic_s()
                self._limits.rest(resource.tenant, resource.stream, now_s)
            self._counters.close_timeouts += publication.abandoned

    async def _watch_over(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            for resource in list(self._resources.values()):
                resource.publication.check()
                self._check_tenure(resource)

    def _check_tenure(self, resource: _Resource) -> None:
        over = resource.tenure.over(self.guard, self._clock.wall_ms())
        if over is not None and not resource.tenure.ended:
            resource.tenure.ended = True
            self._counters.untenured[over] += 1
            resource.publication.stop("policy")

    def _refusal(self, status: int, code: str, detail: str) -> Problem:
        return self._counted(Problem(status, code, detail))

    def _connecting(self) -> Counter[str]:
        """Return how many publishers have yet to connect, by token."""
        live = self._resources.values()
        return self._opening + Counter(one.token_id for one in live if one.publication.half_open)

    def _limit(self, refused: Refused | None) -> None:
        if refused is not None:
            problem = self._refusal(refused.status, refused.code, refused.detail)
            problem.headers["Retry-After"] = str(refused.retry_after_s)
            raise problem

    def _busy(self, code: str, detail: str) -> Problem:
        return self._counted(busy(code, detail))

    def _counted(self, problem: Problem) -> Problem:
        self._counters.refused[problem.code] = self._counters.refused.get(problem.code, 0) + 1
        return problem
