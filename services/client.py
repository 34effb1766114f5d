"""A reader of the event socket that survives a lost connection.

What comes in: an address and a token. What goes out: every event once and in order per session,
and a :class:`Link` whenever the connection changes. Reconnects with full jitter and resumes by seq
(``demeanor.v1.json``).
"""

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
)
from websockets.typing import Subprotocol

from pipeline.errors import DemeanorError, UsageError
from pipeline.events import PROTOCOL, AnyEvent, Gap, SessionEnded, decode
from services.auth import is_loopback
from services.tls import Untrusted

PATH = "/v1/events"
_FINAL = {1000, 1009}
_LOST = 1006
_BACKOFF_S = (0.2, 10.0)
_PER_MESSAGE = 64
"""Positions that one ``resume`` may carry."""
_ENDED_KEPT = 1024
"""Ended sessions whose last position is remembered, so that nothing of them comes twice."""


_ADVICE = {
    1000: "it has nothing more to send",
    1009: "this is a fault of ours, please report it",
    4401: "give a good one with --token-file",
    4404: "leave --session out to see what is live",
}
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses that may be others in a moment."""


class Refused(DemeanorError):
    """The server will not serve this reader and a retry cannot mend it (close code 44xx)."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        advice = f" – {_ADVICE[code]}" if code in _ADVICE else ""
        super().__init__(f"the server refused ({code}): {reason or 'no reason given'}{advice}")


class NotEvents(DemeanorError):
    """Something answers, but it is no event socket."""

    def __init__(self, url: str, answer: str) -> None:
        super().__init__(
            f"{url} is no event socket ({answer}): give the address that 'demeanor up' "
            "prints behind Events, such as ws://localhost:8081"
        )


@dataclass(frozen=True, slots=True)
class Link:
    """The connection changed."""

    state: Literal["live", "lost"]
    detail: str = ""
    retry_in_s: float = 0.0


def endpoint(url: str) -> str:
    """Return the full address of the event socket for what a person typed.

    Raises :class:`~pipeline.errors.UsageError` for anything but ws, wss, http or https.
    """
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port above 65535, a bracket too few
        raise UsageError(f"'{url}' is no event address: write ws://HOST:PORT") from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in {"ws", "wss"} or not valid:
        raise UsageError(f"'{url}' is no event address: write ws://HOST:PORT")
    path = parts.path if parts.path not in {"", "/"} else PATH
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


