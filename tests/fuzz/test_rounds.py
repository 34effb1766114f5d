"""The short round of every fuzzer: fixed seeds, so that every run tries the same cases."""

import pytest

from tests.chaos import fuzz

CASES = {"setting": 250, "address": 250, "media": 250, "codec": 100}
"""The dear ones; 400 for each other."""


@pytest.fixture(scope="module")
def known():
    with fuzz.targets() as found:
        yield found


NAMES = [
    "offer", "fragment", "message", "picture", "packets", "media", "codec", "record", "change",
    "model", "manifest", "setting", "address", "answer", "token", "claims", "key set",
]  # fmt: skip


def test_every_target_has_a_round(known):
    assert list(known) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_good_examples_pass(known, name):
    for example in known[name].corpus:
        known[name].check(example)


@pytest.mark.parametrize("name", NAMES)
def test_a_round(known, name):
    tally = fuzz.Tally()
    for seed in range(CASES.get(name, 400)):
        fuzz.play(known[name], seed, tally)
    assert not tally.findings
    assert tally.cases == CASES.get(name, 400)


def test_media_comes_through_to_the_frames():
    media = fuzz.Media()
    try:
        for example in fuzz._datagrams():
            media.rtp(example)
        assert media.frames > 6
    finally:
        media.close()


def test_a_finding_is_found_again_by_its_seed():
    def check(data):
        assert b"\xff" not in data

    target, tally = fuzz.Target("odd", [bytes(50)], check), fuzz.Tally()
    for seed in range(200):
        fuzz.play(target, seed, tally)
    first = tally.findings[0]
    again = fuzz.Tally()
    fuzz.play(target, first.seed, again)
    assert [finding.case for finding in again.findings] == [first.case]
