"""Which sessions exist, as one gateway knows it: filled from the bus, without I/O of its own."""

from collections.abc import Iterable

import msgspec

from services.bus.types import KEPT_MS, Session


class Directory:
    """Sessions of all tenants this gateway serves, live and lately ended."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._lost: set[str] = set()

    def get(self, tenant: str, session_id: str) -> Session | None:
        """Return a session that ``tenant`` may see."""
        session = self._sessions.get(session_id)
        return session if session is not None and visible(session, tenant) else None

    def entry(self, session_id: str) -> Session | None:
        """Return what is known, erased sessions included."""
        return self._sessions.get(session_id)

    def of(self, tenant: str) -> list[Session]:
        """Return the tenant's sessions, oldest first."""
        return [session for session in self._sessions.values() if visible(session, tenant)]

    def live(self, tenant: str) -> list[Session]:
        """Return the tenant's sessions that have not ended."""
        return [
            session
            for session in self.of(tenant)
            if session.state == "live" and session.session_id not in self._lost
        ]

    def put(self, session: Session) -> bool:
        """Take a change; True when the session is new here."""
        known = self._sessions.get(session.session_id)
        if known is not None:
            session = msgspec.structs.replace(
                session,
                state="ended" if known.state == "ended" else session.state,
                erase=session.erase or known.erase,
            )
        self._sessions[session.session_id] = session
        return known is None and not session.erase

    def renew(self, leases: dict[str, int]) -> set[str]:
        """Take lease expiries; return ids that are not known yet."""
        for session_id, lease_ms in leases.items():
            known = self._sessions.get(session_id)
            if known is not None and known.lease_ms != lease_ms:
                self._sessions[session_id] = msgspec.structs.replace(known, lease_ms=lease_ms)
        return leases.keys() - self._sessions.keys()

    def overdue(self, now_ms: int) -> list[Session]:
        """Return live sessions whose owner stopped vouching for them, each once."""
        late = [
            session
            for session in self._sessions.values()
            if session.state == "live" and session.lease_ms < now_ms
        ]
        told, self._lost = self._lost, {session.session_id for session in late}
        return [session for session in late if session.session_id not in told]

    def returned(self, now_ms: int) -> list[Session]:
        """Return sessions whose owner was gone and vouches for them again."""
        known = (self._sessions.get(session_id) for session_id in self._lost)
        return [
            session
            for session in known
            if session is not None and session.state == "live" and session.lease_ms >= now_ms
        ]

    def is_lost(self, session_id: str) -> bool:
        """Tell whether a live session's owner is gone."""
        return session_id in self._lost

    def replaced_by(self, newer: Session) -> list[Session]:
        """Return live sessions of the same stream with a lower epoch."""
        return [
            session
            for session in self._sessions.values()
            if session.state == "live"
            and (session.tenant, session.stream) == (newer.tenant, newer.stream)
            and session.epoch < newer.epoch
        ]

    def end(self, session_id: str) -> None:
        """Mark a session as over."""
        known = self._sessions.get(session_id)
        if known is not None:
            self._sessions[session_id] = msgspec.structs.replace(known, state="ended")

    def prune(self, now_ms: int) -> list[str]:
        """Forget entries that the bus forgets too; return their ids."""
        old = [
            session.session_id
            for session in self._sessions.values()
            if session.lease_ms < now_ms - KEPT_MS
        ]
        self.forget(old)
        return old

    def forget(self, session_ids: Iterable[str]) -> None:
        """Forget entries at once."""
        for session_id in session_ids:
            self._sessions.pop(session_id, None)


def visible(session: Session, tenant: str) -> bool:
    """Tell whether ``tenant`` may know of ``session``."""
    return session.tenant == tenant and not session.erase
