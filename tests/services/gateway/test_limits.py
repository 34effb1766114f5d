"""How much one client may take: connections, messages, guesses; and what it is told."""

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from services.brake import FAILURES
from services.gateway import app, client
from tests.services.gateway.test_http import Sse
from tests.services.gateway.trust import trusted


async def refused(bench, **options):
    with pytest.raises(InvalidStatus) as error:
        async with bench.reader(**options):
            pass
    return error.value.response


async def test_connections_per_token_before_the_upgrade_and_after(issuer):
    async with trusted(issuer, connections_per_token=2) as bench:
        headers = issuer.bearer(scope="read:*", jti="one")
        token = headers["Authorization"].removeprefix("Bearer ")
        async with bench.reader(headers=headers), bench.reader(headers={}) as second:
            await second.send(type="auth", token=token)
            assert (await second.ask(type="ping", id="p"))["type"] == "pong"
            response = await refused(bench, headers=headers)
            assert (response.status_code, response.headers["Retry-After"]) == (429, "5")
            async with bench.reader(headers={}) as third:
                await third.send(type="auth", token=token)
                seen, code = await third.rest()
            assert (code, seen[-1]["code"]) == (4529, "too_many_connections")
            assert seen[-1]["retry_after_ms"] == 5000
            problem = await bench.status("GET", "/v1/events", status=429, headers=headers)
            assert problem["code"] == "too_many_connections"
            async with bench.reads(jti="two"), bench.reads(jti="one", tenant="rival"):
                pass
        async with asyncio.timeout(30):
            while len(bench.gateway.holders):
                await asyncio.sleep(0.01)
        async with bench.door.get("/v1/events", headers=headers) as answer:
            assert answer.status == 200
            await answer.content.readline()
            async with bench.reader(headers=headers):
                assert (await refused(bench, headers=headers)).status_code == 429


async def test_a_full_house_counts_event_streams_too(acme, monkeypatch):
    monkeypatch.setattr(app, "CONNECTIONS", 2)
    headers = acme.issuer.bearer(scope="read:*")
    async with acme.reads(), acme.door.get("/v1/events", headers=headers) as answer:
        assert answer.status == 200
        await Sse(answer).answer.content.readline()
        response = await refused(acme, headers=headers)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "3")
        problem = await acme.status("GET", "/v1/events", status=503, headers=headers)
        assert problem["code"] == "try_later"


async def test_strangers_are_few(acme, monkeypatch):
    monkeypatch.setattr(app, "UNAUTHENTICATED", 2)
    async with acme.reader(headers={}), acme.reader(headers={}):
        assert (await refused(acme, headers={})).status_code == 503
    async with acme.reads() as reader:
        assert (await reader.ask(type="ping", id="p"))["type"] == "pong"


async def test_sockets_that_send_nothing_do_not_pile_up(acme, monkeypatch):
    monkeypatch.setattr(app, "CONNECTIONS", 2)
    monkeypatch.setattr(app, "UNAUTHENTICATED", 2)
    port = acme.gateway.ws_port
    quiet = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
    try:
        async with asyncio.timeout(30):
            while len(acme.gateway._server.handler_tasks) > 4:
                await asyncio.sleep(0.01)
        ended = [reader for reader, _ in quiet if reader.at_eof() or reader.exception()]
        async with asyncio.timeout(30):
            while len(ended) < 6:
                await asyncio.sleep(0.01)
                ended = [reader for reader, _ in quiet if reader.at_eof() or reader.exception()]
    finally:
        for _, writer in quiet:
            writer.close()


