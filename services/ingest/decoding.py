"""The one decoder of an ingest process, on a thread of its own, away from the event loop."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from services.ingest.collector import Encoded
from services.ingest.decoder import Decoded, Decoder
from services.queues import Registry


class Decoding:
    """Runs :class:`~services.ingest.decoder.Decoder` on one worker thread.

    Each session has at most one batch here, so the queue is bounded by the number of sessions.
    """

    def __init__(self, queues: Registry, max_sessions: int) -> None:
        self._decoder = Decoder()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        self._waiting = 0
        self._queue = queues.add(
            "decoder_in",
            bound=max_sessions + 1,
            unit="batches",
            rule="block",
            depth=lambda: self._waiting,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.close()
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)

    async def decode(self, session_key: str, batch: Sequence[Encoded]) -> Decoded:
        """Decode one batch; await it before the session's next."""
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, self._decoder.decode, session_key, batch
            )
        finally:
            self._waiting -= 1

    async def forget(self, session_key: str) -> None:
        """Free the codecs of a session that ended."""
        await asyncio.get_running_loop().run_in_executor(
            self._executor, self._decoder.forget, session_key
        )
