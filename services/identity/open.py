"""Builds the guard that the settings ask for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipeline.errors import UsageError
from services.auth import Guard, is_loopback
from services.clock import Clock
from services.identity.claims import Expected
from services.identity.following import follow
from services.identity.revocation import Revocations
from services.identity.verifier import JwtVerifier
from services.orders import Orders
from services.settings import Settings


@asynccontextmanager
async def open_guard(settings: Settings, clock: Clock, orders: Orders) -> AsyncIterator[Guard]:
    """Yield the guard of all doors; its keys are followed as long as the context lasts.

    Raises :class:`~pipeline.errors.UsageError` for keys that cannot be read, and for an address
    that others can reach without any keys.
    """
    check(settings)
    alone = is_loopback(settings.host) and settings.public_url is None
    if settings.token_keys is None:
        yield Guard(alone)
        return
    expected = Expected(settings.token_audience, settings.token_issuer)
    async with follow(settings.token_keys, settings.token_key_hosts, clock) as keys:
        yield Guard(alone, JwtVerifier(keys, expected, clock, Revocations(orders)))


def statistics(guard: Guard) -> dict[str, float]:
    """Return gauges and counters; empty without keys."""
    return guard.verifier.statistics() if isinstance(guard.verifier, JwtVerifier) else {}


def check(settings: Settings) -> None:
    """Refuse to be open to others without keys: every request would be refused anyway.

    Raises :class:`~pipeline.errors.UsageError`.
    """
    public = settings.public_url
    flag = f"--host {settings.host}" if public is None else f"--public-url {public}"
    reachable = public is not None or not is_loopback(settings.host)
    if settings.token_keys is None and reachable:
        raise UsageError(
            f"{flag} demands --token-keys FILE: 'dev' works on loopback only; "
            "make keys with 'demeanor token keys DIR'"
        )
