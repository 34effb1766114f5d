"""The known holes of the WebRTC stack: each is shut with our guard, and really open without it.

The attacks are in :mod:`tests.chaos.holes`; `python -m tests.chaos.holes` prints their figures. R5
and R6 have no guard to take out, since no decoder thread and no track queue is left: there
"without" is plain aiortc under the same attack, and so it is for R3.
"""

import pytest

from tests.chaos.holes.table import HOLES


@pytest.mark.parametrize("hole", HOLES, ids=[hole.name for hole in HOLES])
async def test_the_guard_holds_and_without_it_the_hole_is_there(hole):
    guarded = await hole.attack(True)
    assert hole.safe(guarded), guarded
    bare = await hole.attack(False)
    assert hole.open(bare), bare
