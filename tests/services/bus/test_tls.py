"""``rediss://``: certificate and host name are verified, whatever is wrong is one sentence.

The bundled server is built without TLS, so a relay of this test ends it in front of the real one.
"""

import asyncio
import datetime as dt
import ipaddress
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.errors import BusError, UsageError
from services.bus.open import open_bus
from services.clock import SystemClock
from services.settings import Settings
from tests.services.events import KEY, records, seqs
from tests.services.valkey import PASSWORD, Valkey

DAY = dt.timedelta(days=1)


@dataclass
class Authority:
    """Signs certificates for a test."""

    folder: Path
    name: str

    def __post_init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._signed(self.name, self.key.public_key(), None)
        self.file = self.folder / f"{self.name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _signed(self, name, public, address):
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.fromtimestamp(SystemClock().wall_ms() / 1000, dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=address is None, path_length=None), True)
        )
        if address is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            made = made.add_extension(names, False)
        return made.sign(self.key, hashes.SHA256())

    def server(self, address):
        """Return a context with a certificate for one address."""
        key = ec.generate_private_key(ec.SECP256R1())
        file = self.folder / f"{self.name}-{address}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + self._signed("redis", key.public_key(), address).public_bytes(
                serialization.Encoding.PEM
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@asynccontextmanager
async def relay(context, valkey):
    """Pass bytes between TLS on 127.0.0.1 and the server's socket; yields the port."""

    async def one_way(reader, writer):
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        busy.add(asyncio.current_task())
        inner = await asyncio.open_unix_connection(valkey.socket)
        await asyncio.gather(one_way(reader, inner[1]), one_way(inner[0], writer))
        for side in (writer, inner[1]):
            with suppress(OSError):
                await side.wait_closed()

    busy = set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
    async with asyncio.timeout(20):
        await asyncio.gather(*busy)
        while server._active_count:  # handshakes that failed are taken down a little later
            await asyncio.sleep(0.01)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ours")


@pytest.fixture(scope="module")
def valkey():
    server = Valkey().start()
    yield server
    server.close()


@pytest.fixture
def password(tmp_path):
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    return file


@asynccontextmanager
async def opened(port, password, *, scheme="rediss", **settings):
    url = f"{scheme}://127.0.0.1:{port}"
    async with open_bus(Settings(redis_url=url, redis_password_file=password, **settings)) as found:
        yield found


async def test_the_bus_works_over_tls(authority, valkey, password):
    async with (
        relay(authority.server("127.0.0.1"), valkey) as port,
        opened(port, password, redis_ca=authority.file) as found,
        found.bus.subscribe() as feed,
    ):
        assert found.description.endswith(f" at rediss://127.0.0.1:{port}")
        await feed.add(KEY)
        await found.bus.append(KEY, records(0, 2))
        assert seqs((await found.bus.replay(KEY, 1000, -1)).records) == [0, 1, 2]
        assert (await asyncio.wait_for(anext(aiter(feed)), 20))[1].header.seq == 0


@pytest.mark.parametrize(
    ("signer", "address", "words"),
    [
        ("theirs", "127.0.0.1", "cannot prove who it is"),
        ("ours", "127.0.0.2", "cannot prove who it is .*127.0.0.1"),
    ],
)
async def test_a_server_that_cannot_prove_who_it_is(
    tmp_path, authority, valkey, password, signer, address, words
):
    signed_by = authority if signer == "ours" else Authority(tmp_path, signer)
    async with relay(signed_by.server(address), valkey) as port:
        with pytest.raises(UsageError, match=words):
            async with opened(port, password, redis_ca=authority.file):
                pass


async def test_the_authorities_of_the_system_do_not_know_it(authority, valkey, password):
    async with relay(authority.server("127.0.0.1"), valkey) as port:
        with pytest.raises(UsageError, match="set DEMEANOR_REDIS_CA"):
            async with opened(port, password):
                pass


async def test_a_redis_without_tls_keeps_silent(authority, valkey, password):
    async with relay(None, valkey) as port:
        with pytest.raises(BusError, match="or does it speak no TLS"):
            async with opened(port, password, redis_ca=authority.file):
                pass


async def test_a_server_that_speaks_something_else(authority, password):
    async def serve(reader, writer):
        await reader.read(100)
        writer.write(b"-ERR what was that?\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with pytest.raises(UsageError, match="speaks no TLS that can be used"):
            async with opened(
                server.sockets[0].getsockname()[1], password, redis_ca=authority.file
            ):
                pass


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"no certificate", "holds no PEM certificate")]
)
async def test_an_authority_that_is_none(tmp_path, password, content, words):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        async with opened(1, password, redis_ca=file):
            pass


async def test_an_authority_without_tls(authority, password):
    with pytest.raises(UsageError, match="needs TLS: set DEMEANOR_REDIS_URL to rediss://"):
        async with opened(1, password, scheme="redis", redis_ca=authority.file):
            pass
