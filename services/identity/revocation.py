"""Revoked tokens, as standing orders on the bus: in force everywhere within a second.

An order names tenant and token, so an administrator cannot end the tokens of another tenant.
"""

from dataclasses import dataclass

from services.orders import Orders


@dataclass(frozen=True, slots=True)
class Revocations:
    """What :class:`~services.orders.Orders` says about tokens."""

    orders: Orders

    def stands(self, tenant: str, token_id: str) -> bool:
        """Tell whether a token was revoked."""
        return self.orders.value("revoked", order_name(tenant, token_id)) is not None


def order_name(tenant: str, token_id: str) -> str:
    """Return the name of a ``revoked`` order: a tenant can only revoke tokens of its own.

    A tenant's name has no ``:``, so two tokens never share a name.
    """
    return f"{tenant}:{token_id}"
