"""What ``demeanor scoring`` does: ask the server, say how it stands."""

from typing import Final
from urllib.parse import urlsplit

import aiohttp

from pipeline.errors import DemeanorError, UsageError
from services.client import default_token

_ASK_S: Final = 10.0


async def switch(to: str, state: str, token: str | None, *, everywhere: bool) -> None:
    """Switch scoring of the server at ``to``.

    Raises :class:`~pipeline.errors.UsageError` for what cannot be meant, and
    :class:`~pipeline.errors.DemeanorError` when the server refuses or does not answer.
    """
    if state not in ("on", "off"):
        raise UsageError(f"scoring can be switched on or off, not '{state}'")
    parts = urlsplit(to if "://" in to else f"http://{to}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"'{to}' is no address of a server: write http://HOST:PORT")
    base = f"{parts.scheme}://{parts.netloc}"
    secret = token or default_token(base)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    limit = aiohttp.ClientTimeout(total=_ASK_S)
    async with aiohttp.ClientSession(headers=headers, timeout=limit) as client:
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