async def test_guesses_are_braked_for_one_address_only(acme):
    good = acme.issuer.bearer(scope="read:*")
    for _ in range(FAILURES // 2):
        await acme.status("GET", "/v1/sessions", status=401, headers={"Authorization": "Bearer x"})
        async with acme.reader(headers={}) as guess:
            await guess.send(type="auth", token="y")
            assert (await guess.rest())[1] == 4401
    for headers in ({"Authorization": "Bearer x"}, good):
        async with acme.door.get("/v1/sessions", headers=headers) as answer:
            assert answer.status == 429
            assert 1 <= int(answer.headers["Retry-After"]) <= 10
            assert (await answer.json(content_type=None))["code"] == "too_many_bad_tokens"
        response = await refused(acme, headers=headers)
        assert response.status_code == 429
        assert int(response.headers["Retry-After"]) >= 1
    async with acme.reader(headers={}) as late:
        await late.send(type="auth", token=good["Authorization"].removeprefix("Bearer "))
        seen, code = await late.rest()
        assert (code, seen[-1]["code"]) == (4529, "too_many_bad_tokens")
    await acme.status("GET", "/v1/sessions", status=401)
    async with connect(
        acme.url,
        additional_headers=good,
        subprotocols=["demeanor.v1.json"],
        local_addr=("127.0.0.9", 0),
    ) as elsewhere:
        assert "accepted" in await elsewhere.recv()
    assert acme.gateway.statistics()["braked_requests_total"] == 5


async def test_nobody_is_verified_while_braked(acme, monkeypatch):
    asked = []
    verify = type(acme.gateway.guard.verifier).verify

    def counted(self, token):
        asked.append(token)
        return verify(self, token)

    monkeypatch.setattr(type(acme.gateway.guard.verifier), "verify", counted)
    for _ in range(40):
        async with acme.door.get("/v1/sessions", headers={"Authorization": "Bearer x"}) as answer:
            assert answer.status in (401, 429)
    assert len(asked) == FAILURES


async def test_a_reader_that_answers_no_ping_is_told_why(acme, monkeypatch):
    """It read nothing for a while; when it wakes up, the code says what to mend."""
    monkeypatch.setattr(client, "CLOSE_S", 30)
    async with acme.reads() as awake:
        assert (await awake.ask(type="ping", id="p"))["type"] == "pong"
        monkeypatch.setattr(client, "PING_S", 0.1)  # for the next one
        await _asleep(acme)
        assert (await awake.ask(type="ping", id="p"))["type"] == "pong"


async def _asleep(acme):
    async with acme.reads() as asleep:
        asleep.socket.transport.pause_reading()
        async with asyncio.timeout(30):
            while not any(each.ended_with for each in acme.gateway._clients.values()):
                await asyncio.sleep(0.01)
        asleep.socket.transport.resume_reading()
        seen, code = await asleep.rest()
        assert (code, seen[-1]["code"]) == (4508, "slow_reader")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "this is no JSON"),
        ("[]", "the message is wrong: expected 'object', got 'array'"),
        ("{}", "the message is wrong: object missing required field 'type'"),
        ('{"type":"dance"}', "the field 'type' is wrong: invalid value 'dance'"),
        ('{"type":"subscribe","max_hz":0}', "the field 'max_hz' is wrong: expected 'float' > 0.0"),
        (
            '{"type":"subscribe","sessions":[""]}',
            "the field 'sessions[0]' is wrong: expected 'str' of length >= 1",
        ),
        (
            '{"type":"resume","since":{"ses_1":1.5}}',
            "the field 'since' is wrong: expected 'int', got 'float'",
        ),
        ('{"type":"resume","since":{"":1}}', "a name in 'since' is wrong: expected 'str'"),
        ('{"type":"' + "ü" * 200 + '"}', "the field 'type' is wrong"),
    ],
)
async def test_a_bad_message_is_told_in_words(bench, text, words):
    async with bench.reader() as reader:
        await reader.socket.send(text)
        seen, code = await reader.rest()
        reason = reader.socket.close_reason
    assert code == 4400
    assert seen[-1]["message"].startswith(words)
    assert reason.startswith(words[:20])
    assert len(reason.encode()) <= 123


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("//[", 404),
        ("http://[/v1/events", 404),
        ("*", 404),
        ("/v1/events/", 404),
        ("/v1/events?" + "a=%zz&" * 500, 101),
        ("/v1/events?ticket=%ff%00&ticket=x", 101),
    ],
)
async def test_odd_addresses_of_the_socket(bench, caplog, path, status):
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.gateway.ws_port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    line = await asyncio.wait_for(reader.readline(), 30)
    writer.close()
    await writer.wait_closed()
    assert line.split()[1] == str(status).encode()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
