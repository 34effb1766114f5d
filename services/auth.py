"""Who may do what at a door. One token exists for now: ``dev``, on this machine only."""

import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.events import Role

DEV_TOKEN = "dev"  # noqa: S105 - public by design; it works on loopback sockets only


class Unauthorised(Exception):
    """No token, an unknown one, or one that does not work here (HTTP 401, close 4401)."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a valid token stands for."""

    tenant: str
    role: Role


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
    """True while every listening socket is bound to loopback."""

    @classmethod
    def bound_to(cls, hosts: Iterable[str]) -> "Guard":
        """Return a guard for sockets listening on ``hosts``."""
        return cls(loopback_only=all(map(is_loopback, hosts)))

    def principal(self, token: str | None, headers: Mapping[str, str]) -> Principal:
        """Return who ``token`` stands for.

        Raises :class:`Unauthorised` with one sentence for the person who sent the request.
        """
        if not token:
            raise Unauthorised("send a bearer token: 'Authorization: Bearer dev' on this machine")
        if not hmac.compare_digest(token.encode(errors="surrogatepass"), DEV_TOKEN.encode()):
            raise Unauthorised("this token is not known here")
        if not self.loopback_only:
            raise Unauthorised(
                "the token 'dev' works only while Demeanor listens on loopback addresses"
            )
        names = [name.lower() for name in headers]
        if any(name == "forwarded" or name.startswith("x-forwarded-") for name in names):
            raise Unauthorised("the token 'dev' does not work through a proxy")
        return Principal(tenant="default", role="self")


def bearer(headers: Mapping[str, str]) -> str | None:
    """Return the token of an ``Authorization: Bearer`` header (RFC 6750), or None."""
    for name, value in headers.items():
        if name.lower() == "authorization":
            scheme, _, token = value.partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
    return None