@dataclass
class Reader:
    """One subscription; remembers the last position of each session."""

    url: str
    token: str | None
    sessions: Sequence[str] = ("*",)
    since: dict[str, int] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    """Whom to trust behind ``wss://``; None: the system's authorities."""
    bytes_received: int = 0
    _ended: dict[str, int] = field(default_factory=dict)
    _begun: bool = False
    """A server has answered once: from then on what began while we were away is asked for too."""

    async def events(self) -> AsyncIterator[AnyEvent | Link]:
        """Yield events and link changes until the caller stops.

        Raises :class:`Refused` when the server does not want this reader,
        :class:`Untrusted` when its certificate is not trusted, and :class:`NotEvents` when what
        answers is no event socket.
        """
        attempt = 0
        while True:
            try:
                async with self._connected() as connection:
                    await self._greet(connection)
                    async for item in self._read(connection):
                        attempt = 0
                        yield item
                    reason = self._after(connection.close_code, connection.close_reason)
            except ConnectionClosed as closed:
                received = closed.rcvd
                reason = self._after(
                    received.code if received else None, received.reason if received else None
                )
            except InvalidURI:
                raise UsageError(f"'{self.url}' is no event address") from None
            except InvalidHandshake as error:
                reason = self._judge(error)
            except ssl.SSLCertVerificationError as error:
                raise Untrusted(self.url, error.verify_message) from None
            except ssl.SSLError as error:
                raise NotEvents(self.url, f"TLS: {error.reason or error}") from None
            except (OSError, TimeoutError) as error:
                reason = self._unreachable(error)
            attempt += 1
            low, high = _BACKOFF_S
            delay = low + random.random() * min(high, 0.5 * 2**attempt)  # noqa: S311 - jitter
            yield Link("lost", reason, delay)
            await asyncio.sleep(delay)

    def _connected(self) -> connect:
        # A proxy from the environment is not asked for the way to this very machine.
        here = is_loopback(urlsplit(self.url).hostname or "")
        protocols = [Subprotocol(PROTOCOL)]
        return connect(
            self.url,
            additional_headers=self._headers(),
            subprotocols=protocols,
            proxy=None if here else True,
            ssl=(self.tls or True) if self.url.startswith("wss:") else None,
        )

    def _headers(self) -> dict[str, str]:
        """Return the header with the token; what no header can hold is no token and goes after."""
        plain = self.token and self.token.isascii() and self.token.isprintable()
        return {"Authorization": f"Bearer {self.token}"} if plain else {}

    def _judge(self, error: InvalidHandshake) -> str:
        """Return why it may work later. Raises :class:`NotEvents` when it will not."""
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            if status not in _PASSING:
                raise NotEvents(self.url, f"it answers HTTP {status}") from None
            return f"HTTP {status}"
        if isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError):
            return "the server closed the connection"  # it may just be going down
        if isinstance(error, (InvalidMessage, NegotiationError)):
            raise NotEvents(self.url, "it does not speak this protocol") from None
        return str(error)

    def _unreachable(self, error: OSError) -> str:
        if isinstance(error, socket.gaierror):
            return f"there is no host '{urlsplit(self.url).hostname}': check the address"
        if isinstance(error, TimeoutError):
            return f"{self.url} does not answer: check the address"
        if isinstance(error, ConnectionResetError) and self.url.startswith("wss:"):
            return f"{self.url} ends the connection: try ws:// if it has no TLS"
        if isinstance(error, ConnectionRefusedError) or error.strerror is None:
            # the failures of a name's several addresses come as one error without a number
            return f"nothing answers at {self.url}: start the server with 'demeanor up'"
        return f"{self.url} cannot be reached: {error.strerror}"

    @staticmethod
    def _after(code: int | None, reason: str | None) -> str:
        """Return why the connection ended. Raises :class:`Refused` when that is final."""
        if code is None or code == _LOST:
            return "the connection was lost"
        if code in _FINAL or 4400 <= code < 4500:
            raise Refused(code, reason or "")
        return f"{code} {reason}".strip()

    async def _greet(self, connection: ClientConnection) -> None:
        if self.token and not self._headers():
            await self._send(connection, {"type": "auth", "token": self.token})
        subscribe: dict[str, Any] = {"sessions": list(self.sessions), "snapshot": True}
        if not self._begun and not self.since:
            await self._send(connection, {"type": "subscribe", "id": "1", **subscribe})
            return
        places = list(self.since.items())
        for number, first in enumerate(range(0, max(1, len(places)), _PER_MESSAGE), start=1):
            message = {
                "type": "resume",
                "id": str(number),
                "since": dict(places[first : first + _PER_MESSAGE]),
                "subscribe": subscribe,
            }
            await self._send(connection, message)
            subscribe = {"sessions": []}  # further messages add positions only

    @staticmethod
    async def _send(connection: ClientConnection, message: dict[str, Any]) -> None:
        await connection.send(msgspec.json.encode(message).decode())

    async def _read(self, connection: ClientConnection) -> AsyncIterator[AnyEvent | Link]:
        async for text in connection:
            self.bytes_received += len(text)
            message = msgspec.json.decode(text)
            kind = message.get("type")
            if kind in {"subscribed", "resumed"}:
                self._begun = True
                for session in [name for name, n in message.get("lost", {}).items() if n is None]:
                    self.since.pop(session, None)  # over and forgotten
                yield Link("live")
                for event in message.get("snapshot", []):
                    if (item := self._once(msgspec.json.encode(event))) is not None:
                        yield item
            elif "schema" in message and (item := self._once(text)) is not None:
                yield item

    def _once(self, text: str | bytes) -> AnyEvent | None:
        try:
            event = decode(text)
        except msgspec.ValidationError:
            return None  # a newer server's event: unknown types are ignored by contract
        return self.admit(event)

    def admit(self, event: AnyEvent) -> AnyEvent | None:
        """Return ``event`` for the application, or None when it is nothing new to it.

        Positions only grow, over delivery gaps too; a gap is cut to what is news.
        """
        session = event.session_id
        if session is None:
            return event
        seen = self.since.get(session, self._ended.get(session, -1))
        if isinstance(event, Gap) and event.kind == "delivery":
            return self._gap(event, session, seen)
        if event.seq is None:
            return event
        if event.seq <= seen:
            return None
        self.since[session] = event.seq
        if isinstance(event, SessionEnded):
            self._ended[session] = self.since.pop(session)
            if len(self._ended) > _ENDED_KEPT:
                del self._ended[next(iter(self._ended))]
        return event

    def _gap(self, gap: Gap, session: str, seen: int) -> AnyEvent | None:
        first, last = gap.from_seq, gap.to_seq
        if not isinstance(first, int) or not isinstance(last, int):
            return gap
        if last <= seen:
            return None
        self.since[session] = last
        return msgspec.structs.replace(gap, from_seq=max(first, seen + 1))
