"""Who a token stands for and what it may do. What a door asks, it asks here.

``dev`` is the token of the first run: it works on this machine only and may do everything. All
others are JSON Web Tokens (RFC 7519) that a :class:`Verifier` checks (:mod:`services.identity`).
"""

import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol
from urllib.parse import urlsplit

from pipeline.events import Role

EVERYTHING: Final = "*"
"""The only wildcard of a scope: every session of the token's own tenant."""
Context = Literal[
    "customer_call", "chatbot", "self_care", "workplace_peer", "recruitment", "education"
]
"""What a call is, as the issuer of its token says; a policy may deny some."""

DEV_TOKEN = "dev"  # noqa: S105 - public by design; it works on loopback sockets only


class Unauthorised(Exception):
    """No token, an unknown one, or one that does not work here (HTTP 401, close 4401)."""


@dataclass(frozen=True, slots=True)
class Consent:
    """The signed record that a person agreed, as it stands in the token (claim ``consent``)."""

    notice_version: str
    notice_sha256: str
    granted_ms: int
    """Unix ms."""
    release: bool = False
    """A written release in the sense of BIPA (740 ILCS 14/15) was signed."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a valid token stands for."""

    tenant: str
    role: Role
    """Role of the participant whose media comes with it (claim ``part_role``)."""
    token_id: str = DEV_TOKEN
    """Claim ``jti``: names the token in limits, revocations and the audit log."""
    subject: str = DEV_TOKEN
    """Claim ``sub``: the operator's pseudonym for the holder."""
    ingest: frozenset[str] = frozenset({EVERYTHING})
    """Streams it may publish (scope ``ingest:{stream}``); only ``dev`` has the wildcard."""
    read: frozenset[str] = frozenset({EVERYTHING})
    """Sessions or streams it may read (scope ``read:{session|*}``)."""
    rights: frozenset[str] = frozenset({"alerts:ack", "explain", "admin"})
    """Scopes without an object."""
    expires_s: float | None = None
    """Unix seconds (claim ``exp``); None for ``dev``."""
    takeover: bool = False
    """May replace a live publisher of the same stream (claim ``takeover``)."""
    context: Context | None = None
    mixed: bool = False
    """Several people share the track (claim ``mixed``)."""
    consent: Consent | None = None
    policy: str | None = None
    """The only policy under which its issuer allows it (claim ``policy``); None: any."""

    def may_publish(self, stream: str) -> bool:
        """Tell whether it may publish ``stream``."""
        return EVERYTHING in self.ingest or stream in self.ingest

    def may_read(self, session_id: str, stream: str) -> bool:
        """Tell whether it may read a session of its own tenant, named by its id or its stream."""
        return EVERYTHING in self.read or bool(self.read & {session_id, stream})

    def may(self, right: str) -> bool:
        """Tell whether it has ``alerts:ack``, ``explain`` or ``admin``."""
        return right in self.rights


class Verifier(Protocol):
    """Checks JSON Web Tokens; synchronous and without I/O, so that a bad one costs little."""

    def verify(self, token: str) -> Principal:
        """Return who ``token`` stands for. Raises :class:`Unauthorised` with one sentence."""

    def revoked(self, principal: Principal) -> bool:
        """Tell whether the token was revoked since it was checked."""


def is_loopback(host: str) -> bool:
    """Tell whether a bind address or peer address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Guard:
    """Checks tokens for all doors of one process."""

    loopback_only: bool
    """True while every listening socket is bound to loopback, and no proxy leads to them."""
    verifier: Verifier | None = None
    """Checks every token but ``dev``; None: there are no keys, so there are no other tokens."""

    @classmethod
    def bound_to(cls, hosts: Iterable[str], verifier: Verifier | None = None) -> "Guard":
        """Return a guard for sockets listening on ``hosts``."""
        return cls(loopback_only=all(map(is_loopback, hosts)), verifier=verifier)

    def revoked(self, principal: Principal) -> bool:
        """Tell whether a token that was good has been revoked since."""
        return self.verifier is not None and self.verifier.revoked(principal)

    def principal(self, token: str | None, headers: Mapping[str, str]) -> Principal:
        """Return who ``token`` stands for.

        Raises :class:`Unauthorised` with one sentence for the person who sent the request.
        """
        if not token:
            example = "dev' on this machine" if self.loopback_only else "TOKEN'"
            raise Unauthorised(f"send a bearer token: 'Authorization: Bearer {example}")
        if not hmac.compare_digest(token.encode(errors="surrogatepass"), DEV_TOKEN.encode()):
            if self.verifier is not None:
                return self.verifier.verify(token)
            raise Unauthorised("this token is not known here")
        if not self.loopback_only:
            raise Unauthorised(
                "the token 'dev' works only while Demeanor listens on loopback addresses and no "
                "proxy is in front: get another from whoever runs this server"
            )
        names = [name.lower() for name in headers]
        if any(name == "forwarded" or name.startswith("x-forwarded-") for name in names):
            raise Unauthorised("the token 'dev' does not work through a proxy")
        if not _names_loopback(headers):  # a name of somebody else's that resolves to this machine
            raise Unauthorised("address this server as 127.0.0.1 or localhost")
        return Principal(tenant="default", role="self")


def _names_loopback(headers: Mapping[str, str]) -> bool:
    """Tell whether the request was sent to this machine by one of its own names."""
    hosts = [value for name, value in headers.items() if name.lower() == "host"]
    return all(is_loopback(_without_port(host)) for host in hosts)


def _without_port(host: str) -> str:
    """Return the name out of ``HOST[:PORT]``; empty when it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def bearer(headers: Mapping[str, str]) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header (RFC 6750), or None."""
    for name, value in headers.items():
        if name.lower() == "authorization":
            scheme, _, token = value.partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
    return None
