"""A source on a thread of its own: the event loop gets its media in small batches.

One batch is read ahead while the last is scored; a reader who does not ask makes the decoder wait,
so nothing piles up. Live sources give a batch as soon as there is anything.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from pipeline.types import SLOT_TICKS
from services.ingest.items import Ended, Item
from services.ingest.merging import tick_of
from services.ingest.source import Source

BATCH_TICKS = SLOT_TICKS
"""Media time of one batch of a file: a window's worth of news at a time."""
BATCH_ITEMS = 256
"""Most items in one batch."""


class Reading:
    """Reads a source: enter it with ``async with``, then go through :meth:`batches` once.

    Leaving stops the decoder and closes the source. Errors of the source are raised to the reader.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._thread = ThreadPoolExecutor(1, "demeanor-source")
        self._ahead: asyncio.Future[list[Item]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._source.stop()
        if self._ahead is not None:
            await asyncio.wait([self._ahead])
            self._ahead.exception()  # it was raised to the reader, or nobody waits for it
        await asyncio.get_running_loop().run_in_executor(self._thread, self._source.close)
        self._thread.shutdown(wait=False)

    async def batches(self) -> AsyncIterator[list[Item]]:
        """Yield media in order until the source is over or :meth:`Source.stop` was called."""
        items = self._source.items()
        self._read(items)
        while self._ahead is not None:
            batch = await asyncio.shield(self._ahead)
            if not batch:
                return
            self._read(items)
            yield batch

    def _read(self, items: Iterator[Item]) -> None:
        loop = asyncio.get_running_loop()
        self._ahead = loop.run_in_executor(self._thread, self._next, items)

    def _next(self, items: Iterator[Item]) -> list[Item]:
        """Collect the next batch; empty at the end."""
        batch: list[Item] = []
        first: int | None = None
        for item in items:
            batch.append(item)
            if self._source.address.live or len(batch) == BATCH_ITEMS:
                break
            if not isinstance(item, Ended):
                first = tick_of(item) if first is None else first
                if tick_of(item) - first >= BATCH_TICKS:
                    break
        return batch
