import asyncio

from services.tasks import cancelled


async def test_a_task_that_misses_the_first_cancellation_is_asked_again():
    heard = 0

    async def deaf() -> None:
        nonlocal heard
        while heard < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard += 1

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await cancelled(task, None)
    assert task.done()
    assert heard == 2


async def test_errors_of_a_task_stay_its_own():
    async def broken() -> None:
        raise RuntimeError

    task = asyncio.create_task(broken())
    await asyncio.sleep(0)
    await cancelled(task)
    assert isinstance(task.exception(), RuntimeError)
