"""What ``demeanor scoring`` does: ask the server, say how it stands."""

from pathlib import Path

import aiohttp

from pipeline.errors import DemeanorError, UsageError
from services.cli.credentials import base_of, talking


async def switch(
    to: str,
    state: str,
    token_file: str | None = None,
    ca: Path | None = None,
    *,
    everywhere: bool,
) -> None:
    """Switch scoring of the server at ``to``.

    Raises :class:`~pipeline.errors.UsageError` for what cannot be meant, and
    :class:`~pipeline.errors.DemeanorError` when the server refuses or does not answer.
    """
    if state not in ("on", "off"):
        raise UsageError(f"scoring can be switched on or off, not '{state}'")
    base = base_of(to)
    async with talking(base, token_file, ca) as client:
        told = await _put(client, base, {"scoring": state, "everywhere": everywhere})
    print(f" scoring is {told.get('scoring')} ({_detail(told)})")


def _detail(told: dict[str, object]) -> str:
    return f"this tenant: {told.get('tenant')}, everywhere: {told.get('everywhere')}"


async def _put(
    client: aiohttp.ClientSession, base: str, body: dict[str, object]
) -> dict[str, object]:
    try:
        async with client.put(f"{base}/v1/scoring", json=body) as answer:
            told = await answer.json(content_type=None)
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
        raise DemeanorError(f"no Demeanor server answers at {base}") from None
    if status != 200 or not isinstance(told, dict):
        said = told.get("detail") if isinstance(told, dict) else None
        raise DemeanorError(f"{base} does not switch ({status}): {said or 'no reason given'}")
    return told
