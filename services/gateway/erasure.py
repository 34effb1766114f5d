"""Erasing one session everywhere: its log, and what any gateway holds of it.

The owner of a live session ends it and erases its log; where the owner is gone we do it. Every
gateway drops its own copy when the directory says that the session is erased.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from services.bus.types import Record, Session
from services.gateway.app import Gateway

PARTICIPANT = "p1"
"""A session is one person's."""
PATIENCE_S = 4.0
"""How long the owner has to do it by itself; what it leaves undone is done here right after."""


class Erased(msgspec.Struct, frozen=True):
    """What was there and is gone."""

    session_id: str
    participant: str
    events: int
    """All events of the session that the log still held."""
    windows: int
    """Scored and skipped windows among them."""
    alerts: int


async def erase(gateway: Gateway, session: Session) -> Erased:
    """End a session and erase its data. Raises :class:`~pipeline.errors.BusError`."""
    gone = await held(gateway, session)
    asked = msgspec.structs.replace(session, erase=True)
    await gateway.bus.announce(asked, session.lease_ms)
    await finished(gateway, session)
    return gone


async def finished(gateway: Gateway, session: Session) -> None:
    """Wait until the owner of a session has erased it, or erase it in its place."""
    live = session.state == "live" and not gateway.hub.directory.is_lost(session.session_id)
    if live and await gateway.hub.erased(session.session_id, PATIENCE_S):
        return
    feed = await gateway.hub.feed(session)
    await gateway.bus.erase_session(feed.key, session.epoch)
    over = msgspec.structs.replace(session, state="ended", erase=True)
    await gateway.bus.announce(over, gateway.clock.wall_ms())
    feed.erase()


async def held(gateway: Gateway, session: Session) -> Erased:
    """Return what the log holds of a session."""
    feed = await gateway.hub.feed(session)
    replay = await gateway.bus.replay(feed.key, session.epoch, -1)
    return _counted(session, replay.records)


def _counted(session: Session, records: Iterable[Record]) -> Erased:
    kinds = Counter(record.header.type.partition(".")[0] for record in records)
    return Erased(
        session.session_id,
        PARTICIPANT,
        events=kinds.total(),
        windows=kinds["window"],
        alerts=kinds["alert"],
    )
