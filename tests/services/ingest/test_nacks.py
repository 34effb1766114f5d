"""Missing packets: what is asked for again, and what a far jump costs."""

import random

from aiortc.rtcrtpreceiver import NackGenerator as Theirs
from aiortc.rtp import RtpPacket

from services.ingest.nacks import HISTORY, NackGenerator


def _fed(generator, numbers):
    return [generator.add(RtpPacket(sequence_number=number % 65536)) for number in numbers]


def test_what_is_missing_is_asked_for_until_it_comes():
    generator = NackGenerator()
    assert _fed(generator, [65533, 65535, 1]) == [False, True, True]
    assert generator.missing == {65534, 0}
    assert _fed(generator, [65534, 0, 0, 2]) == [False] * 4
    assert generator.missing == set()


def test_old_ones_are_forgotten():
    generator = NackGenerator()
    _fed(generator, [10, 12])
    _fed(generator, range(13, 13 + HISTORY))
    assert generator.missing == set()


def test_a_far_jump_is_a_new_beginning():
    generator = NackGenerator()
    assert _fed(generator, [10, 12, 20_000]) == [False, True, False]
    assert generator.missing == set()
    assert _fed(generator, [20_002]) == [True]
    assert generator.missing == {20_001}


def test_the_list_is_bounded_and_as_theirs_under_ordinary_loss():
    chance = random.Random(3)
    ours, theirs = NackGenerator(), Theirs()
    number = 65_000
    for _ in range(5000):
        number += chance.choice([1, 1, 1, 1, 2, 3, 9])
        late = [number - chance.randint(1, 90)] if chance.random() < 0.3 else []
        for one in [number, *late]:
            assert _fed(ours, [one]) == _fed(theirs, [one])
            assert len(ours.missing) <= HISTORY
            assert ours.missing ^ theirs.missing <= {(number - HISTORY) % 65536}
