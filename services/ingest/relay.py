"""TLS for FFmpeg's WHIP muxer, which checks no certificate: a relay inside the publisher's process.

The muxer speaks plain HTTP to a port of this machine; what it says goes on to the real server over
TLS that is checked. A redirect to another server is not followed, so a token reaches no one else.
"""

import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

TIMEOUT_S: Final = 10.0
_MAX_BODY: Final = 256 * 1024
_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
    | {"proxy-authenticate", "proxy-authorization", "content-length", "date", "server"}
)
"""Headers that are between two neighbours (RFC 9110 §7.6.1), and those that are made anew."""


@contextmanager
def relayed(url: str, context: ssl.SSLContext) -> Iterator[str]:
    """Yield the address at which ``url`` can be reached without TLS while the context lasts."""
    target = urlsplit(url)
    server = _Server(target, context)
    thread = threading.Thread(target=server.serve_forever, name="relay", daemon=True)
    thread.start()
    try:
        yield server.local(target)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: SplitResult, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._target = target
        self._context = context

    def local(self, parts: SplitResult) -> str:
        """Return the relay's own spelling of an address of the target."""
        return urlunsplit(("http", f"127.0.0.1:{self.server_port}", parts.path, parts.query, ""))

    def localised(self, location: str) -> str | None:
        """Return where the client shall go instead of ``location``; None: not to others."""
        parts = urlsplit(location)
        if not parts.netloc:
            return location
        same = (parts.scheme, parts.netloc) == (self._target.scheme, self._target.netloc)
        return self.local(parts) if same else None

    def pass_on(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Ask the target. Raises :class:`OSError` and :class:`http.client.HTTPException`."""
        link = http.client.HTTPSConnection(
            self._target.netloc.rpartition("@")[2], timeout=TIMEOUT_S, context=self._context
        )
        try:
            link.request(method, path, body, headers)
            answer = link.getresponse()
            return answer.status, answer.getheaders(), answer.read(_MAX_BODY)
        finally:
            link.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the muxer hangs up when it likes."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT_S

    def do_POST(self) -> None:
        self._relay()

    def do_PATCH(self) -> None:
        self._relay()

    def do_DELETE(self) -> None:
        self._relay()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - names of the library
        """Say nothing: standard error belongs to the command."""

    def _relay(self) -> None:
        size = self.headers.get("Content-Length", "0")
        if not size.isdigit() or int(size) > _MAX_BODY:
            self.send_error(413)
            return
        body = self.rfile.read(int(size))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        try:
            status, told, answer = self.server.pass_on(self.command, self.path, headers, body)
        except (OSError, http.client.HTTPException):
            self.send_error(502)
            return
        kept = [(name, value) for name, value in told if name.lower() not in _HOP]
        for number, (name, value) in enumerate(kept):
            if name.lower() == "location":
                local = self.server.localised(value)
                if local is None:
                    self.send_error(502, "the server sends elsewhere")
                    return
                kept[number] = (name, local)
        self.send_response_only(status)
        for name, value in kept:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
