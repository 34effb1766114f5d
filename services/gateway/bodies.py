"""JSON bodies of requests: bounded, in time, and checked against a Struct."""

import asyncio
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from services.gateway.protocol import in_words
from services.problems import Problem

MAX_BYTES: Final = 4096
BODY_S: Final = 5.0
_Body = TypeVar("_Body", bound=msgspec.Struct)


async def read(request: web.Request, kind: type[_Body]) -> _Body:
    """Return the body as ``kind``. Raises :class:`Problem` with 400, 408, 413 or 415."""
    if request.content_type != "application/json":
        raise Problem(415, "wrong_content_type", "send 'Content-Type: application/json'")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise Problem(
                        413, "body_too_large", f"the body is longer than {MAX_BYTES} bytes"
                    )
    except TimeoutError:
        raise Problem(408, "slow_body", f"the body did not arrive within {BODY_S:.0f} s") from None
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "bad_body", in_words(error)) from None
