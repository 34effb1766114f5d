"""TLS by file: what is refused before anything listens, and what two ends agree on."""

import ssl

import pytest

from pipeline.errors import UsageError
from services.clock import SystemClock
from services.tls import client_context, server_context
from tests.services.certificates import Authority

CLOCK = SystemClock()


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def shake(server, client, name="localhost"):
    """Let two ends shake hands in memory; returns the client's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    far = server.wrap_bio(to_server, to_client, server_side=True)
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    done = False
    for _ in range(10):
        for end in (near, far):
            try:
                end.do_handshake()
                done = end is far
            except ssl.SSLWantReadError:
                pass
        if done:
            return near
    raise AssertionError("no handshake")


def test_without_files_there_is_no_tls():
    assert server_context(None, None, CLOCK) is None


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_client_with_the_authority_gets_through(authority, name):
    server = server_context(*authority.server(), CLOCK)
    assert shake(server, client_context(authority.ca), name).version() == "TLSv1.3"


def test_a_client_without_it_or_with_another_name_does_not(authority):
    server = server_context(*authority.server(), CLOCK)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client_context(None))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client_context(authority.ca), "example.org")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_refused(authority):
    server = server_context(*authority.server(), CLOCK)
    old = client_context(authority.ca)
    old.minimum_version = ssl.TLSVersion.TLSv1_1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(server, old)


def _other_key(authority):
    return authority.server()[0], authority.server("other")[1]


def _no_key(authority):
    cert, key = authority.server()
    key.write_text("no key")
    return cert, key


def _no_cert(authority):
    cert, key = authority.server()
    cert.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return cert, key


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda a: (a.server()[0], None), "go together"),
        (lambda a: (None, a.server()[1]), "go together"),
        (lambda a: (a.folder / "none.pem", a.server()[1]), "--tls-cert: .*none.pem cannot be read"),
        (lambda a: (a.server()[0], a.folder / "none.key"), "--tls-key: .*none.key cannot be read"),
        (lambda a: a.server(days=(-3, -1)), "expired on .*: renew it"),
        (lambda a: a.server(days=(1, 2)), "check the clock"),
        (lambda a: a.server(password=b"secret"), "needs a password"),
        (_other_key, "is not the key of"),
        (_no_key, "no PEM file of a private key"),
        (_no_cert, "no PEM file of certificates"),
    ],
)
def test_files_that_cannot_be_used(authority, make, words):
    with pytest.raises(UsageError, match=words):
        server_context(*make(authority), CLOCK)


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_an_authority_that_cannot_be_used(tmp_path, text):
    ca = tmp_path / "ca.pem"
    if text is not None:
        ca.write_text(text)
    with pytest.raises(UsageError, match=r"--ca: .*ca\.pem"):
        client_context(ca)
