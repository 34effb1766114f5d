"""How a revoked token is named among the standing orders."""


def order_name(tenant: str, token_id: str) -> str:
    """Return the name of a ``revoked`` order: a tenant can only revoke tokens of its own.

    A tenant's name has no ``:``, so two tokens never share a name.
    """
    return f"{tenant}:{token_id}"
