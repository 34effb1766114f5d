"""Events as server-sent events: the same JSON, ``id: ses_…:118``, resumed by ``Last-Event-ID``.

A stream of all sessions names one position only, so after a reconnect the other sessions go on from
the moment of that event, less a margin: at least once, and readers dedupe on the event's ``id``.
"""

import asyncio
import contextlib
from datetime import datetime, timedelta

import msgspec
from aiohttp import web

from services.gateway.feed import Entry, Feed
from services.gateway.member import Member
from services.gateway.notices import Notices
from services.gateway.outbox import Outbox
from services.gateway.protocol import Code, Selection
from services.gateway.requests import Requests

PING_S = 15.0
SEND_S = 5.0
RETRY_MS = 2000
_TAKE_BYTES = 1 << 16
_MARGIN = timedelta(seconds=2)


class _Stamp(msgspec.Struct):
    type: str
    ts: str


_stamps: msgspec.json.Decoder[_Stamp] = msgspec.json.Decoder(_Stamp)


def position(last_event_id: str | None) -> tuple[str, int] | None:
    """Return (session id, seq) of a ``Last-Event-ID``; None for none and for nonsense."""
    session_id, _, seq = (last_event_id or "").rpartition(":")
    return (session_id, int(seq)) if session_id and seq.isdecimal() and len(seq) < 16 else None


async def subscribe(
    requests: Requests, outbox: Outbox, selection: Selection, since: tuple[str, int] | None
) -> None:
    """Take the places of a stream."""
    known = {} if since is None else dict([since])
    feeds, _ = await requests.feeds(selection, since=known)
    seen = next((_seen(feed, known) for feed in feeds if feed.session.session_id in known), None)
    members = [Member(feed, outbox, selection, _after(feed, known, seen)) for feed in feeds]
    requests.join(None, selection, members)


async def run(response: web.StreamResponse, outbox: Outbox, notices: Notices) -> None:
    """Send until the reader goes, its token ends, the server drains or the outbox gives up on it.

    A reader whose token has ended is told so by a last event: its next request would get a 401.
    """
    await _write(response, f"retry: {RETRY_MS}\n\n".encode())
    try:
        while outbox.closing is None and outbox.expects:
            try:
                async with asyncio.timeout(PING_S):
                    await outbox.wait()
            except TimeoutError:
                await _write(response, b": ping\n\n")
            while outbox.closing is None and (batch := outbox.take(_TAKE_BYTES)):
                await _write(response, b"".join(map(_frame, batch)))
        closing = outbox.closing
        if closing is not None and closing.code is Code.UNAUTHORISED:
            await _write(response, _frame(notices.error(closing.error, closing.reason, fatal=True)))
        with contextlib.suppress(ConnectionError):
            await response.write_eof()
    except (ConnectionError, TimeoutError):
        return  # gone, or reads nothing: the reader reconnects and resumes


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(SEND_S):
        await response.write(data)


def _frame(item: bytes | Entry) -> bytes:
    if isinstance(item, Entry):
        header = item.header
        name = f"id: {header.session_id}:{header.seq}\nevent: {header.type}\n"
        return name.encode() + b"data: " + item.data + b"\n\n"
    return f"event: {_stamps.decode(item).type}\n".encode() + b"data: " + item + b"\n\n"


def _after(feed: Feed, known: dict[str, int], seen: datetime | None) -> int:
    """Return the position from which a feed goes on."""
    session_id = feed.session.session_id
    if session_id in known:
        return known[session_id]
    if not known:
        return feed.last
    earlier = (entry.seq for entry in reversed(feed.entries) if seen and _moment(entry) < seen)
    return next(earlier, -1)


def _seen(feed: Feed, known: dict[str, int]) -> datetime | None:
    """Return the moment of the event that a reader saw last, less the margin."""
    seq = known[feed.session.session_id]
    entries = (entry for entry in reversed(feed.entries) if entry.seq <= seq)
    last = next(entries, None)
    return None if last is None else _moment(last) - _MARGIN


def _moment(entry: Entry) -> datetime:
    return datetime.fromisoformat(_stamps.decode(entry.data).ts)
