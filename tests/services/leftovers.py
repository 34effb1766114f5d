"""What a test must not leave behind: tasks of its event loop, threads."""

import asyncio
import threading

GRACE_S = 10.0
_POOL = "asyncio_"
"""Threads of the loop's own pool; they end with the loop."""


def threads():
    return {each for each in threading.enumerate() if not each.name.startswith(_POOL)}


async def watched():
    """Yield to the test, then fail when tasks or threads of its own are still there.

    What is just ending may end: a socket's close is heard a turn of the loop later.
    """
    loop = asyncio.get_running_loop()
    tasks_before, threads_before = asyncio.all_tasks(), threads()
    yield
    mine = asyncio.current_task()
    deadline_s = loop.time() + GRACE_S
    while True:
        tasks = {task for task in asyncio.all_tasks() - tasks_before - {mine} if not task.done()}
        left = [*tasks, *(threads() - threads_before)]
        if not left or loop.time() > deadline_s:
            break
        await asyncio.sleep(0.02)
    assert not left, f"the test left behind: {left}"
