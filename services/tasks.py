"""Ending tasks for sure."""

import asyncio
from typing import Any

_AGAIN_S = 0.2


async def cancelled(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel ``tasks`` and wait until each has ended; what they raise is theirs.

    A cancellation that meets a library which is just opening a connection can get lost there, so it
    is repeated until it is heard.
    """
    every = [task for task in tasks if task is not None]
    left = {task for task in every if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
    for task in every:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not call it forgotten
