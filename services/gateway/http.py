"""REST, SSE, pages and health over the same hub that serves the event socket (aiohttp)."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from pipeline.events import PROTOCOL
from services.auth import DEV_TOKEN, Principal
from services.bus.types import Session
from services.gateway import (
    access,
    asyncapi,
    docs,
    entrance,
    explaining,
    health,
    openapi,
    pages,
    policing,
    protocol,
    sse,
    tokens,
    views,
)
from services.gateway.app import Gateway
from services.gateway.entrance import Entrance, hostname
from services.gateway.metrics import CONTENT_TYPE, Metrics, Source
from services.gateway.protocol import Closing, Code, Selection
from services.gateway.requests import Requests
from services.gateway.views import SessionView
from services.policing import described
from services.problems import Problem

LIMIT = 50
_LARGEST_MS = 2**53
_encoder = msgspec.json.Encoder()


def routes(
    app: web.Application,
    gateway: Gateway,
    *,
    sources: Mapping[str, Source] | None = None,
    vitals: health.Vitals | None = None,
) -> None:
    """Add everything but WHIP to ``app``, whose middleware must be :mod:`services.problems`'s.

    ``sources``: numbers of other rooms for ``/metrics``, as ``statistics()`` gives them.
    ``vitals``: what health asks of the rest of the process.
    """
    entrance.install(app, gateway)
    tokens.routes(app, gateway)
    policing.routes(app, gateway)
    explaining.routes(app, gateway)
    door = _Door(gateway, {} if sources is None else sources)
    health.routes(app, gateway, vitals or health.Vitals(), Entrance(gateway).principal)
    get = app.router.add_get
    get("/v1/sessions", door.sessions)
    get("/v1/sessions/{session_id}", door.session)
    get("/v1/sessions/{session_id}/state", door.state)
    get("/v1/sessions/{session_id}/timeline", door.timeline)
    # A stream has no end, so an answer to HEAD would never be over.
    get("/v1/sessions/{session_id}/events", door.session_events, allow_head=False)
    get("/v1/events", door.events, allow_head=False)
    get("/v1/policy", door.policy)
    get("/v1/models", door.models)
    get("/metrics", door.metrics)
    get("/v1/config", door.config)
    get("/version", door.version)
    get("/asyncapi.json", door.asyncapi)
    get("/openapi.json", door.openapi)
    get("/docs/errors", door.errors)
    for name in ("", *door.files):
        get(f"/{name}", door.page)


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=_encoder.encode(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


class _Door:
    """Handlers; each does one thing to the gateway."""

    def __init__(self, gateway: Gateway, sources: Mapping[str, Source]) -> None:
        self._gateway = gateway
        self._entrance = Entrance(gateway)
        self._hub = gateway.hub
        self._metrics = Metrics(
            gateway.queues,
            {"gateway": gateway.statistics, "bus": gateway.bus.statistics, **sources},
        )
        self._asyncapi = asyncapi.document(gateway.version)
        self._openapi = openapi.document(gateway.version)
        self.files = pages.files()

    # sessions

    async def sessions(self, request: web.Request) -> web.Response:
        """One page of the list."""
        principal = self._entrance.reader(request)
        key = request.query.get("sort", "session_id")
        if key.removeprefix("-") not in views.SORTS:
            raise Problem(
                400, "bad_sort", f"sort by one of: {', '.join(views.SORTS)}; '-' turns it"
            )
        limit = _number(request, "limit", LIMIT, 1, views.LARGEST_LIMIT)
        await self._hub.serve(principal.tenant)
        every = [
            await self._view(session)
            for session in self._hub.directory.of(principal.tenant)
            if access.reads(principal, session)
        ]
        state = request.query.get("state")
        chosen = views.sort([item for item in every if state in (None, item.state)], key)
        after = request.query.get("after")
        ids = [item.session_id for item in chosen]
        start = ids.index(after) + 1 if after in ids else 0
        page = chosen[start : start + limit]
        more = page[-1].session_id if start + limit < len(chosen) else None
        return _json(views.Page(page, more))

    async def session(self, request: web.Request) -> web.Response:
        """One session."""
        return _json(await self._view(await self._session(request)))

    async def state(self, request: web.Request) -> web.Response:
        """One sentence and the numbers behind it."""
        view = await self._view(await self._session(request))
        return _json(views.StateView(views.sentence(view), view))

    async def timeline(self, request: web.Request) -> web.Response:
        """Windows that are still held."""
        session = await self._session(request)
        if request.query.get("format", "json") != "json":
            raise Problem(400, "bad_format", "the timeline comes as format=json")
        from_ms = _number(request, "from_ms", 0, 0, _LARGEST_MS)
        to_ms = _number(request, "to_ms", _LARGEST_MS, 0, _LARGEST_MS)
        return _json(views.timeline(await self._hub.feed(session), from_ms, to_ms))

    async def _session(self, request: web.Request) -> Session:
        return await self._entrance.session(request, self._entrance.reader(request))

    async def _view(self, session: Session) -> SessionView:
        feed = await self._hub.feed(session)
        lost = self._hub.directory.is_lost(session.session_id)
        return views.view(feed, session, owner_lost=lost)

    # streams

    async def session_events(self, request: web.Request) -> web.StreamResponse:
        """One session's events."""
        principal = self._entrance.listener(request, request.match_info["session_id"])
        session = await self._entrance.session(request, principal)
        return await self._stream(request, principal, [session.session_id])

    async def events(self, request: web.Request) -> web.StreamResponse:
        """All sessions' events."""
        principal = self._entrance.listener(request)
        return await self._stream(request, principal, [protocol.EVERYTHING])

    async def _stream(
        self, request: web.Request, principal: Principal, sessions: list[str]
    ) -> web.StreamResponse:
        selection = _selection(request, sessions)
        since = sse.position(request.headers.get("Last-Event-ID"))
        if since is not None and protocol.EVERYTHING not in sessions and since[0] not in sessions:
            since = None
        try:
            with self._gateway.stream(principal) as outbox:
                requests = Requests(self._hub, outbox, principal, self._gateway.audit)
                try:
                    await sse.subscribe(requests, outbox, selection, since)
                    if not outbox.expects:  # over and read to the end: tells EventSource to stop
                        return web.Response(status=204)
                    response = web.StreamResponse(
                        headers={
                            "Content-Type": "text/event-stream",
                            "Cache-Control": "no-store",
                            "X-Accel-Buffering": "no",
                        }
                    )
                    await response.prepare(request)
                    await sse.run(response, outbox, self._hub.notices)
                finally:
                    requests.close()
        except Closing as closing:
            raise _refusal(closing) from closing
        return response

    # about

    async def policy(self, request: web.Request) -> web.Response:
        """Who may be scored."""
        self._entrance.principal(request)
        policy = self._gateway.policy
        if policy is None:
            raise Problem(404, "no_policy", "this process scores nothing; ask the one that does")
        return _json(described(policy))

    async def models(self, request: web.Request) -> web.Response:
        """The loaded model."""
        self._entrance.principal(request)
        model = self._gateway.model
        return _json({"models": [] if model is None else [model]})

    async def metrics(self, request: web.Request) -> web.Response:
        """Numbers for Prometheus: free on a machine that is alone, else for admins."""
        self._entrance.neighbour(request)
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def config(self, request: web.Request) -> web.Response:
        """What a page needs to connect; the public token only while this machine is alone."""
        self._entrance.check_host(request)
        token = DEV_TOKEN if self._gateway.guard.loopback_only else None
        url = f"{self._events_origin(request)}{protocol.PATH}"
        return _json(
            {
                "events_url": url,
                "token": token,
                "version": self._gateway.version,
                "explain": explaining.is_on(self._gateway.settings),
            }
        )

    async def version(self, request: web.Request) -> web.Response:
        """Which server this is."""
        del request
        return _json({"version": self._gateway.version, "protocol": PROTOCOL})

    async def asyncapi(self, request: web.Request) -> web.Response:
        """The event socket."""
        del request
        return _json(self._asyncapi)

    async def openapi(self, request: web.Request) -> web.Response:
        """This door."""
        del request
        return _json(self._openapi)

    async def errors(self, request: web.Request) -> web.Response:
        """What the codes of errors mean."""
        del request
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'self'"}
        return web.Response(text=docs.page(), content_type="text/html", headers=headers)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """A static file."""
        self._entrance.check_host(request)
        self._learn_port(request)
        return pages.answer(self.files, request.path.lstrip("/"), self._events_origin(request))

    def _learn_port(self, request: web.Request) -> None:
        bound = request.transport.get_extra_info("sockname") if request.transport else None
        if bound is not None:
            self._gateway.page_ports.add(int(bound[1]))

    def _events_origin(self, request: web.Request) -> str:
        """Return where the socket is by the name under which the page was asked for."""
        if self._gateway.settings.public_url is not None:  # behind a proxy, at its own address
            public = urlsplit(self._gateway.events_url)
            return f"{public.scheme}://{public.netloc}"
        host = hostname(request)
        port = urlsplit(self._gateway.events_url).port
        return f"{self._gateway.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _refusal(closing: Closing) -> Problem:
    """Return why a stream cannot be opened, as an answer."""
    statuses = {Code.RATE_LIMITED: 429, Code.FORBIDDEN: 403}
    wait_s = str(math.ceil((closing.retry_after_ms or 3000) / 1000))
    status = statuses.get(closing.code, 503)
    headers = {} if status == 403 else {"Retry-After": wait_s}
    return Problem(status, closing.error, closing.reason, headers)


def _selection(request: web.Request, sessions: list[str]) -> Selection:
    """Return what the query string asks for. Raises :class:`Problem` (400)."""
    wanted: dict[str, Any] = {"sessions": sessions}
    for name in ("events", "roles"):
        if name in request.query:
            wanted[name] = [part for part in request.query[name].split(",") if part]
    try:
        if "max_hz" in request.query:
            wanted["max_hz"] = _rate(request.query["max_hz"])
        return msgspec.convert(wanted, Selection)
    except ValueError as error:
        raise Problem(400, "bad_query", f"{error}") from error


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not math.isfinite(rate) or rate <= 0:
        raise ValueError("max_hz must be a number above 0")
    return rate


def _number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 20 or not least <= int(text) <= most:
        raise Problem(400, "bad_query", f"{name} must be a whole number from {least} to {most}")
    return int(text)
