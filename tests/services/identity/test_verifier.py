"""Tokens: what a good one stands for, and every way in which one is refused."""

import base64
import hashlib
import hmac
import json
from contextlib import suppress

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from services.auth import Consent, Guard, Principal, Unauthorised
from services.bus.memory import MemoryBus
from services.identity import verifier as module
from services.identity.claims import Expected
from services.identity.following import FileKeys
from services.identity.keys import parse
from services.identity.revocation import Revocations, order_name
from services.identity.verifier import JwtVerifier
from services.orders import Orders
from tests.services.identity.tokens import Issuer, ManualClock


class Fixed:
    """Keys that lie in memory."""

    def __init__(self, issuer):
        self.keys = {}
        self.issuer = issuer
        self.misses = 0
        self.read()

    def read(self):
        self.keys = parse(self.issuer.jwks.read_bytes(), self.keys)

    def find(self, kid):
        return self.keys.get(kid)

    def missed(self):
        self.misses += 1

    def statistics(self):
        return {"keys": len(self.keys)}


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def issuer(tmp_path, clock):
    return Issuer(tmp_path, clock=clock)


@pytest.fixture
def verifier(issuer, clock):
    return JwtVerifier(Fixed(issuer), Expected("demeanor", "tests"), clock)


def refused(verifier, token, words=""):
    before = verifier.statistics()["refused_tokens_total"]
    with pytest.raises(Unauthorised) as caught:
        verifier.verify(token)
    sentence = str(caught.value)
    assert words in sentence, sentence
    assert len(sentence.splitlines()) == 1
    assert 15 < len(sentence) < 250
    for part in str(token).split("."):
        assert len(part) < 8 or part not in sentence
    assert verifier.statistics()["refused_tokens_total"] == before + 1
    return sentence


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_what_a_good_token_stands_for(tmp_path, clock, algorithm):
    issuer = Issuer(tmp_path, algorithm, clock=clock)
    verifier = JwtVerifier(Fixed(issuer), Expected("demeanor", None), clock)
    expires_s = clock.wall_ms() // 1000 + 60
    token = issuer.token(
        iss=None,
        jti="jti-7",
        sub="op-4711",
        exp=expires_s,
        nbf=expires_s - 60,
        aud=["other", "demeanor"],
        scope="ingest:cam ingest:cam2 read:ses_1 admin openid crm:write",
        policy="eu-strict",
        context="customer_call",
        mixed=True,
        takeover=True,
        consent={
            "notice_version": "3.1",
            "notice_sha256": "0" * 64,
            "granted_ms": 1_700_000_000_000,
            "release": True,
        },
        unknown={"claims": "are ignored"},
    )
    assert verifier.verify(token) == Principal(
        tenant="acme",
        role="customer",
        token_id="jti-7",
        subject="op-4711",
        ingest=frozenset({"cam", "cam2"}),
        read=frozenset({"ses_1"}),
        rights=frozenset({"admin"}),
        expires_s=expires_s,
        takeover=True,
        context="customer_call",
        mixed=True,
        consent=Consent("3.1", "0" * 64, 1_700_000_000_000, release=True),
        policy="eu-strict",
    )


def test_a_reader_needs_no_role_and_a_holder_no_name(issuer, verifier):
    found = verifier.verify(issuer.token(scope="read:*", part_role=None))
    assert found.role == "unknown"
    assert found.subject == found.token_id
    assert found.read == frozenset({"*"})
    assert not found.may_publish("cam")


def _spelt(header, payload, signature=b""):
    parts = (header, payload, signature)
    raw = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in parts]
    return ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in raw)


def _hmac_with_public_key(issuer):
    """The old confusion: the public key, which all may know, as the secret of HS256."""
    pem = issuer.private[issuer.kid].public_key()
    secret = pem.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    unsigned = _spelt({"alg": "HS256", "kid": issuer.kid}, issuer.claims()).rsplit(".", 1)[0]
    signature = hmac.digest(secret, unsigned.encode(), hashlib.sha256)
    return unsigned + "." + base64.urlsafe_b64encode(signature).rstrip(b"=").decode()


def _unsigned(issuer):
    return _spelt({"alg": "none", "kid": issuer.kid}, issuer.claims())


def _none_with_signature(issuer):
    return _spelt({"alg": "none", "kid": issuer.kid}, issuer.claims(), b"x")


def _by_a_stranger(issuer):
    """Signed with a key of the right name that is not the one in the set."""
    real = issuer.private[issuer.kid]
    issuer.private[issuer.kid] = ed25519.Ed25519PrivateKey.generate()
    try:
        return issuer.token()
    finally:
        issuer.private[issuer.kid] = real


def _other_spelling(issuer):
    """The same bytes: base64 leaves bits of the last character unused."""
    token = issuer.token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


