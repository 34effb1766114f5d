"""The watch over what tests leave behind sees it, and waits for what is just ending."""

import asyncio
import threading

import pytest

from services.tasks import cancelled
from tests.services import leftovers


async def around(body):
    """Run ``body`` as a watched test."""
    watch = leftovers.watched()
    await anext(watch)
    await body()
    with pytest.raises(StopAsyncIteration):
        await anext(watch)


async def test_a_task_that_stays_is_seen(monkeypatch):
    monkeypatch.setattr(leftovers, "GRACE_S", 0.1)
    kept = []

    async def leak():
        kept.append(asyncio.create_task(asyncio.sleep(60)))

    with pytest.raises(AssertionError, match="left behind"):
        await around(leak)
    await cancelled(*kept)


async def test_a_thread_that_stays_is_seen(monkeypatch):
    monkeypatch.setattr(leftovers, "GRACE_S", 0.1)
    over = threading.Event()
    thread = threading.Thread(target=over.wait)

    async def leak():
        thread.start()

    with pytest.raises(AssertionError, match="left behind"):
        await around(leak)
    over.set()
    thread.join()


async def test_what_is_just_ending_may_end():
    async def tidy():
        asyncio.get_running_loop().create_task(asyncio.sleep(0.05))
        await asyncio.to_thread(int)

    await around(tidy)
