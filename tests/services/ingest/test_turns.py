"""Whose turn it is: the one who has used least, and nobody twice while others wait."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.turns import Turns


class Rig:
    """Owners that come again and again, on a clock moved by the turns themselves."""

    def __init__(self):
        self.now_s = 0.0
        self.turns = Turns(lambda: self.now_s)
        self.order = []

    async def take(self, owner, takes_s):
        async with self.turns.turn(owner):
            self.order.append(owner)
            await asyncio.sleep(0)
            self.now_s += takes_s

    async def again_and_again(self, owner, takes_s, times):
        for _ in range(times):
            await self.take(owner, takes_s)


async def test_equals_take_turns():
    rig = Rig()
    await asyncio.gather(*(rig.again_and_again(owner, 1.0, 4) for owner in "abc"))
    rounds = ["".join(rig.order[at : at + 3]) for at in range(0, 12, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}


async def test_a_slow_one_is_passed_by_the_quick():
    rig = Rig()
    await asyncio.gather(
        rig.again_and_again("slow", 2.0, 3),
        rig.again_and_again("quick", 0.1, 30),
        rig.again_and_again("other", 0.1, 30),
    )
    first, second, third = (at for at, owner in enumerate(rig.order) if owner == "slow")
    assert second - first >= 40  # twenty of each
    assert third == len(rig.order) - 1 or third - second >= 20


async def test_who_was_away_does_not_save_up():
    rig = Rig()
    await rig.again_and_again("steady", 1.0, 50)
    await asyncio.gather(rig.again_and_again("back", 1.0, 6), rig.again_and_again("steady", 1.0, 6))
    tail = rig.order[50:]
    assert all(tail[at : at + 3].count("back") < 3 for at in range(8))


async def test_whoever_gives_up_is_passed_over():
    rig = Rig()
    release = asyncio.Event()

    async def hold():
        async with rig.turns.turn("first"):
            await release.wait()

    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(rig.take(owner, 0.1)) for owner in "abc"]
    await asyncio.sleep(0)
    assert len(rig.turns) == 3
    waiting[0].cancel()
    release.set()
    waiting[1].cancel()
    await holding
    await asyncio.wait(waiting)
    assert rig.order == ["c"]
    await rig.take("d", 0.1)
    assert rig.order == ["c", "d"]


async def test_cancelled_in_the_moment_it_was_given():
    rig = Rig()
    release = asyncio.Event()

    async def hold():
        async with rig.turns.turn("first"):
            await release.wait()

    holding = asyncio.create_task(hold())
    await asyncio.sleep(0)
    given_to, next_one = (asyncio.create_task(rig.take(owner, 0.1)) for owner in "ab")
    await asyncio.sleep(0)
    release.set()
    await holding  # the turn was passed on just now …
    given_to.cancel()  # … and is given up before it is used
    with pytest.raises(asyncio.CancelledError):
        await given_to
    await next_one
    assert rig.order == ["b"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 3.0), min_size=2, max_size=6))
def test_nobody_gets_more_than_a_turn_ahead(lengths):
    """While all want it all the time, used times differ by no more than the longest turn."""

    async def run():
        rig = Rig()
        used = dict.fromkeys(range(len(lengths)), 0.0)
        spread = []

        async def one(number):
            while rig.now_s < 20:
                async with rig.turns.turn(str(number)):
                    await asyncio.sleep(0)
                    rig.now_s += lengths[number]
                    used[number] += lengths[number]
                    spread.append(max(used.values()) - min(used.values()))

        await asyncio.gather(*(one(number) for number in used))
        settled = spread[len(lengths) : -len(lengths)]
        assert max(settled, default=0) <= 2 * max(lengths) + 1e-6

    asyncio.run(run())
