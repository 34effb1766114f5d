"""Publishes a prepared call by WHIP: one child process a publisher, their reports to one place.

The parent never touches the network except to ask a server, after it refused a publisher, for its
own words. Children end when their standard input does: when they are told to, and when the parent
dies.
"""

import asyncio
import http.client
import json
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit, urlunsplit

import msgspec

from pipeline.errors import UsageError
from services.ingest.prepared import Prepared
from services.ingest.publishing import Closed, Failed, Job, Report, encode, report
from services.ingest.relay import Relay
from services.tls import client_context

HANDSHAKE_MS = 8_000
STOP_S = 8.0
"""How long a publisher that was told to stop may take to end its session."""
FAILED_S = 1.0
"""How long one that failed may take: its muxer may wait for a server that is gone."""
SILENCE_S = 15.0
"""A publisher that says nothing for so long is stuck, and ended; it reports each second."""
ASK_S = 5.0
_MAX_SENTENCE = 300
_OF_OFFER = ("bad_sdp", "unusable_sdp", "no_common_codec")

Tell = Callable[[int, Report], None]
"""Called with the publisher's number, from 0, and what it reports."""


@dataclass(frozen=True, slots=True)
class Order:
    """Where to publish and how."""

    urls: tuple[str, ...]
    """One for each publisher."""
    token: str | None
    speed: float = 1.0
    loop: bool = False
    duration_s: float | None = None
    handshake_ms: int = HANDSHAKE_MS
    tls: ssl.SSLContext | None = None
    """Whom to trust behind ``https://``; None: the system's authorities."""


def destinations(to: str, stem: str, clients: int) -> tuple[str, ...]:
    """Return one WHIP address for each publisher: as given, or ``…-1`` … ``…-N`` for several.

    An address without a path gets ``/whip/<stem>``. Raises :class:`UsageError`.
    """
    try:
        parts = urlsplit(to if "://" in to else f"http://{to}")
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"'{to}' is no WHIP address: write http://HOST:PORT/whip/NAME")
    if clients < 1:
        raise UsageError("--clients must be at least 1")
    path = parts.path.rstrip("/") or f"/whip/{stem}"
    names = [path] if clients == 1 else [f"{path}-{number}" for number in range(1, clients + 1)]
    return tuple(_with_path(parts, name) for name in names)


def _with_path(parts: SplitResult, path: str) -> str:
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


async def push(call: Prepared, order: Order, tell: Tell, stop: asyncio.Event) -> None:
    """Publish ``call`` to every address at once; returns when all publishers ended.

    Each publisher's last report is Closed or Failed. ``stop`` makes all of them end their sessions.
    """
    async with _reached(order) as urls, asyncio.TaskGroup() as group:
        for number, url in enumerate(urls):
            work = Job(
                url=url,
                token=order.token,
                size=len(call.data),
                speed=order.speed,
                loop=order.loop,
                duration_s=order.duration_s,
                handshake_ms=order.handshake_ms,
            )
            group.create_task(_one(number, work, call.data, tell, stop), name=f"push-{number}")


@asynccontextmanager
async def _reached(order: Order) -> AsyncIterator[list[str]]:
    """Yield what the muxers are given: the addresses, or a relay that speaks TLS for them.

    The relay is here, because a muxer lets nothing else of its process run while it connects.
    """
    if not order.urls[0].startswith("https:"):
        yield list(order.urls)
        return
    relay = Relay(order.urls[0], order.tls or client_context(None))
    try:
        yield [relay.local(url) for url in order.urls]
    finally:
        await asyncio.to_thread(relay.close)


async def _one(number: int, work: Job, media: bytes, tell: Tell, stop: asyncio.Event) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.ingest.publisher",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which lets sessions end well
    )
    stopper = asyncio.create_task(_stop_with(child, stop), name=f"stop-{number}")
    patience_s = STOP_S
    try:
        last = await _follow(number, child, work, media, tell)
        if last is None:
            tell(number, Failed("lost", None, 0.0, "the publisher process said nothing more"))
        if not isinstance(last, Closed):
            patience_s = FAILED_S
    finally:
        stopper.cancel()
        await asyncio.wait([stopper])
        await _ended(child, patience_s)


async def _follow(
    number: int, child: asyncio.subprocess.Process, work: Job, media: bytes, tell: Tell
) -> Report | None:
    """Hand the job over and pass reports on; return the last one, or None without an ending."""
    if child.stdin is None or child.stdout is None:
        return None
    try:
        child.stdin.write(encode(work))
        child.stdin.write(media)
        await child.stdin.drain()
    except ConnectionError:
        return None
    while line := await _line(child.stdout):
        try:
            said = report(line)
        except msgspec.MsgspecError:
            continue  # a library printed something of its own
        tell(number, said)
        if isinstance(said, Closed | Failed):
            return said
    return None


async def _line(out: asyncio.StreamReader) -> bytes:
    """Return a child's next line; empty when it ended, or is stuck."""
    try:
        return await asyncio.wait_for(out.readline(), SILENCE_S)
    except TimeoutError:
        return b""


async def _stop_with(child: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
    await stop.wait()
    if child.stdin is not None:
        child.stdin.close()


async def _ended(child: asyncio.subprocess.Process, patience_s: float) -> None:
    """Let a child end its session; a stuck one is killed."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        await asyncio.wait_for(child.wait(), patience_s)
    except TimeoutError:
        child.kill()
        await child.wait()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said when it was asked why."""

    status: int
    sentence: str | None
    retry_after_s: int | None
    code: str | None = None
    """The stable code of a problem, where it is one."""

    @property
    def about_offer(self) -> bool:
        """Whether it only says that the empty offer is none; that was known."""
        return self.status in (400, 406, 415, 422) and self.code in (None, *_OF_OFFER)


def ask(url: str, token: str | None, tls: ssl.SSLContext | None = None) -> Answer | None:
    """Post an empty offer, so that the server says in its own words what it objects to.

    Opens no session: a server that objects to nothing else objects to the offer. Blocks for at most
    :data:`ASK_S`; None when there is no answer.
    """
    parts = urlsplit(url)
    if parts.scheme == "https":
        link: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.netloc.rpartition("@")[2], timeout=ASK_S, context=tls or client_context(None)
        )
    else:
        link = http.client.HTTPConnection(parts.netloc.rpartition("@")[2], timeout=ASK_S)
    headers = {"Content-Type": "application/sdp"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    path = urlunsplit(("", "", parts.path, parts.query, ""))
    try:
        link.request("POST", path, b"v=0\r\n", headers)
        response = link.getresponse()
        body = response.read(16_384)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        link.close()
    retry = response.getheader("Retry-After", "")
    problem = _problem(body)
    code = problem.get("code")
    return Answer(
        response.status,
        _sentence(problem),
        int(retry) if retry.isdigit() else None,
        code if isinstance(code, str) else None,
    )


def _problem(body: bytes) -> dict[str, object]:
    """Return an RFC 9457 problem; empty when the body is none."""
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _sentence(problem: dict[str, object]) -> str | None:
    """Return what a problem says, in one printable line."""
    detail = problem.get("detail") or problem.get("title")
    if not isinstance(detail, str):
        return None
    return "".join(c for c in " ".join(detail.split()) if c.isprintable())[:_MAX_SENTENCE]
