"""Behind a reverse proxy, by the rules of deploy/proxy.md: an upgrade to one port, the rest to the
other; two header lines more, none less."""

import asyncio
from contextlib import aclosing, asynccontextmanager

import aiohttp
import pytest

from pipeline.events import SessionStarted
from pipeline.scorer import OrtScorer
from services.app import open_doors, running
from services.client import Reader
from services.ending import Ending
from services.settings import Settings
from services.sockets import listen
from tests.services.identity.tokens import CONSENT, Issuer
from tests.services.ingest.support import Publisher, Tone


class Proxy:
    """Carries each connection to the port that its first request asks for."""

    def __init__(self, socket):
        self.socket = socket
        self.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        self.pages = self.events = 0

    async def serve(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            upgrade = b"\r\nupgrade: websocket" in head.lower()
            far = await asyncio.open_connection("127.0.0.1", self.events if upgrade else self.pages)
            first, _, rest = head.partition(b"\r\n")
            more = b"\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n"
            far[1].write(first + more + rest)
            await asyncio.gather(self.carry(reader, far[1]), self.carry(far[0], writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    @staticmethod
    async def carry(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def proxied(folder, monkeypatch):
    """A whole server behind a proxy; yields the proxy, the issuer and what the server told."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    issuer = Issuer(folder)
    proxy = Proxy(listen("127.0.0.1", 0))
    settings = Settings(
        http_port=0,
        ws_port=0,
        udp_ports=(41500, 41599),
        redis_url="memory://",
        token_keys=str(issuer.jwks),
        public_url=proxy.url,
    )
    doors = open_doors(settings)
    proxy.pages, proxy.events = (door.getsockname()[1] for door in (doors.http, doors.events))
    server = await asyncio.start_server(proxy.serve, sock=proxy.socket)
    async with server, running(settings, doors, OrtScorer.open(), Ending()) as told:
        yield proxy, issuer, told


async def test_everything_by_the_proxys_address(tmp_path, monkeypatch):
    async with (
        proxied(tmp_path, monkeypatch) as (proxy, issuer, told),
        aiohttp.ClientSession() as http,
    ):
        assert (told.http, told.events) == (proxy.url, f"ws{proxy.url[4:]}/v1/events")
        publisher = Publisher(f"{proxy.url}/whip/cam", Tone())
        try:
            await publisher.publish(http, auth=issuer.bearer(consent=CONSENT))
            assert publisher.location.startswith(f"{proxy.url}/whip/cam/")
            assert f"<{told.events}>" in publisher.link
            reader = Reader(told.events, issuer.token(scope="read:*"))
            async with asyncio.timeout(60), aclosing(reader.events()) as events:
                async for event in events:
                    if isinstance(event, SessionStarted):
                        break
            bearer = issuer.bearer(scope="read:*") | {"Origin": proxy.url}
            async with http.get(f"{proxy.url}/v1/events", headers=bearer) as lines:
                assert lines.content_type == "text/event-stream"
                async with asyncio.timeout(30):
                    assert await lines.content.readline()
            headers = issuer.bearer()
            async with http.delete(publisher.location, headers=headers) as response:
                assert response.status == 200
        finally:
            await publisher.close()
        async with http.get(f"{proxy.url}/v1/config") as response:
            config = await response.json()
        assert (config["events_url"], config["token"]) == (told.events, None)


@pytest.mark.parametrize("by_proxy", [True, False])
async def test_the_public_token_is_off(tmp_path, monkeypatch, by_proxy):
    async with (
        proxied(tmp_path, monkeypatch) as (proxy, _, _),
        aiohttp.ClientSession() as http,
    ):
        base = proxy.url if by_proxy else f"http://127.0.0.1:{proxy.pages}"
        headers = {"Authorization": "Bearer dev"}
        async with http.get(f"{base}/v1/sessions", headers=headers) as response:
            assert response.status == 401
        headers |= {"Content-Type": "application/sdp"}
        async with http.post(f"{base}/whip/x", data="v=0", headers=headers) as response:
            assert response.status == 401
