"""A server that cannot be the bus is refused with a sentence that says what to set."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from pipeline.errors import BusError, UsageError
from services.bus import open as opening
from services.bus import server
from services.bus.open import open_bus
from services.bus.redis import RedisBus
from services.bus.server import in_the_open, version_of, where
from services.settings import Settings
from tests.services.events import KEY, records
from tests.services.valkey import PASSWORD


@asynccontextmanager
async def fake(hello):
    """Speak just enough of the protocol to say what kind of server this is."""

    async def serve(reader, writer):
        while data := await reader.read(4096):
            for _ in range(data.count(b"HELLO")):
                writer.write(hello)
            for _ in range(data.count(b"PING")):
                writer.write(b"+PONG\r\n")
            for _ in range(data.count(b"SETINFO")):
                writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def hello(**fields):
    lines = [f"*{2 * len(fields)}"]
    for name, value in fields.items():
        lines += [f"${len(name)}", name, f"${len(value)}", value]
    return ("\r\n".join(lines) + "\r\n").encode()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (hello(server="redis", version="6.2.14", mode="standalone"), "needs redis >= 7.0"),
        (hello(server="valkey", version="7.2.5", mode="standalone"), "needs valkey >= 8.0"),
        (hello(server="redis", version="7.4.0", mode="cluster"), "node of a Cluster"),
        (hello(server="redis", version="7.4.0", mode="standalone", role="replica"), "a replica"),
        (b"-ERR unknown command 'HELLO'\r\n", "Redis >= 7.0"),
        (b"-NOAUTH Authentication required.\r\n", "DEMEANOR_REDIS_URL=redis://USER@HOST"),
    ],
)
async def test_server_that_will_not_do(answer, words):
    async with fake(answer) as url:
        with pytest.raises(UsageError, match=words) as refused:
            async with RedisBus.at(url):
                pass
    assert str(refused.value).startswith(url)


async def test_server_new_enough_is_named():
    async with (
        fake(hello(server="redis", version="7.0.0", mode="standalone", role="master")) as url,
        RedisBus.at(url) as bus,
    ):
        assert bus.name == "redis 7.0"


async def test_wrong_password(valkey):
    with pytest.raises(UsageError, match="refused the user or password") as refused:
        async with RedisBus.at(f"unix://:wrong-one@{valkey.socket}"):
            pass
    assert "wrong-one" not in str(refused.value)


async def test_no_password(valkey):
    with pytest.raises(UsageError, match="DEMEANOR_REDIS_URL"):
        async with RedisBus.at(f"unix://{valkey.socket}"):
            pass


async def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BusError, match=f"no Redis answers at redis://127.0.0.1:{port}") as refused:
        async with RedisBus.at(f"redis://user:secret@127.0.0.1:{port}"):
            pass
    assert refused.value.retryable
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://host:port"])
async def test_address_that_is_none(url):
    with pytest.raises(UsageError, match="set DEMEANOR_REDIS_URL to redis://HOST:6379"):
        async with RedisBus.at(url):
            pass


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "password=x", "ssl_check_hostname=0"])
async def test_an_option_in_the_address_is_refused(option):
    with pytest.raises(UsageError, match="no option but db"):
        async with RedisBus.at(f"rediss://127.0.0.1?{option}"):
            pass


@pytest.mark.parametrize(
    ("url", "alone"),
    [
        ("redis://192.0.2.1:6379", True),
        ("redis://redis.example", True),
        ("redis://[2001:db8::1]:6379", True),
        ("redis://127.0.0.2", False),
        ("redis://[::1]:6379", False),
        ("redis://localhost", False),
        ("redis://", False),
        ("rediss://192.0.2.1", False),
        ("unix:///run/redis.sock", False),
    ],
)
def test_what_leaves_the_machine_without_tls(url, alone):
    assert in_the_open(url) is alone


async def test_a_connection_in_the_open_is_told_of(valkey, monkeypatch):
    monkeypatch.setattr(server, "in_the_open", lambda _url: True)
    with capture_logs() as told:
        async with open_bus(Settings(redis_url=valkey.url)):
            pass
    assert ["without TLS" in line["event"] for line in told] == [True]


def test_where_hides_who():
    assert where("rediss://me:secret@host:7000/2?timeout=5") == "rediss://host:7000/2"
    assert where("unix://:secret@/run/bus.sock?db=0") == "unix:///run/bus.sock"
    assert where(":secret@host?x=1") == "host"
    assert where("redis://me:secret@[::1") == "redis://[::1"
    assert where("redis://me:secret") == "redis://me"
    assert where("redis://me:se#cr?et@host:1/0") == "redis://host:1/0"
    assert where("redis://me:9secret") == "redis://me"


def test_versions():
    assert version_of("9.1.2") == (9, 1)
    assert version_of("7.0") == (7, 0)


async def test_open_picks_the_server_it_was_told(valkey):
    async with open_bus(Settings(redis_url=valkey.url)) as opened:
        assert opened.description.startswith("valkey 9.")
        assert "for-tests" not in opened.description
        assert await opened.bus.ping() > 0


@pytest.fixture
def secret(tmp_path):
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    return file


async def test_the_password_comes_from_a_file(valkey, secret):
    settings = Settings(redis_url=f"unix://{valkey.socket}", redis_password_file=secret)
    async with open_bus(settings) as opened:
        assert PASSWORD not in opened.description
        assert await opened.bus.ping() > 0


async def test_two_passwords_are_one_too_many(valkey, secret):
    with pytest.raises(UsageError, match="both give a password"):
        async with open_bus(Settings(redis_url=valkey.url, redis_password_file=secret)):
            pass


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"\n", "is empty"), (b"\xff", "not UTF-8")]
)
async def test_a_password_file_that_holds_none(valkey, tmp_path, content, words):
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    settings = Settings(redis_url=f"unix://{valkey.socket}", redis_password_file=file)
    with pytest.raises(UsageError, match=words):
        async with open_bus(settings):
            pass


async def test_a_server_that_writes_to_disk_is_told_of(valkey):
    def lines(logs):
        return [line for line in logs if "writes to disk" in line["event"]]

    with capture_logs() as quiet:
        async with open_bus(Settings(redis_url=valkey.url)) as opened:
            await opened.bus._client.config_set("save", "3600 1")
    with capture_logs() as told:
        async with open_bus(Settings(redis_url=valkey.url)) as opened:
            await opened.bus._client.config_set("save", "")
    assert (len(lines(quiet)), len(lines(told))) == (0, 1)


async def test_open_memory():
    async with open_bus(Settings(redis_url="memory://")) as opened:
        assert opened.description == "memory (this process only)"
        await opened.bus.append(KEY, records(0, 0))


async def test_open_without_any_program_says_so(monkeypatch):
    monkeypatch.setattr(opening.binary, "find", lambda: None)
    async with open_bus(Settings()) as opened:
        assert opened.embedded is None
        assert "set DEMEANOR_REDIS_URL" in opened.description
