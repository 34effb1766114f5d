"""Revoked tokens, as standing orders on the bus: in force everywhere within a second.

An order names tenant and token, so an administrator cannot end the tokens of another tenant.
"""

from dataclasses import dataclass
from typing import Final

from services.auth import Principal
from services.identity.claims import LEEWAY_S, MAX_LIFE_S
from services.orders import Orders

KEPT_S: Final = MAX_LIFE_S + 2 * LEEWAY_S
"""No token lives longer than this after it was seen, so neither need its revocation."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """What :class:`~services.orders.Orders` says about tokens."""

    orders: Orders

    def stands(self, tenant: str, token_id: str) -> bool:
        """Tell whether a token was revoked."""
        return self.orders.value("revoked", order_name(tenant, token_id)) is not None

    async def revoke(self, by: Principal, token_id: str, expires_ms: int) -> None:
        """Revoke a token of the tenant of ``by`` until ``expires_ms``, when it expires anyway.

        Raises :class:`~pipeline.errors.BusError`; then nothing has changed.
        """
        await self.orders.give("revoked", order_name(by.tenant, token_id), "", expires_ms)


def order_name(tenant: str, token_id: str) -> str:
    """Return the name of a ``revoked`` order: a tenant can only revoke tokens of its own.

    A tenant's name has no ``:``, so two tokens never share a name.
    """
    return f"{tenant}:{token_id}"
