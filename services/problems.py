"""Errors of the HTTP doors as ``application/problem+json`` (RFC 9457), with a stable ``code``.

Handlers raise :class:`Problem`; :func:`middleware` turns it, aiohttp's own HTTP errors and
:class:`~pipeline.errors.BusError` into the same shape and gives every answer an ``X-Request-Id``.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import web

from pipeline.errors import BusError

CONTENT_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-Id"
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.get_logger(__name__)


class Problem(Exception):
    """A request that cannot be answered as asked.

    ``code`` is stable snake_case for programs; ``detail`` is one sentence for the person who sent
    the request and says what to do.
    """

    def __init__(
        self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        super().__init__(detail)


class Body(msgspec.Struct, frozen=True):
    """The JSON object of a problem (RFC 9457 §3.1 and three members of our own)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    doc: str


def response(problem: Problem, request_id: str) -> web.Response:
    """Return the answer for ``problem``."""
    doc = f"/docs/errors#{problem.code}"
    body = Body(
        type=doc,
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        code=problem.code,
        request_id=request_id,
        doc=doc,
    )
    return web.Response(
        status=problem.status,
        body=msgspec.json.encode(body),
        headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store", **problem.headers},
    )


def _of_aiohttp(error: web.HTTPException) -> Problem:
    """Return aiohttp's own refusal (no route, wrong method, body too large) as a problem."""
    phrase = HTTPStatus(error.status).phrase
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    kept = {
        name: value
        for name, value in error.headers.items()
        if name.lower() not in ("content-type", "content-length")
    }
    details = {
        404: "there is nothing at this address; see /openapi.json for what exists",
        405: f"this address takes only: {error.headers.get('Allow', '')}",
        413: "the request body is larger than this address takes",
    }
    return Problem(error.status, code, details.get(error.status, phrase), kept)


def _problem(error: Exception, request_id: str) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, web.HTTPException):
        return _of_aiohttp(error)
    if isinstance(error, BusError):
        return Problem(503, "bus_away", str(error), {"Retry-After": "2"})
    _log.exception("request failed", request_id=request_id)
    return Problem(500, "internal", f"this is our fault; the server log has request {request_id}")


@web.middleware
async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer every failure as a problem; give every answer its request id."""
    request_id = f"req_{secrets.token_hex(8)}"
    request[REQUEST_ID] = request_id
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        answer = response(_problem(error, request_id), request_id)
    except Exception as error:  # noqa: BLE001 - the task boundary of a request; logged in _problem
        answer = response(_problem(error, request_id), request_id)
    if not answer.prepared:
        answer.headers[REQUEST_ID_HEADER] = request_id
    return answer
