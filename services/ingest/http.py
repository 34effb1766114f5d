"""WHIP over HTTP (RFC 9725): requests in, statuses, headers and problems out.

``POST /whip/{stream}`` takes an offer; strings of the publisher's own (queue, call id) ride along
as query parameters ``meta.<name>=<text>``. A token never does. Everything is checked from cheap to
dear, and a body is bounded before it is read; nothing is built for a token that was not checked.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from services.addresses import Addresses
from services.auth import Principal, Unauthorised, bearer, is_loopback
from services.brake import Brake, Braked, sender
from services.identity.names import like_a_person
from services.ingest.sdp import MAX_BODY_BYTES
from services.ingest.whip import STREAM_NAME, Accepted, Request, Whip
from services.problems import Problem

SDP: Final = "application/sdp"
SESSION_PREFIX: Final = "ses_"
FRAGMENT: Final = "application/trickle-ice-sdpfrag"
EVENTS_REL: Final = "urn:demeanor:events"
NOT_SCORED: Final = "Demeanor-Not-Scored"
"""Header of a 201: the policy's code for why nothing of this publisher is looked at."""
BODY_S: Final = 5.0
"""A body that has not arrived after this long is given up."""
MAX_META_BYTES: Final = 1024
MAX_AGENT_CHARS: Final = 256
_META_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TOKEN_NAMES: Final = {"token", "access_token", "authorization", "bearer", "key", "api_key"}
_ENDPOINT_METHODS: Final = "POST, GET, OPTIONS"
_RESOURCE_METHODS: Final = "PATCH, DELETE, GET, OPTIONS"

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Allows = Callable[[str | None, str | None], bool]
"""Tells whether a page of an origin may connect to an address of this machine."""


def routes(
    app: web.Application,
    whip: Whip,
    *,
    allows: Allows = lambda _origin, _local: False,
    brake: Brake | None = None,
    addresses: Addresses | None = None,
) -> None:
    """Add the WHIP endpoint to ``app``, whose middleware must be :mod:`services.problems`'s.

    ``allows`` knows which pages may read answers once there are tokens; ``brake`` holds who sends
    too many bad ones; ``addresses`` are those of a proxy, or the doors' own.
    """
    door = _Door(whip, allows, Brake() if brake is None else brake, addresses)
    endpoint = app.router.add_resource("/whip/{stream}")
    endpoint.add_route("POST", door.post)
    endpoint.add_route("GET", door.get)
    endpoint.add_route("OPTIONS", door.options_endpoint)
    resource = app.router.add_resource("/whip/{stream}/{resource}")
    resource.add_route("PATCH", door.patch)
    resource.add_route("DELETE", door.delete)
    resource.add_route("GET", door.get)
    resource.add_route("OPTIONS", door.options_resource)
    app.on_response_prepare.append(door.allow_origin)


