"""Well-formed nonsense: the right grammar with values of any kind, where flipped bits never get."""

import json
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.auth import Unauthorised
from services.identity.claims import Expected, principal
from tests.chaos import fuzz
from tests.services.ingest.test_sdp import AUDIO, HEAD, VIDEO

SOME = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
GOOD_CLAIMS = {
    "aud": "demeanor", "exp": 1_700_003_600, "jti": "j", "tenant": "acme", "scope": "read:*",
    "part_role": "customer", "sub": "s", "nbf": 1, "mixed": False, "context": "chatbot",
    "takeover": False, "policy": "p", "iss": "i",
    "consent": {"notice_version": "1", "notice_sha256": "0" * 64, "granted_ms": 1},
}  # fmt: skip


@SOME
@given(st.sampled_from(sorted(GOOD_CLAIMS)), ANYTHING)
def test_a_claim_of_any_kind(name, value):
    now_ms = 1_700_000_000_000
    assert principal(GOOD_CLAIMS, Expected("demeanor", None), now_ms).tenant == "acme"
    with suppress(Unauthorised):
        principal(GOOD_CLAIMS | {name: value}, Expected("demeanor", None), now_ms)


@SOME
@given(
    st.sampled_from(["auth", "subscribe", "resume", "unsubscribe", "ping", "pong"]),
    st.dictionaries(
        st.sampled_from(
            ["token", "id", "sessions", "events", "roles", "max_hz", "since", "subscribe", "x"]
        ),
        ANYTHING,
        max_size=4,
    ),
)
def test_a_message_of_any_fields(kind, fields):
    fuzz.message(json.dumps({"type": kind} | fields).encode())


LINES = [*HEAD, *AUDIO, *VIDEO]


@SOME
@given(
    st.lists(
        st.sampled_from(LINES)
        | st.builds("a={}:{}".format, st.sampled_from(["mid", "rtpmap", "fmtp", "ssrc", "setup"]),
                    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30)),
        max_size=60,
    ),
    st.booleans(),
)  # fmt: skip
def test_lines_of_sdp_in_any_order(lines, head):
    text = "\r\n".join([*(HEAD if head else ["v=0"]), *lines, ""])
    fuzz.offer(text.encode())
    fuzz.fragment(text.encode())


@SOME
@given(st.data())
def test_a_setting_of_any_value(data):
    from pydantic import ValidationError

    from services.settings import Settings

    name = data.draw(st.sampled_from(sorted(Settings.model_fields)))
    value = data.draw(ANYTHING)
    with suppress(ValidationError):
        Settings.model_validate({name: value})


@pytest.fixture(scope="module")
def media():
    made = fuzz.Media()
    yield made
    made.close()


@SOME
@given(
    packets=st.lists(
        st.tuples(
            st.sampled_from([96, 97, 103, 111, 9, 35, 127]),
            st.sampled_from([1111, 2222, 3333, 7]) | st.integers(0, 2**32 - 1),
            st.integers(0, 65535),
            st.sampled_from([b"\x10", b"\x90\x80\x80", b"\x7c\x85", b"\x78\x00\x02\x67\x42", b""]),
            st.binary(max_size=60),
            st.integers(0, 1),
        ),
        max_size=12,
    )
)
def test_packets_of_any_payload(media, packets):
    from aiortc.rtp import RtpPacket

    case = b""
    for payload_type, ssrc, number, head, rest, mark in packets:
        packet = RtpPacket(
            payload_type=payload_type, marker=mark, sequence_number=number,
            timestamp=number * 3000, ssrc=ssrc, payload=head + rest,
        )  # fmt: skip
        datagram = packet.serialize()
        case += len(datagram).to_bytes(2, "big") + datagram
    media.rtp(case)
