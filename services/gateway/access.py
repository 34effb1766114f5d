"""What a token lets one do here: which sessions it reads, which it may erase, what replaces it.

Scopes are of the token's own tenant, and ``admin`` reads all of that tenant. A ticket stands for
less than the token it was made for: it reads what it names and nothing else.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from services.auth import EVERYTHING, Principal
from services.bus.types import Session

TOKEN_NAMES: Final = frozenset(
    {"token", "access_token", "authorization", "bearer", "key", "api_key", "jwt"}
)
"""Names under which people put a token into an address, where every log would keep it."""
NO_SCOPE: Final = "this token reads nothing: ask for one with the scope 'read:SESSION' or 'read:*'"
NOT_READABLE: Final = "this token does not read this session: ask for one with its 'read' scope"
ADMIN_ONLY: Final = "only a token with the scope 'admin' may do this"


def readable(principal: Principal) -> frozenset[str]:
    """Return the sessions and streams that a token reads; ``*``: all of its tenant."""
    return frozenset({EVERYTHING}) if principal.may("admin") else principal.read


def reads(principal: Principal, session: Session) -> bool:
    """Tell whether a token reads a session."""
    return session.tenant == principal.tenant and (
        principal.may_read(session.session_id, session.stream) or principal.may("admin")
    )


def may_name(principal: Principal, session_id: str) -> bool:
    """Tell whether a token could read a session of this id, whether or not there is one."""
    return bool(readable(principal) & {EVERYTHING, session_id})


def erases(principal: Principal, session: Session) -> bool:
    """Tell whether a token may end a session and erase its data: an admin or its own publisher."""
    return session.tenant == principal.tenant and (
        principal.may("admin") or principal.may_publish(session.stream)
    )


def narrowed(principal: Principal, session_id: str) -> Principal:
    """Return what a ticket for one session (``*``: for all) stands for."""
    read = readable(principal) if session_id == EVERYTHING else frozenset({session_id})
    return replace(principal, read=read, ingest=frozenset(), rights=frozenset())


def successor_fault(
    old: Principal, new: Principal, sessions: Collection[Session], *, follows_all: bool
) -> str | None:
    """Return why ``new`` cannot take the place of ``old`` on an open connection, or None.

    ``sessions``: those that are being read; ``follows_all``: sessions that start are joined too.
    """
    if (new.tenant, new.role) != (old.tenant, old.role):
        return "a refresh must keep tenant and role: open another connection for this token"
    wanted = readable(old) if follows_all else frozenset()
    lost = EVERYTHING not in readable(new) and bool(wanted - readable(new))
    if lost or not all(reads(new, session) for session in sessions):
        return "this token reads less than what is subscribed: unsubscribe from the rest first"
    return None
