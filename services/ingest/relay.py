"""TLS for FFmpeg's WHIP muxer, which checks no certificate: a relay on this machine.

The muxer speaks plain HTTP to a port of this machine; what it says goes on to the real server over
TLS that is checked. A redirect to another server is not followed, so a token reaches no one else.
"""

import http.client
import ssl
import threading
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


class Relay:
    """Listens on a port of this machine until it is closed."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        """Listen for the server of ``url``; ``context`` says whom to trust."""
        self._server = _Server(urlsplit(url), context)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="relay", daemon=True
        )
        self._thread.start()

    def local(self, url: str) -> str:
        """Return how an address of that server is spelt here."""
        return self._server.local(urlsplit(url))

    def close(self) -> None:
        """Listen no more. Blocks until it is so."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


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
