"""What one reader asked for: subscriptions, resumes, and sessions that join later.

Shared by WebSocket and SSE readers. Order of a resume: the feeds are live before the log is read
(:meth:`Hub.feed`), a place is taken at the asked position, and the reader continues from there; so
there is no seam between replay and live.
"""

from collections.abc import Callable, Iterable

import msgspec

from services.audit import SILENT, Audit, AuditAway
from services.auth import Principal
from services.bus.types import Session
from services.gateway import access, protocol
from services.gateway.feed import Feed
from services.gateway.hub import Hub
from services.gateway.member import Member
from services.gateway.outbox import Outbox
from services.gateway.protocol import EVERYTHING, Closing, Code, Selection

SUBSCRIPTIONS = 64


class Requests:
    """The requests of one reader, within what its token reads."""

    def __init__(
        self, hub: Hub, outbox: Outbox, principal: Principal, audit: Audit = SILENT
    ) -> None:
        self._hub = hub
        self._audit = audit
        self._outbox = outbox
        self._principal = principal
        self._tenant = principal.tenant
        self._selections: dict[str | None, Selection] = {}
        self._stop_following: dict[str | None, Callable[[], None]] = {}

    def renew(self, principal: Principal) -> None:
        """Go on with another token. Raises :class:`Closing` (4403) for one that does not fit."""
        fault = access.successor_fault(
            self._principal,
            principal,
            [member.feed.session for member in self._outbox.members.values()],
            follows_all=bool(self._stop_following),
        )
        if fault is not None:
            raise Closing(Code.FORBIDDEN, "forbidden", fault)
        self._principal = principal

    def close(self) -> None:
        """Stop following sessions that start."""
        for stop in self._stop_following.values():
            stop()
        self._stop_following.clear()

    async def subscribe(self, message: protocol.Subscribe) -> None:
        """Answer, then send what comes from now on."""
        feeds, unknown = await self.feeds(message, since={})
        self._tell_unknown(unknown, message.id, nothing=not feeds and not message.everything)
        members = [Member(feed, self._outbox, message, feed.last) for feed in feeds]
        snapshot = [_last_wanted(member) for member in members] if message.snapshot else []
        answer = protocol.Subscribed(
            id=message.id,
            sessions=[feed.session.session_id for feed in feeds],
            snapshot=[msgspec.Raw(data) for data in snapshot if data is not None],
        )
        self._outbox.answer(protocol.encode(answer))
        self.join(message.id, message, members)

    async def resume(self, message: protocol.Resume) -> None:
        """Answer, then send what is held behind the positions, then what comes."""
        selection = message.subscribe
        feeds, unknown = await self.feeds(selection, since=message.since)
        members = [
            Member(feed, self._outbox, selection, message.since.get(feed.session.session_id, -1))
            for feed in feeds
        ]
        answer = protocol.Resumed(
            id=message.id,
            recovered={m.feed.session.session_id: m.recovered for m in members},
            lost={
                **{m.feed.session.session_id: m.lost for m in members if m.lost},
                **dict.fromkeys(unknown),
            },
            sessions=[feed.session.session_id for feed in feeds],
        )
        self._outbox.answer(protocol.encode(answer))
        if not feeds and selection.sessions and not selection.everything:
            raise Closing(Code.NO_SUCH_SESSION, "no_such_session", "none of these sessions exists")
        self.join(message.id, selection, members)

    async def feeds(
        self, selection: Selection, since: dict[str, int]
    ) -> tuple[list[Feed], list[str]]:
        """Return the open feeds of a selection and the named sessions that do not exist.

        Nothing is awaited after the last look at the directory: no session slips through. Raises
        :class:`Closing` (4403) when the token does not read what is named.
        """
        if not access.readable(self._principal):
            raise self._refused("no_scope", access.NO_SCOPE)
        await self._hub.serve(self._tenant)
        named = dict.fromkeys(
            [*since, *(name for name in selection.sessions if name != EVERYTHING)]
        )
        sessions: dict[str, Session] = {}
        unknown: list[str] = []
        for session_id in named:
            session = await self._named(session_id)
            if session is None:
                unknown.append(session_id)
            else:
                sessions[session_id] = session
        await self._write_down([*sessions, *([EVERYTHING] if selection.everything else [])])
        feeds: dict[str, Feed] = {}
        while missing := self._missing(selection, sessions, feeds):
            for session in missing:
                feeds[session.session_id] = await self._hub.feed(session)
        return list(feeds.values()), unknown

    async def _named(self, session_id: str) -> Session | None:
        """Return a session; None when there is none. Raises :class:`Closing` (4403)."""
        session = await self._hub.find(self._tenant, session_id)
        if session is None:
            known = self._hub.directory.entry(session_id)
            foreign = known is not None and known.tenant != self._tenant
            allowed = access.may_name(self._principal, session_id) and not foreign
        else:
            allowed = access.reads(self._principal, session)
        if not allowed:
            raise self._refused("not_readable", access.NOT_READABLE, session_id)
        return session

    async def _write_down(self, sessions: Iterable[str]) -> None:
        """Put a row for each into the audit log: nobody reads what no row tells."""
        try:
            for session_id in sessions:
                await self._audit.require("subscribed", self._principal, session=session_id)
        except AuditAway as error:
            raise Closing(Code.TRY_LATER, "audit_away", str(error), retry_after_ms=2000) from error

    def _refused(self, why: str, reason: str, session_id: str | None = None) -> Closing:
        self._audit.note("refused", self._principal, session=session_id, why=why)
        return Closing(Code.FORBIDDEN, "forbidden", reason)

    def _missing(
        self, selection: Selection, named: dict[str, Session], feeds: dict[str, Feed]
    ) -> list[Session]:
        live: Iterable[Session] = (
            self._hub.directory.live(self._tenant) if selection.everything else ()
        )
        wanted = {**named, **{session.session_id: session for session in live}}
        return [
            session
            for session in wanted.values()
            if session.session_id not in feeds
            and selection.takes_role(session.role)
            and access.reads(self._principal, session)
        ]

    def join(
        self, subscription: str | None, selection: Selection, members: Iterable[Member]
    ) -> None:
        """Take the places; an older subscription of the same id is replaced."""
        self._unfollow(subscription)
        if len(self._selections) >= SUBSCRIPTIONS:
            raise Closing(
                Code.BAD_MESSAGE,
                "too_many_subscriptions",
                f"one connection may hold {SUBSCRIPTIONS} subscriptions; unsubscribe first",
            )
        self._selections[subscription] = selection
        for member in members:
            self._outbox.join(member)
        if selection.everything:
            self._stop_following[subscription] = self._hub.on_newcomer(
                self._tenant, lambda feed: self._newcomer(feed, selection)
            )
        self._outbox.follows_all = bool(self._stop_following)

    def _newcomer(self, feed: Feed, selection: Selection) -> None:
        known = feed.session.session_id in self._outbox.members
        readable = access.reads(self._principal, feed.session)
        if not known and readable and selection.takes_role(feed.session.role):
            self._outbox.join(Member(feed, self._outbox, selection, -1))

    def unsubscribe(self, subscription: str | None) -> None:
        """Give up the places of one subscription."""
        selection = self._selections.get(subscription)
        if selection is None:
            self._outbox.answer(
                self._hub.notices.error(
                    "no_such_subscription",
                    "there is no subscription with this id",
                    ref=subscription,
                )
            )
            return
        self._unfollow(subscription)
        for session_id, member in list(self._outbox.members.items()):
            if member.selection is selection:
                self._outbox.leave(session_id)
        self._outbox.answer(protocol.encode(protocol.Unsubscribed(subscription)))

    def _unfollow(self, subscription: str | None) -> None:
        self._selections.pop(subscription, None)
        stop = self._stop_following.pop(subscription, None)
        if stop is not None:
            stop()
        self._outbox.follows_all = bool(self._stop_following)

    def _tell_unknown(self, unknown: list[str], ref: str | None, *, nothing: bool) -> None:
        if unknown and nothing:
            raise Closing(Code.NO_SUCH_SESSION, "no_such_session", "none of these sessions exists")
        for session_id in unknown:
            self._outbox.answer(
                self._hub.notices.error(
                    "no_such_session",
                    "this session does not exist or is over",
                    session_id=session_id,
                    ref=ref,
                )
            )


def _last_wanted(member: Member) -> bytes | None:
    """Return the newest record of a session that the selection takes."""
    for entry in reversed(member.feed.entries):
        if member.selection.takes(entry.kind):
            return entry.data
    return None
