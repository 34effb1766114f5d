"""How a process ends: asked by a signal, from outside, or because a part of it has died.

Hard: what runs is ended, told and written out, within :data:`HARD_S`. Soft: nothing new is taken
and what runs may end by itself for a while; then hard.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Final, Self

import structlog

from pipeline.errors import DemeanorError
from services.tasks import cancelled

HARD_S: Final = 29.0
"""The latest end after a signal, whatever hangs; orchestrators kill after 30 s."""
WATCH_S: Final = 0.5
_log = structlog.get_logger(__name__)


class Died(DemeanorError):
    """A part without which the process does no good has ended (exit code 1)."""


class Ending:
    """Why and when this process ends; used on one event loop."""

    def __init__(self) -> None:
        self.soft_s = 0
        self.died: str | None = None
        """The part that ended and must not."""
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def asked(self) -> bool:
        """Whether the end has begun."""
        return self._asked.is_set()

    def hard(self) -> None:
        """End now; what is soft ends too."""
        self._hurry.set()
        self._asked.set()

    def soft(self, soft_s: int) -> None:
        """End once nothing runs any more, in ``soft_s`` at the latest. The first call counts."""
        if self._asked.is_set():
            return
        self.soft_s = soft_s
        self._asked.set()
        if not soft_s:
            self._hurry.set()

    def fail(self, part: str) -> None:
        """End because ``part`` is gone."""
        if self.died is None and not self._asked.is_set():
            self.died = part
            _log.error("a part of the server has ended: draining", part=part)
            self.hard()

    async def begun(self) -> None:
        """Wait until somebody wants the end."""
        await self._asked.wait()

    async def patience(self, live: Callable[[], int]) -> None:
        """Wait while ``live`` streams run and the soft drain lasts."""
        try:
            async with asyncio.timeout(self.soft_s):
                while live() and not self._hurry.is_set():
                    await self._look_again()
        except TimeoutError:
            return

    async def _look_again(self) -> None:
        try:
            async with asyncio.timeout(WATCH_S):
                await self._hurry.wait()
        except TimeoutError:
            return


class Watch:
    """Looks after parts that must live; an async context manager."""

    def __init__(self, ending: Ending, parts: Mapping[str, Callable[[], bool]]) -> None:
        """``parts``: by name, whether it still does its work."""
        self._ending = ending
        self._parts = parts
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._look(), name="vital-watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancelled(self._task)

    async def _look(self) -> None:
        while not self._ending.asked:
            await asyncio.sleep(WATCH_S)
            for name, alive in self._parts.items():
                if not alive():
                    self._ending.fail(name)


def last_resort(limit_s: float = HARD_S, *, code: int = 1) -> threading.Timer:
    """End the process after ``limit_s`` even if something hangs; cancel what is returned.

    For the command only: it ends the process without any further tidying up. A server of our own
    dies with its parent.
    """

    def end() -> None:
        sys.stderr.write("demeanor: something hangs; ended without waiting for it\n")
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    return timer
