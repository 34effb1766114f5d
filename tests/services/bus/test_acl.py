"""Each user may do what its service sends, and nothing else: on a real server."""

import asyncio
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError
from structlog.testing import capture_logs

from pipeline.errors import BusError, UsageError
from services.bus import acl, binary
from services.bus.embedded import EmbeddedServer
from services.bus.open import open_bus
from services.bus.redis import RedisBus
from services.bus.types import LogLost
from services.orders import Order
from services.settings import Settings
from tests.services.bus import test_contract
from tests.services.events import KEY, records, session
from tests.services.valkey import PASSWORD, Valkey

COMMITTED = Path(__file__).parents[3] / "deploy" / "redis" / "users.acl"
LOG = "demeanor:r:{default:me}"
REFUSED_TO_ALL = [
    ["PSUBSCRIBE", "demeanor:res:*"],
    ["EVAL", "return 1", "0"],
    ["FCALL", "f", "0"],
    ["SCRIPT", "LOAD", "return 1"],
    ["CONFIG", "GET", "save"],
    ["KEYS", "*"],
    ["SCAN", "0"],
    ["FLUSHALL"],
    ["FLUSHDB"],
    ["ACL", "LIST"],
    ["CLIENT", "LIST"],
    ["SHUTDOWN", "NOSAVE"],
    ["SAVE"],
    ["REPLICAOF", "127.0.0.1", "1"],
    ["MONITOR"],
    ["MULTI"],
    ["RESTORE", LOG, "0", ""],
    ["GET", LOG],
    ["XRANGE", "foreign", "-", "+"],
    ["XADD", "foreign", "1-1", "a", "b"],
    ["HGETALL", "demeanor:elsewhere"],
    ["HSET", "demeanor:live:{default}", "a", "b"],
    ["DEL", "demeanor:s:ses_1"],
    ["SUBSCRIBE", "foreign"],
    ["PUBLISH", "foreign", ""],
]
REFUSED = {
    acl.ALL_IN_ONE: [],
    "ingest": [
        ["SUBSCRIBE", "demeanor:res:{default:me}"],
        ["SUBSCRIBE", "demeanor:ctl"],
        ["HSET", "demeanor:orders", "a", "b"],
        ["HDEL", "demeanor:orders", "a"],
        ["ZRANGEBYSCORE", "demeanor:live:{default}", "-inf", "+inf"],
    ],
    "gateway": [
        ["XADD", LOG, "NOMKSTREAM", "1-1", "h", ""],
        ["XTRIM", LOG, "MAXLEN", "0"],
        ["PUBLISH", "demeanor:res:{default:me}", ""],
    ],
}


@pytest.fixture(scope="module")
def server():
    users = "\n".join(acl.line(user, f">{user}-password") for user in acl.USERS)
    valkey = Valkey(config=users).start()
    yield valkey
    valkey.close()


def url_of(server, user):
    return f"unix://{user}:{user}-password@{server.socket}"


@asynccontextmanager
async def administrator(server):
    async with aclosing(Redis.from_url(server.url)) as client:
        yield client


@pytest.fixture
async def bus(server):
    async with administrator(server) as client:
        await client.flushall()
    async with RedisBus.at(url_of(server, acl.ALL_IN_ONE)) as bus:
        yield bus


class Fault:
    """As the contract's own, with the rights of an administrator for what a bus may not do."""

    def __init__(self, server):
        self.server = server

    @asynccontextmanager
    async def outage(self):
        self.server.kill()
        yield
        await asyncio.to_thread(self.server.start)

    async def wipe(self):
        async with administrator(self.server) as client:
            await client.flushall()


@pytest.fixture
def fault(server):
    return Fault(server)


# The whole contract of the bus once more, as the user of `demeanor up`.
globals().update({name: test for name, test in vars(test_contract).items() if name[:5] == "test_"})


def test_the_committed_file_is_the_table():
    assert COMMITTED.read_text() == acl.file({}), (
        "python -m services.bus.acl > deploy/redis/users.acl"
    )


