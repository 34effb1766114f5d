"""What ``demeanor drain`` does: ask, then watch the server go."""

import asyncio
from pathlib import Path
from typing import Any, Final

import aiohttp

from pipeline.errors import DemeanorError
from services.cli.credentials import base_of, talking
from services.ending import HARD_S

LOOK_S: Final = 0.5
SPARE_S: Final = 10.0
"""How much longer than promised a server is waited for."""


async def drained(
    to: str, soft_s: int | None, token_file: str | None = None, ca: Path | None = None
) -> None:
    """Drain the server at ``to`` and wait until it is gone.

    Raises :class:`~pipeline.errors.UsageError` for an address that is none, and
    :class:`~pipeline.errors.DemeanorError` when the server refuses or does not end.
    """
    base = base_of(to)
    async with talking(base, token_file, ca) as client:
        told = await _ask(client, base, soft_s)
        live, promised_s = int(told["live"]), int(told["soft_s"])
        streams = f"{live} stream" + ("" if live == 1 else "s")
        print(f" draining: {streams} may go on for {promised_s} s", flush=True)
        if not await _gone(client, base, promised_s + HARD_S + SPARE_S):
            raise DemeanorError(f"{base} is still there: see its log")
    print(" the server has ended")


async def _ask(client: aiohttp.ClientSession, base: str, soft_s: int | None) -> dict[str, Any]:
    body = {} if soft_s is None else {"soft_s": soft_s}
    try:
        async with client.post(f"{base}/v1/drain", json=body) as answer:
            told = await answer.json(content_type=None)
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
        raise DemeanorError(f"no Demeanor server answers at {base}") from None
    if status != 202 or not isinstance(told, dict) or "live" not in told:
        said = told.get("detail") if isinstance(told, dict) else None
        raise DemeanorError(f"{base} does not drain ({status}): {said or 'no reason given'}")
    return told


async def _gone(client: aiohttp.ClientSession, base: str, patience_s: float) -> bool:
    try:
        async with asyncio.timeout(patience_s):
            while await _there(client, base):  # noqa: ASYNC110 - another process
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        return False
    return True


async def _there(client: aiohttp.ClientSession, base: str) -> bool:
    try:
        async with client.get(f"{base}/livez"):
            return True
    except aiohttp.ClientConnectorError:
        return False
    except (aiohttp.ClientError, TimeoutError, OSError):
        return True  # it is just going, or too busy to say so