BAD_TOKENS = {
    "one word": (lambda _: "garbage", "no token of this server"),
    "dots": (lambda _: "..", "no token of this server"),
    "no JSON": (lambda _: "abcd.abcd.abcd", "no token of this server"),
    "a list as header": (lambda _: _spelt([], {}, b"x"), "no token of this server"),
    "deep header": (lambda _: _spelt(b"[" * 1500, {}, b"x"), "no token of this server"),
    "letters of elsewhere": (lambda i: i.token() + "é", "no token of this server"),
    "half a character": (lambda _: "\udcff", "no token of this server"),
    "a blank": (lambda i: " " + i.token(), "no token of this server"),
    "padded": (lambda i: i.token() + "==", "no token of this server"),
    "another spelling": (_other_spelling, "no token of this server"),
    "1 MB": (lambda _: "a" * 1_000_000, "longer than 3000"),
    "1 MB with dots": (lambda i: i.token(more="a" * 1_000_000), "longer than 3000"),
    "alg=none": (_unsigned, "no token of this server"),
    "alg=none, signed": (_none_with_signature, "signed with EdDSA"),
    "HS256 with the public key": (_hmac_with_public_key, "signed with EdDSA"),
    "no kid": (lambda i: _spelt({"alg": "EdDSA"}, {}, b"x"), "names no key"),
    "kid is a number": (lambda i: _spelt({"alg": "EdDSA", "kid": 7}, {}, b"x"), "names no key"),
    "unknown kid": (lambda i: i.token(header={"kid": "other"}), "not known here"),
    "crit": (lambda i: i.token(header={"crit": ["exp"]}), "'crit'"),
    "a stranger's": (_by_a_stranger, "signature"),
    "claims are no object": (lambda i: _signed(i, b"[]"), "signature"),
    "claims are no JSON": (lambda i: _signed(i, b"\xff"), "signature"),
}


def _signed(issuer, payload):
    return jwt.api_jws.encode(
        payload, issuer.private[issuer.kid], algorithm="EdDSA", headers={"kid": issuer.kid}
    )


@pytest.mark.parametrize(("make", "words"), BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_bad_tokens(issuer, verifier, make, words):
    refused(verifier, make(issuer), words)


NOW = 1_700_000_000
BAD_CLAIMS = [
    ({"exp": None}, "'exp'"),
    ({"exp": "soon"}, "'exp'"),
    ({"exp": True}, "'exp'"),
    ({"exp": -1}, "'exp'"),
    ({"exp": float("nan")}, "'exp'"),
    ({"exp": NOW - 5}, "expired"),
    ({"exp": NOW + 24 * 3600 + 6}, "at most 24 hours"),
    ({"nbf": NOW + 6}, "not valid yet"),
    ({"nbf": "later"}, "'nbf'"),
    ({"aud": None}, "'aud' = 'demeanor'"),
    ({"aud": "demeanor2"}, "'aud' = 'demeanor'"),
    ({"aud": ["a", {"b": 1}]}, "'aud' = 'demeanor'"),
    ({"iss": None}, "not from 'tests'"),
    ({"iss": "Tests"}, "not from 'tests'"),
    ({"iss": ["tests"]}, "not from 'tests'"),
    ({"jti": None}, "'jti'"),
    ({"jti": ""}, "'jti'"),
    ({"jti": "dev"}, "its own jti"),
    ({"jti": "a/b"}, "'jti'"),
    ({"jti": "x" * 129}, "'jti'"),
    ({"tenant": None}, "'tenant'"),
    ({"tenant": "a:b"}, "tenant"),
    ({"tenant": "*"}, "tenant"),
    ({"tenant": "a" * 65}, "tenant"),
    ({"tenant": "acmé"}, "tenant"),
    ({"tenant": "a\r\n"}, "tenant"),
    ({"tenant": "0170-1234567"}, "phone"),
    ({"scope": None}, "'scope'"),
    ({"scope": ["ingest:cam"]}, "'scope'"),
    ({"scope": "ingest:*"}, "ingest:STREAM"),
    ({"scope": "ingest:"}, "ingest:STREAM"),
    ({"scope": "ingest:a.b"}, "ingest:STREAM"),
    ({"scope": "ingest:+49-170-1234567"}, "ingest:STREAM"),
    ({"scope": "read:"}, "read:"),
    ({"scope": "read:ses_*"}, "read:"),
    ({"part_role": None}, "'part_role'"),
    ({"part_role": "king"}, "'part_role'"),
    ({"part_role": ["self"]}, "'part_role'"),
    ({"sub": "anna@example.org"}, "pseudonym"),
    ({"sub": "+49(170)1234567"}, "pseudonym"),
    ({"sub": "01701234567"}, "pseudonym"),
    ({"sub": "Anna B"}, "'sub'"),
    ({"sub": 7}, "'sub'"),
    ({"takeover": "yes"}, "'takeover'"),
    ({"mixed": 1}, "'mixed'"),
    ({"context": "party"}, "'context'"),
    ({"policy": "a b"}, "policy"),
    ({"consent": "yes"}, "'consent'"),
    ({"consent": {}}, "'notice_version'"),
    ({"consent": {"notice_version": "1", "notice_sha256": "x"}}, "'notice_sha256'"),
    (
        {"consent": {"notice_version": "1", "notice_sha256": "0" * 64, "granted_ms": "now"}},
        "'granted_ms'",
    ),
]


@pytest.mark.parametrize(("claims", "words"), BAD_CLAIMS)
def test_bad_claims(issuer, verifier, claims, words):
    refused(verifier, issuer.token(**claims), words)


@pytest.mark.parametrize(
    "claims", [{"exp": NOW - 4}, {"exp": NOW + 24 * 3600}, {"nbf": NOW + 5}, {"sub": "2026-11-25"}]
)
def test_what_just_passes(issuer, verifier, claims):
    assert verifier.verify(issuer.token(**claims)).tenant == "acme"


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_one_byte_change_of_a_valid_token_is_refused(tmp_path_factory, data):
    clock = ManualClock()
    issuer = Issuer(tmp_path_factory.getbasetemp(), clock=clock)
    guard = Guard(True, JwtVerifier(Fixed(issuer), Expected("demeanor", None), clock))
    token = issuer.token()
    assert guard.principal(token, {}).tenant == "acme"
    at = data.draw(st.integers(0, len(token) - 1))
    byte = data.draw(st.integers(0, 255).map(chr).filter(lambda c: c != token[at]))
    with pytest.raises(Unauthorised):
        guard.principal(token[:at] + byte + token[at + 1 :], {})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)