def test_a_real_server_takes_the_file_and_lets_in_only_who_has_a_password(tmp_path):
    hashed = acl._hashed(f"ingest={_secret(tmp_path)}")
    (tmp_path / "users.acl").write_text(acl.file(dict([hashed])))
    server = Valkey()
    server.config = f"aclfile {tmp_path / 'users.acl'}"

    async def knocks():
        for user in ("", *acl.USERS):
            url = f"unix://{user}{':s3cret' if user else ''}@{server.socket}"
            if user == "ingest":
                async with RedisBus.at(url):
                    continue
            with pytest.raises(UsageError, match="refused the user or password"):
                async with RedisBus.at(url):
                    pass

    try:
        _start_with_acl_file(server)
        asyncio.run(knocks())
    finally:
        server.close()


def _secret(folder):
    path = folder / "secret"
    path.write_text("s3cret\n")
    return path


def _start_with_acl_file(server):
    """A server with an ACL file takes no `requirepass`."""
    import subprocess
    import time

    config = f"port 0\nunixsocket {server.socket}\ndir {server.folder}\nsave ''\n{server.config}\n"
    server.process = subprocess.Popen(
        [server.binary.path, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    server.process.stdin.write(config.encode())
    server.process.stdin.close()
    while not server._listens():
        assert server.process.poll() is None, "the server refused the file"
        time.sleep(0.005)


async def test_nothing_dangerous_is_granted(server):
    async with administrator(server) as client:
        bad = {
            name.decode()
            for category in ("scripting", "dangerous", "admin")
            for name in await client.execute_command("ACL", "CAT", category)
        }
    granted = {c for grants in acl.USERS.values() for grant in grants for c in grant.commands}
    assert granted
    assert not granted & bad


@pytest.mark.parametrize("user", list(acl.USERS))
async def test_all_else_is_refused(server, user):
    async with aclosing(Redis.from_url(url_of(server, user))) as client:
        for command in REFUSED_TO_ALL + REFUSED[user]:
            with pytest.raises(ResponseError) as refused:
                await client.execute_command(*command)
            assert isinstance(refused.value, NoPermissionError), (command, refused.value)


async def test_ingest_may_do_what_an_owner_does(server):
    async with RedisBus.at(url_of(server, "ingest")) as bus, administrator(server) as client:
        await client.flushall()
        assert await bus.epoch(KEY, 1000) == 1000
        await bus.append(KEY, records(0, 3))
        await bus.append(KEY, records(2, 4))  # two refused: judged by what the log holds
        assert bus.statistics()["publish_errors_total"] == 0
        assert (await bus.last(KEY)).header.seq == 4
        assert await bus.epoch(KEY, 500) == 1001
        await bus.announce(session("ses_1"), 10_000)
        assert (await bus.lookup("ses_1")).session_id == "ses_1"
        assert await bus.orders(0) == []
        await bus.erase_session(KEY, 1000)
        assert await bus.last(KEY) is None


async def test_gateway_may_do_what_a_reader_does(server):
    async with (
        RedisBus.at(url_of(server, acl.ALL_IN_ONE)) as owner,
        RedisBus.at(url_of(server, "gateway")) as bus,
        administrator(server) as client,
        bus.subscribe() as feed,
        bus.changes() as changes,
    ):
        await client.flushall()
        await feed.add(KEY)
        await owner.append(KEY, records(0, 3))
        await owner.announce(session("ses_1"), 10_000)
        assert (await asyncio.wait_for(anext(aiter(feed)), 20))[1].header.seq == 0
        assert (await asyncio.wait_for(anext(aiter(changes)), 20)).session_id == "ses_1"
        assert len((await bus.replay(KEY, 1000, 0)).records) == 3
        assert [entry.session_id for entry in await bus.sessions("default", 10_000)] == ["ses_1"]
        await bus.give_order(Order(kind="scoring", name="*", value="off", expires_ms=5_000), 0)
        await bus.give_order(Order(kind="revoked", name="j", value="", expires_ms=9_000), 6_000)
        assert [order.name for order in await bus.orders(6_000)] == ["j"]
        await bus.announce(session("ses_1"), 11_000)
        await bus.erase_session(KEY, 1000)
        await bus.erase([KEY])
        await feed.remove(KEY)


async def test_the_contract_sends_nothing_that_is_not_in_the_table_and_all_that_is(server):
    """What is granted is needed: each command of the table is seen, with MONITOR, on its keys."""
    everything = {
        (command.split("|")[0], name)
        for grant in acl.USERS[acl.ALL_IN_ONE]
        for command in grant.commands
        for name in grant.names or ("",)
    }
    seen = set()
    async with administrator(server) as client, client.monitor() as monitor:
        await test_ingest_may_do_what_an_owner_does(server)
        await test_gateway_may_do_what_a_reader_does(server)
        async with RedisBus.at(url_of(server, "ingest")) as bus:
            with pytest.raises(LogLost):
                await bus.append(KEY, records(5, 5))
            await bus.append(KEY, records(0, 0, epoch=2000))
            await bus.erase_session(KEY, 2000)
            with pytest.raises(BusError, match="newer publisher"):
                await bus.append(KEY, records(5, 5))  # asks EXISTS and XINFO
        await client.echo("the end")
        while (told := await monitor.next_command())["command"] != "ECHO the end":
            words = told["command"].replace("XINFO STREAM", "XINFO").split(" ")
            name = words[1] if len(words) > 1 else ""
            pattern = next((p for _, p in everything if p and _fits(p, name)), name)
            seen.add((words[0].lower(), pattern))
    missing = everything - seen
    assert not missing


def _fits(pattern, name):
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


@pytest.mark.parametrize(
    ("take", "words"),
    [
        ("-ping", "PING"),
        ("-subscribe", "SUBSCRIBE demeanor:res:*"),
        ("-xadd", "XADD demeanor:r:*"),
        ("-zadd", "ZADD demeanor:live:*"),
        ("-xinfo|stream", "XINFO STREAM demeanor:r:*"),
    ],
)
async def test_a_right_that_lacks_is_named_at_the_start(server, take, words):
    line = acl.line("demeanor", ">p").replace(f"+{take[1:]}", "", 1)
    rules = line.replace("user demeanor on", "user lacking reset on").split(" ", 2)[2]
    async with administrator(server) as client:
        await client.execute_command("ACL", "SETUSER", "lacking", *_rules(rules))
    with pytest.raises(UsageError) as refused:
        async with open_bus(Settings(redis_url=f"unix://lacking:p@{server.socket}")):
            pass
    assert f"run {words}: give it the rights that" in str(refused.value)


def _rules(text):
    """Split as a server splits the line: what stands in parentheses is one rule."""
    out, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == " " and not depth:
            out.append("")
        else:
            out[-1] += letter
    return [rule for rule in out if rule]


async def test_the_look_at_the_rights_changes_nothing(server):
    async with administrator(server) as client:
        await client.flushall()
        await client.hset("demeanor:orders", "scoring:*", '{"kind":"scoring","name":"*"}')
        before = await client.execute_command("DUMP", "demeanor:orders")
        with capture_logs() as logs:
            async with open_bus(Settings(redis_url=url_of(server, acl.ALL_IN_ONE))):
                pass
        assert await client.keys("*") == [b"demeanor:orders"]
        assert await client.execute_command("DUMP", "demeanor:orders") == before
    assert not [line for line in logs if line["log_level"] == "warning"]


async def test_the_server_of_our_own_has_one_user_with_just_these_rights(tmp_path):
    base = Path("/tmp") / f"dmacl-{tmp_path.parent.name[-4:]}-{tmp_path.name[-1]}"
    async with EmbeddedServer(binary.find(), base=base) as embedded:
        async with aclosing(Redis.from_url(embedded.url, password=embedded.password)) as client:
            for command in REFUSED_TO_ALL:
                with pytest.raises(NoPermissionError):
                    await client.execute_command(*command)
        for user in ("", "default@"):
            with pytest.raises(UsageError, match="refused the user or password"):
                async with RedisBus.at(embedded.url.replace("demeanor@", user), embedded.password):
                    pass
        assert PASSWORD not in embedded.url
        assert embedded.password not in embedded.url
    base.rmdir()