class _Door:
    def __init__(
        self, whip: Whip, allows: Allows, brake: Brake, addresses: Addresses | None
    ) -> None:
        self._whip = whip
        self._allows = allows
        self._brake = brake
        self._addresses = addresses

    async def post(self, request: web.Request) -> web.Response:
        """Take an offer: 201 with the answer."""
        stream = _stream(request)
        principal = self._principal(request)
        meta = _meta(request)
        self._whip.admit(principal, stream)
        offer = await _body(request, SDP)
        agent = request.headers.get("User-Agent", "")[:MAX_AGENT_CHARS] or None
        accepted = await self._whip.publish(Request(principal, stream, offer, meta, agent))
        return self._created(request, accepted)

    async def patch(self, request: web.Request) -> web.Response:
        """Take a trickle fragment: 204."""
        stream = _stream(request)
        principal = self._principal(request)
        body = await _body(request, FRAGMENT)
        name = request.match_info["resource"]
        self._whip.trickle(principal, stream, name, request.headers.get("If-Match"), body)
        return web.Response(status=204)

    async def delete(self, request: web.Request) -> web.Response:
        """End the session: 200, exactly what OBS takes for success."""
        stream = _stream(request)
        principal = self._principal(request)
        await self._whip.delete(principal, stream, request.match_info["resource"])
        return web.Response(status=200)

    async def get(self, request: web.Request) -> web.Response:
        """Answer without content, as RFC 9725 §4.1 asks of both addresses."""
        _stream(request)
        return web.Response(status=204)

    async def options_endpoint(self, request: web.Request) -> web.Response:
        """Say what the endpoint takes."""
        _stream(request)
        return web.Response(status=204, headers=_choices(_ENDPOINT_METHODS))

    async def options_resource(self, request: web.Request) -> web.Response:
        """Say what a resource takes."""
        _stream(request)
        return web.Response(status=204, headers=_choices(_RESOURCE_METHODS))

    async def allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let pages read WHIP answers: those that may connect, and no other."""
        origin = request.headers.get("Origin")
        if origin is None or not request.path.startswith("/whip/"):
            return
        response.headers.add("Vary", "Origin")
        if self._readable(request, origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = (
                f"Location, ETag, Link, Retry-After, X-Request-Id, {NOT_SCORED}"
            )

    def _readable(self, request: web.Request, origin: str) -> bool:
        """Tell whether a page may read answers.

        While ``dev`` is the only token any page of this machine may: ``dev`` is no secret, so a
        page from elsewhere must not use it through a browser that happens to run here.
        """
        guard = self._whip.guard
        if guard.verifier is None:
            return guard.loopback_only and is_loopback(urlsplit(origin).hostname or "")
        bound = request.transport.get_extra_info("sockname") if request.transport else None
        return self._allows(origin, str(bound[0]) if bound else None)

    def _principal(self, request: web.Request) -> Principal:
        _no_token_in_url(request)
        token = bearer(request.headers)
        peer = sender(request.remote, request.headers)
        now_s = self._whip.clock.monotonic_s()
        try:
            if token:
                self._brake.check(peer, now_s)
            return self._whip.guard.principal(token, request.headers)
        except Braked as error:
            retry = {"Retry-After": str(error.wait_s)}
            raise Problem(429, "too_many_bad_tokens", str(error), retry) from None
        except (Unauthorised, UnicodeError) as error:
            if token:
                self._brake.failed(peer, now_s)
            detail = str(error) if isinstance(error, Unauthorised) else "the token is not text"
            challenge = {"WWW-Authenticate": 'Bearer realm="demeanor"'}
            raise Problem(401, "unauthorised", detail, challenge) from None

    def _created(self, request: web.Request, accepted: Accepted) -> web.Response:
        path = f"/whip/{request.match_info['stream']}/{accepted.resource}"
        known = self._addresses
        base = known.http if known and known.public else str(request.url.origin())
        events = known.events_for(request.url.host) if known else accepted.events_url
        return web.Response(
            status=201,
            body=accepted.answer.encode(),
            headers={
                "Content-Type": SDP,
                "Location": base + path,
                "ETag": f'"{accepted.etag}"',
                "Link": f'<{events}>; rel="{EVENTS_REL}"; session="{accepted.session_id}"',
                "Cache-Control": "no-store",
                **({NOT_SCORED: accepted.why_not} if accepted.why_not else {}),
            },
        )


def _choices(methods: str) -> dict[str, str]:
    return {
        "Allow": methods,
        "Accept-Post": SDP,
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
        "Access-Control-Max-Age": "600",
    }


def _stream(request: web.Request) -> str:
    stream = request.match_info["stream"]
    if like_a_person(stream):
        raise Problem(
            400, "bad_stream_name", "a stream must not be named by a phone number: use a pseudonym"
        )
    if not STREAM_NAME.fullmatch(stream):
        raise Problem(
            400, "bad_stream_name", "a stream name has 1 to 64 characters out of A-Z a-z 0-9 _ -"
        )
    if stream.startswith(SESSION_PREFIX):  # a scope names a session or a stream: never both at once
        raise Problem(
            400, "bad_stream_name", f"a stream name must not begin with '{SESSION_PREFIX}'"
        )
    return stream


def _no_token_in_url(request: web.Request) -> None:
    """Addresses are logged by every proxy on the way."""
    if any(name.lower() in _TOKEN_NAMES for name in request.query):
        raise Problem(
            400, "token_in_url", "send the token in the Authorization header, never in the URL"
        )


def _meta(request: web.Request) -> dict[str, str]:
    """Return the publisher's own strings: query parameters whose names begin with ``meta.``."""
    meta: dict[str, str] = {}
    for name, value in request.query.items():
        if not name.startswith("meta."):
            continue
        key = name.removeprefix("meta.")
        if not _META_NAME.fullmatch(key) or key in meta or not value.isprintable():
            raise Problem(
                400,
                "bad_meta",
                "write each string once, as meta.<name>=<text>: a name has up to 32 characters out "
                "of a-z 0-9 _ and begins with a letter, a text has no control characters",
            )
        meta[key] = value
    if sum(len(key.encode()) + len(text.encode()) for key, text in meta.items()) > MAX_META_BYTES:
        raise Problem(
            400, "bad_meta", f"the meta strings are longer than {MAX_META_BYTES} bytes together"
        )
    return meta


async def _body(request: web.Request, content_type: str) -> bytes:
    """Read a bounded body. Raises :class:`Problem` with 408, 413 or 415."""
    if request.content_type != content_type:
        raise Problem(
            415,
            "wrong_content_type",
            f"send 'Content-Type: {content_type}'",
            {"Accept-Post": SDP} if content_type == SDP else {},
        )
    too_large = Problem(
        413, "body_too_large", f"the body is longer than {MAX_BODY_BYTES} bytes: send a plain offer"
    )
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise Problem(408, "slow_body", f"the body did not arrive within {BODY_S:.0f} s") from None
    return bytes(body)
