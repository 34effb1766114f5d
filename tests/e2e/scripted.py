"""The real pages before a scripted server: a test says what the event socket sends, and when.

WebRTC is the one thing replaced: :data:`PEER` stands in for ``RTCPeerConnection``, so that a test
decides when a connection fails. Pages, policy headers and sockets are real.
"""

import asyncio
import json
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from pipeline.events import PROTOCOL
from pipeline.policy import Policy
from services.gateway import pages
from services.policing import described

WAIT_S = 30
PEER = """
window.peers = [];
window.RTCPeerConnection = class extends EventTarget {
  connectionState = "new";
  constructor() { super(); peers.push(this); }
  addTransceiver() {}
  async setLocalDescription() { this.localDescription = { type: "offer", sdp: "v=0" }; }
  async setRemoteDescription() { this.become("connected"); }
  become(state) {
    this.connectionState = state;
    this.dispatchEvent(new Event("connectionstatechange"));
  }
  close() { this.connectionState = "closed"; }
};
"""


@dataclass(frozen=True)
class Refusal:
    """How the WHIP door answers instead of 201."""

    status: int
    detail: str
    headers: dict[str, str] = field(default_factory=dict)


class Script:
    """Serves pages, config, WHIP and events on 127.0.0.1 until :meth:`close`.

    ``token`` None is a server whose pages get none. Every method may be called from the test's
    thread; what is waited for fails after :data:`WAIT_S`.
    """

    def __init__(self, token: str | None = "dev") -> None:
        self.refusal: Refusal | None = None
        self.explains = False
        """Whether an explain model runs; its door answers 202, or with :attr:`explain_refusal`."""
        self.explain_refusal: Refusal | None = None
        self.close_code: int | None = None
        """When set, a client that says who it is is closed with this code."""
        self.token = token
        self.typed = token
        """The token that is good: what a person must type when pages get none."""
        self.policy = Policy()
        self.log: list[dict[str, Any]] = []
        """What the clients sent: control messages, and {"type": "POST" | "DELETE", "path"}."""
        self.history: list[str] = []
        """Events that a resume replays."""
        self._sessions = 0
        self._heard = threading.Condition()
        self._clients: set[ServerConnection] = set()
        self._loop = asyncio.new_event_loop()
        self._ready: Future[None] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        self._ready.result(WAIT_S)

    # the test's side

    def send(self, *events: dict[str, Any], remember: bool = True) -> None:
        """Send events to every client, as one burst."""
        texts = [json.dumps(event) for event in events]
        if remember:
            self.history += texts
        self._do(self._send(texts))

    def miss(self, *events: dict[str, Any]) -> None:
        """Let events happen that no client gets before it resumes."""
        self.history += [json.dumps(event) for event in events]

    def drop(self, code: int = 1011, *, pause_ms: int = 0) -> None:
        """Close every client and ask it to stay away for ``pause_ms``."""
        self._do(self._drop(code, pause_ms))

    def wait(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Return the ``count``-th message of a kind that clients sent."""
        with self._heard:
            assert self._heard.wait_for(lambda: len(self._of(kind)) >= count, WAIT_S), kind
            return self._of(kind)[count - 1]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)
        self._loop.close()

    # the server's side

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.log if message.get("type") == kind]

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def _note(self, message: dict[str, Any]) -> None:
        with self._heard:
            self.log.append(message)
            self._heard.notify_all()

    async def _run(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/config", self._config)
        app.router.add_get("/v1/policy", self._policy)
        app.router.add_post("/whip/{stream}", self._publish)
        app.router.add_post("/v1/sessions/{session}/explain", self._explain)
        app.router.add_delete("/resource/{name}", self._unpublish)
        app.router.add_get("/{path:.*}", self._page)
        self._files = pages.files()
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        async with serve(
            self._client, "127.0.0.1", 0, subprotocols=[Subprotocol(PROTOCOL)]
        ) as sockets:
            self.port = next(iter(sockets.sockets)).getsockname()[1]
            self.events = f"ws://127.0.0.1:{self.port}"
            self._ready.set_result(None)
            await self._stop.wait()
        await runner.cleanup()

    async def _config(self, request: web.Request) -> web.Response:
        del request
        url = f"{self.events}/v1/events"
        return web.json_response(
            {"events_url": url, "token": self.token, "version": "0.0", "explain": self.explains}
        )

    async def _explain(self, request: web.Request) -> web.Response:
        told = {"type": "explain", "session": request.match_info["session"]}
        self._note(told | {"token": request.headers["Authorization"]})
        refused = self.explain_refusal
        if refused is None:
            return web.json_response({"request": "xpl_1"}, status=202)
        return web.json_response(
            {"detail": refused.detail, "code": "refused"},
            status=refused.status,
            headers=refused.headers,
        )

    async def _policy(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] != f"Bearer {self.typed}":
            refused = {"detail": "this token has expired: get a new one"}
            return web.json_response(refused, status=401)
        return web.json_response(dict(described(self.policy)))

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return pages.answer(self._files, request.match_info["path"], self.events)

    async def _publish(self, request: web.Request) -> web.Response:
        self._note({"type": "POST", "path": request.path})
        if self.refusal is not None:
            return web.json_response(
                {"detail": self.refusal.detail, "code": "refused"},
                status=self.refusal.status,
                headers=self.refusal.headers,
            )
        self._sessions += 1
        name = f"ses_{self._sessions}"
        link = f'<{self.events}/v1/events>; rel="urn:demeanor:events"; session="{name}"'
        headers = {"Location": f"{self.url}/resource/{name}", "Link": link}
        return web.Response(status=201, text="v=0", headers=headers)

    async def _unpublish(self, request: web.Request) -> web.Response:
        self._note({"type": "DELETE", "path": request.path})
        return web.Response()

    async def _client(self, socket: ServerConnection) -> None:
        hello = {"type": "hello", "protocol": PROTOCOL, "auth": "required"}
        await socket.send(json.dumps(hello))
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "ping":
                await socket.send(json.dumps({"type": "pong", "id": message["id"]}))
            if message["type"] == "auth" and self.close_code is not None:
                await socket.close(self.close_code, "the token is unknown")
                break
            if message["type"] == "resume":
                await self._resume(socket, message)
            self._note(message)

    async def _resume(self, socket: ServerConnection, message: dict[str, Any]) -> None:
        self._clients.add(socket)
        await socket.send(json.dumps({"type": "resumed", "id": message["id"], "sessions": []}))
        for session in message["subscribe"]["sessions"]:
            for text in self.history:
                event = json.loads(text)
                if event["session_id"] == session and event["seq"] > message["since"].get(
                    session, -1
                ):
                    await socket.send(text)

    async def _send(self, texts: list[str]) -> None:
        for socket in self._clients:
            for text in texts:
                await socket.send(text)

    async def _drop(self, code: int, pause_ms: int) -> None:
        clients, self._clients = self._clients, set()
        for socket in clients:
            await socket.send(json.dumps({"type": "drain", "reconnect_after_ms": pause_ms}))
            await socket.close(code)
