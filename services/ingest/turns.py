"""One at a time, and who has used least goes first.

Start-time fair queueing: each turn is tagged with the time that its owner has used so far, the
waiting turn with the smallest tag is next, and an owner that was away does not save up. So one
owner with long turns is passed by all with short ones, and nobody starves.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Turns:
    """The order in which one thing is used; for one event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._busy = False
        self._virtual_s = 0.0
        self._used_s: dict[str, float] = {}
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(not future.done() for _, _, future in self._waiting)

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it; the time it takes counts for ``owner``."""
        tag = max(self._virtual_s, self._used_s.get(owner, 0.0))
        if self._busy:
            await self._wait(tag)
        self._busy = True
        self._virtual_s = tag
        began_s = self._now()
        try:
            yield
        finally:
            self._used_s[owner] = tag + self._now() - began_s
            # Later, so that an owner that wants another turn at once is judged with the others.
            asyncio.get_running_loop().call_soon(self._pass_on)

    def forget(self, owner: str) -> None:
        """Drop what is kept of an owner."""
        self._used_s.pop(owner, None)

    async def _wait(self, tag: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (tag, next(self._numbers), future))
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():  # the turn was given to us at the same moment
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Give the turn to the next; it stays taken in between."""
        self._busy = False
        while self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                self._busy = True
                return
