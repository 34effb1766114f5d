from hypothesis import given
from hypothesis import strategies as st

from pipeline.ids import derived, ulid

MOMENT = st.integers(0, 2**48 - 1)
ENTROPY = st.binary(min_size=10, max_size=10)


def test_known_value() -> None:
    # ulid/spec: the largest valid ULID
    assert ulid(2**48 - 1, b"\xff" * 10) == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
    assert ulid(0, bytes(10)) == "0" * 26


@given(MOMENT, MOMENT, ENTROPY, ENTROPY)
def test_sorts_by_time(one: int, other: int, a: bytes, b: bytes) -> None:
    if one < other:
        assert ulid(one, a) < ulid(other, b)


def test_derived_ids_repeat_and_differ() -> None:
    assert derived("evt_", 5, "ses_a", 1) == derived("evt_", 5, "ses_a", 1)
    assert derived("evt_", 5, "ses_a", 1) != derived("evt_", 5, "ses_a", 2)
    assert derived("evt_", 5, "a", "b") != derived("evt_", 5, "ab")
