"""Every fine reason has a place on the wire."""

from typing import get_args

import pytest

from pipeline.events import WireSkip
from pipeline.reasons import LACKS_EVIDENCE, WIRE
from pipeline.types import SkipReason


def test_the_table_is_total_and_stays_within_the_wire():
    assert set(WIRE) == set(get_args(SkipReason))
    assert set(WIRE.values()) <= set(get_args(WireSkip))
    assert set(get_args(WireSkip)) >= LACKS_EVIDENCE


@pytest.mark.parametrize(
    ("wire", "fine"),
    [
        ("no_evidence", {"no_evidence"}),
        ("stale", {"superseded", "stale", "late", "unanswered"}),
        ("overload", {"overload", "draining"}),
        ("low_quality", {"low_coverage"}),
        ("policy", {"scoring_off", "consent_withdrawn"}),
        ("model_error", {"scorer_lost", "poison", "bad_output", "decoder_crash"}),
    ],
)
def test_reasons_map_as_the_protocol_says(wire, fine):
    assert {reason for reason, place in WIRE.items() if place == wire} == fine
