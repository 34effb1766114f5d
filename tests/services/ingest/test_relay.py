"""The relay that speaks TLS for FFmpeg's muxer: what passes, what does not, and nobody else's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from services.clock import SystemClock
from services.ingest.relay import Relay
from services.tls import client_context, server_context
from tests.services.certificates import Authority

Answer = Callable[[web.Request], web.Response]


class Target:
    """An https server that keeps what came."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.heard: list[tuple[str, str, bytes, str | None]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization")
        self.heard.append((request.method, request.path_qs, await request.read(), token))
        return self.answer(request)


@asynccontextmanager
async def relayed(
    folder: Path, answer: Answer, *, trusted: bool = True
) -> AsyncIterator[tuple[Target, str]]:
    authority = Authority(folder)
    target = Target(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", target.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    tls = server_context(*authority.server(), SystemClock())
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    target.url = f"https://127.0.0.1:{runner.addresses[0][1]}/whip/a?meta.call=1"
    relay = Relay(target.url, client_context(authority.ca if trusted else None))
    try:
        yield target, relay.local(target.url)
    finally:
        await asyncio.to_thread(relay.close)
        await runner.cleanup()


async def ask(method: str, url: str, body: bytes = b"") -> tuple[int, str, bytes]:
    headers = {"Authorization": "Bearer t", "Content-Type": "application/sdp"}
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, url, data=body, headers=headers, allow_redirects=False) as answer,
    ):
        return answer.status, answer.headers.get("Location", ""), await answer.read()


async def test_what_is_asked_and_answered_passes_and_locations_lead_back(tmp_path: Path) -> None:
    def created(request: web.Request) -> web.Response:
        location = {"Location": str(request.url.origin().with_path("/whip/a/secret"))}
        return web.Response(status=201, body=b"answer", headers=location)

    async with relayed(tmp_path, created) as (target, local):
        assert local.startswith("http://127.0.0.1:")
        status, location, body = await ask("POST", local, b"offer")
        assert (status, body) == (201, b"answer")
        assert location == local.replace("/whip/a?meta.call=1", "/whip/a/secret")
        await ask("DELETE", location)
        await ask("PATCH", location, b"fragment")
    assert target.heard == [
        ("POST", "/whip/a?meta.call=1", b"offer", "Bearer t"),
        ("DELETE", "/whip/a/secret", b"", "Bearer t"),
        ("PATCH", "/whip/a/secret", b"fragment", "Bearer t"),
    ]


@pytest.mark.parametrize(
    ("location", "status"),
    [
        ("https://elsewhere.example/whip/a", 502),
        ("http://127.0.0.1/whip/a", 502),
        ("/whip/b", 307),
    ],
)
async def test_nobody_is_sent_to_another_server(tmp_path: Path, location: str, status: int) -> None:
    def elsewhere(_request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": location})

    async with relayed(tmp_path, elsewhere) as (_, local):
        found = await ask("POST", local)
    assert found[:2] == (status, location if status == 307 else "")


async def test_nothing_is_said_to_a_server_that_is_not_trusted(tmp_path: Path) -> None:
    refused = relayed(tmp_path, lambda _: web.Response(), trusted=False)
    async with refused as (target, local):
        assert (await ask("POST", local, b"offer"))[0] == 502
    assert target.heard == []


async def test_a_large_body_is_not_taken(tmp_path: Path) -> None:
    async with relayed(tmp_path, lambda _: web.Response()) as (target, local):
        with suppress(aiohttp.ClientError):  # it may hang up before all was sent
            assert (await ask("POST", local, b"x" * 300_000))[0] == 413
    assert target.heard == []
