"""Key sets: what is read, what is refused, and how a set is followed while it changes."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from pipeline.errors import UsageError
from services.identity import following
from services.identity.following import FileKeys, UrlKeys, follow
from services.identity.keys import MAX_BYTES, parse
from tests.services.identity.tokens import Issuer, ManualClock

NEVER_S = 3600
"""The test itself says when to look."""


def jwk(kind, key, **members):
    return json.loads(kind.to_jwk(key)) | {"kid": "k"} | members


def rsa_jwk(bits=2048, **members):
    return jwk(RSAAlgorithm, rsa.generate_private_key(65537, bits).public_key(), **members)


def ed_jwk(**members):
    return jwk(OKPAlgorithm, ed25519.Ed25519PrivateKey.generate().public_key(), **members)


def ec_jwk(curve=ec.SECP256R1, **members):
    return jwk(ECAlgorithm, ec.generate_private_key(curve()).public_key(), **members)


def read(*keys):
    return parse(json.dumps({"keys": keys}).encode())


def test_each_key_has_the_one_algorithm_of_its_type():
    keys = read(ed_jwk(kid="a"), ec_jwk(kid="b", alg="ES256", use="sig"), rsa_jwk(kid="c"))
    assert {k.kid: k.algorithm for k in keys.values()} == {"a": "EdDSA", "b": "ES256", "c": "RS256"}


def test_keys_for_other_ends_are_left_out():
    others = (
        ec_jwk(ec.SECP384R1, kid="p384"),
        rsa_jwk(kid="enc", use="enc"),
        rsa_jwk(kid="ps", alg="PS256"),
        {"kty": "new", "kid": "new"},
        {"kty": ["OKP"], "crv": {}, "kid": "odd"},
    )
    assert list(read(*others, ed_jwk(kid="ours"))) == ["ours"]
    with pytest.raises(UsageError, match="no key that can check tokens"):
        read(*others)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b"[]", "RFC 7517"),
        (b'{"keys": {}}', "RFC 7517"),
        (b'{"keys": [1]}', "RFC 7517"),
        (b'{"keys": []}', "demeanor token keys"),
        (b" " * (MAX_BYTES + 1), "longer than"),
    ],
)
def test_what_is_no_set(data, words):
    with pytest.raises(UsageError, match=words):
        parse(data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: [ed_jwk(d="AAAA")], "private"),
        (lambda: [ed_jwk(), {"kty": "oct", "k": "AAAA", "kid": "s"}], "secret"),
        (lambda: [rsa_jwk(1024)], "has 1024 bits"),
        (lambda: [ed_jwk(kid=None)], "'kid'"),
        (lambda: [ed_jwk(kid="a b")], "'kid'"),
        (lambda: [ed_jwk(x="AA")], "cannot be read"),
        (lambda: [ec_jwk(x="AA", y="AA")], "cannot be read"),
        (lambda: [ed_jwk(), ed_jwk()], "two keys"),
        (lambda: [ed_jwk(kid=str(n)) for n in range(65)], "more than 64"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        read(*make())


async def test_a_file_is_read_again_when_it_changes(tmp_path):
    issuer = Issuer(tmp_path)
    first = issuer.kid
    async with FileKeys(issuer.jwks, poll_s=0.02) as keys:
        key = keys.find(first)
        second = issuer.add()
        async with asyncio.timeout(20):
            while keys.find(second) is None:
                await asyncio.sleep(0.02)
        assert keys.find(first) is key
        issuer.remove(first)
        async with asyncio.timeout(20):
            while keys.find(first) is not None:
                await asyncio.sleep(0.02)


async def test_a_bad_file_changes_nothing_and_is_counted(tmp_path):
    issuer = Issuer(tmp_path)
    async with FileKeys(issuer.jwks, poll_s=NEVER_S) as keys:
        for spoil in (lambda: issuer.jwks.write_text("{"), issuer.jwks.unlink):
            spoil()
            await keys.refresh()
            assert keys.find(issuer.kid) is not None
        assert keys.statistics()["key_failures_total"] == 2
        new = issuer.add()
        await keys.refresh()
        assert keys.find(new) is not None
        assert keys.statistics() == {"keys": 2, "key_readings_total": 2, "key_failures_total": 2}
        await keys.refresh()
        assert keys.statistics()["key_readings_total"] == 2


async def test_a_fault_of_ours_is_not_the_last_reading(tmp_path, monkeypatch):
    issuer = Issuer(tmp_path)
    real = following.parse

    def broken(data, known):
        monkeypatch.setattr(following, "parse", real)
        raise RuntimeError("a fault of ours")

    async with FileKeys(issuer.jwks, poll_s=0.02) as keys:
        monkeypatch.setattr(following, "parse", broken)
        issuer.add()
        async with asyncio.timeout(20):
            while not keys.statistics()["key_failures_total"]:
                await asyncio.sleep(0.02)
        async with asyncio.timeout(20):
            while keys.find(issuer.kid) is None:  # the same file, looked at again
                await asyncio.sleep(0.02)


async def test_a_link_that_is_turned_to_another_file_is_a_change(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    old, new = Issuer(folders[0]), Issuer(folders[1])
    new.add(kid="new")
    link = tmp_path / "jwks.json"
    link.symlink_to(old.jwks)
    async with FileKeys(link, poll_s=NEVER_S) as keys:
        link.unlink()
        link.symlink_to(new.jwks)
        await keys.refresh()
        assert keys.find("new") is not None


@pytest.mark.parametrize("text", [None, "", "{}"])
async def test_a_server_does_not_start_on_bad_keys(tmp_path, text):
    path = tmp_path / "jwks.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=r"--token-keys.*jwks\.json"):
        await FileKeys(path).__aenter__()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("http://keys.example/jwks", "https://"),
        ("ftp://127.0.0.1/jwks", "https://"),
        ("https://keys.example/jwks", "--token-key-hosts keys.example"),
        ("https://u:p@good.example/jwks", "no password"),
        ("https://good.example.evil.example/", "--token-key-hosts good.example.evil.example"),
        ("https:///jwks", "names the host ''"),
    ],
)
def test_addresses_that_are_not_allowed(where, words):
    with pytest.raises(UsageError, match=words):
        follow(where, ["good.example"], ManualClock())


def test_addresses_that_are_allowed(tmp_path):
    clock = ManualClock()
    assert isinstance(follow("https://Good.example/jwks", ["good.example"], clock), UrlKeys)
    assert isinstance(follow(str(tmp_path / "jwks.json"), [], clock), FileKeys)


class Host:
    """A key server on loopback; ``answer`` makes its response."""

    def __init__(self, issuer):
        self.issuer = issuer
        self.asked = 0
        self.answer = self.good

    def good(self):
        return web.Response(body=self.issuer.jwks.read_bytes(), content_type="application/json")

    async def handle(self, request):
        self.asked += 1
        return self.answer()


@asynccontextmanager
async def hosted(issuer, clock):
    host = Host(issuer)
    app = web.Application()
    app.router.add_get("/jwks", host.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        keys = follow(f"http://127.0.0.1:{runner.addresses[0][1]}/jwks", ["127.0.0.1"], clock)
        yield host, keys
    finally:
        await runner.cleanup()


async def test_an_address_is_fetched_again_when_a_key_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(following, "AGAIN_S", 0.05)
    issuer = Issuer(tmp_path)
    async with hosted(issuer, ManualClock()) as (host, keys), keys:
        new = issuer.add()
        assert host.asked == 1
        for _ in range(50):  # many tokens of the new key are one reason to ask
            assert keys.find(new) is None
            keys.missed()
        async with asyncio.timeout(20):
            while keys.find(new) is None:
                await asyncio.sleep(0.02)
        assert host.asked == 2


async def test_old_keys_outlive_an_outage_of_the_key_server_but_not_an_hour(tmp_path):
    issuer, clock = Issuer(tmp_path), ManualClock()
    async with hosted(issuer, clock) as (host, keys), keys:
        for answer in (
            lambda: web.Response(status=500),
            lambda: web.Response(text="no keys"),
            lambda: web.Response(status=302, headers={"Location": "/jwks"}),
            lambda: web.Response(body=b" " * (MAX_BYTES + 1)),
        ):
            host.answer = answer
            await keys.refresh()
            assert keys.find(issuer.kid) is not None
        assert host.asked == 5
        assert keys.statistics()["key_failures_total"] == 4
        clock.now_s = 3599
        assert keys.find(issuer.kid) is not None
        clock.now_s = 3601
        assert keys.find(issuer.kid) is None
        host.answer = host.good
        await keys.refresh()
        assert keys.find(issuer.kid) is not None


async def test_a_server_does_not_start_without_the_key_server(tmp_path):
    async with hosted(Issuer(tmp_path), ManualClock()) as (host, keys):
        host.answer = lambda: web.Response(status=404)
        with pytest.raises(UsageError, match=r"--token-keys: http://.*HTTP 404"):
            await keys.__aenter__()
    with pytest.raises(UsageError, match="cannot be fetched"):
        await follow("http://127.0.0.1:9/jwks", ["127.0.0.1"], ManualClock()).__aenter__()


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.lists(st.text(max_size=3))
)
"""What a member of a JSON object may be instead."""


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_a_set_holds_it_is_read_or_refused_in_words(data):
    key = dict(data.draw(st.sampled_from(SAMPLES)))
    names = [*key, "use", "alg", "key_ops", "x5c", "crv"]
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        key[name] = data.draw(odd)
    with suppress(UsageError):  # and nothing else
        assert len(read(key)) == 1


SAMPLES = [ed_jwk(), ec_jwk(), rsa_jwk()]
