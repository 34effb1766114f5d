"""Connect and close leaves nothing behind: the short form of ``python -m tests.chaos leak``."""

from tests.chaos import leak
from tests.chaos.gauges import slope

KIB_PER_READER = 20.0
"""In a hundred cycles; a dozen publishers tell nothing of memory, ``make chaos`` has enough."""


async def test_readers_that_come_and_go_leave_nothing():
    found = await leak.readers(100)
    assert found.back, found
    assert found.kib_per_cycle < KIB_PER_READER, found


async def test_publishers_that_come_and_go_leave_nothing():
    found = await leak.publishers(6)
    assert found.back, found


def test_the_slope_is_that_of_the_line():
    assert slope([(0, 1), (1, 3), (2, 5)]) == 2.0
    assert slope([(0, 7), (5, 7)]) == 0.0
    assert slope([(1, 1)]) == 0.0