CLAIMS = [
    *("iss", "aud", "exp", "nbf", "jti", "sub", "tenant", "scope", "part_role", "policy"),
    *("context", "mixed", "takeover", "consent"),
]


@settings(deadline=None, max_examples=150)
@given(claims=st.dictionaries(st.sampled_from(CLAIMS), json_values, min_size=1, max_size=4))
def test_whatever_a_signed_token_says_it_is_taken_or_refused_in_words(tmp_path_factory, claims):
    clock = ManualClock()
    issuer = Issuer(tmp_path_factory.getbasetemp(), clock=clock)
    verifier = JwtVerifier(Fixed(issuer), Expected("demeanor", None), clock)
    with suppress(Unauthorised):  # and nothing else
        found = verifier.verify(issuer.token(**claims))
        assert found.tenant
        assert NOW - 5 < found.expires_s <= NOW + 24 * 3600 + 5


def test_a_remembered_token_ends_with_its_time(issuer, verifier, clock):
    token = issuer.token(exp=NOW + 60)
    first = verifier.verify(token)
    clock.now_s = 64
    assert verifier.verify(token) is first
    assert verifier.statistics()["remembered_hits_total"] == 1
    clock.now_s = 65
    refused(verifier, token, "expired")
    assert verifier.statistics()["remembered_tokens"] == 0


def test_a_key_that_left_the_set_stops_remembered_tokens(issuer, verifier):
    old, token = issuer.kid, issuer.token()
    verifier.verify(token)
    issuer.add()
    verifier.keys.read()
    assert verifier.verify(token)
    assert verifier.verify(issuer.token())
    issuer.remove(old)
    verifier.keys.read()
    refused(verifier, token, "no longer")
    assert verifier.keys.misses == 1


def test_a_key_replaced_under_its_name_stops_remembered_tokens(issuer, verifier):
    token = issuer.token()
    verifier.verify(token)
    issuer.add(kid=issuer.kid)
    verifier.keys.read()
    refused(verifier, token, "signature")
    assert verifier.verify(issuer.token())


def test_what_is_remembered_is_bounded(issuer, verifier, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 3)
    tokens = [issuer.token() for _ in range(5)]
    for token in tokens:
        verifier.verify(token)
    verifier.verify(tokens[-1])
    now = verifier.statistics()
    assert (now["remembered_tokens"], now["remembered_evicted_total"]) == (3, 2)
    assert now["remembered_hits_total"] == 1
    assert verifier.verify(tokens[0])


async def test_revocation_reaches_other_processes_and_only_its_tenant(tmp_path, clock):
    issuer = Issuer(tmp_path, clock=clock)
    bus = MemoryBus()
    async with Orders(bus, clock) as here, Orders(bus, clock) as there, FileKeys(issuer.jwks) as k:
        verifier = JwtVerifier(k, Expected("demeanor", None), clock, Revocations(there))
        theirs, ours = issuer.token(jti="j1", tenant="acme"), issuer.token(jti="j1", tenant="bolt")
        principals = [verifier.verify(token) for token in (theirs, ours)]
        await here.give("revoked", order_name("bolt", "j1"), "", clock.wall_ms() + 3_600_000)
        await there._read()
        assert [verifier.revoked(each) for each in principals] == [False, True]
        refused(verifier, ours, "revoked")
        assert verifier.verify(theirs) == principals[0]
