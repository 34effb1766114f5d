"""Control messages, limits and close codes of the event socket."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pipeline.errors import UsageError
from services.bus.memory import MemoryBus
from services.gateway import app, client
from services.gateway.protocol import Closing, Code, Selection, decode
from tests.services.events import KEY, alert, ended, scored, skipped, started
from tests.services.gateway.conftest import AUTH, opened


async def test_hello_comes_first_and_tells_the_limits(bench):
    async with bench.reader(greet=False, headers={}) as reader:
        hello = await reader.next()
    assert hello["type"] == "hello"
    assert hello["protocol"] == "demeanor.v1.json"
    assert hello["auth"] == "required"
    assert hello["connection_id"].startswith("con_")
    assert hello["limits"] == {
        "max_message_bytes": 4096,
        "messages_per_s": 20,
        "sessions_per_message": 64,
    }


async def test_token_in_the_header_or_in_the_first_message(bench):
    async with bench.reader(greet=False) as reader:
        assert (await reader.next())["auth"] == "accepted"
        assert (await reader.ask(type="ping", id="a")) == {"type": "pong", "id": "a"}
    async with bench.reader(headers={}) as reader:
        await reader.send(type="auth", token="dev")
        assert (await reader.ask(type="ping", id="b")) == {"type": "pong", "id": "b"}


@pytest.mark.parametrize(
    "first",
    [{"type": "auth", "token": "wrong"}, {"type": "subscribe", "id": "1"}, {"type": "ping"}],
)
async def test_without_a_valid_token_4401(bench, first):
    async with bench.reader(headers={}) as reader:
        await reader.send(**first)
        seen, code = await reader.rest()
    assert code == 4401
    assert seen[-1]["type"] == "error"
    assert seen[-1]["fatal"] is True


async def test_wrong_token_in_the_header_or_a_proxy_4401(bench):
    for headers in ({"Authorization": "Bearer no"}, {**AUTH, "X-Forwarded-For": "10.0.0.1"}):
        async with bench.reader(headers=headers, greet=False) as reader:
            assert (await reader.rest())[1] == 4401


async def test_silence_before_auth_4401(bench, monkeypatch):
    monkeypatch.setattr(client, "AUTH_S", 0.05)
    async with bench.reader(headers={}) as reader:
        seen, code = await reader.rest()
    assert (code, seen[-1]["code"]) == (4401, "auth_timeout")


async def test_dev_token_is_refused_when_not_on_loopback():
    async with opened(MemoryBus(), host="0.0.0.0") as bench, bench.reader(greet=False) as reader:
        seen, code = await reader.rest()
    assert code == 4401
    assert "loopback" in seen[-1]["message"]


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        (None, True),
        ("http://localhost:8080", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://localhost:9999", False),
        ("https://localhost:8080", False),
        ("http://evil.example:8080", False),
        ("http://localhost.evil.example:8080", False),
        ("null", False),
        ("http://localhost:port", False),
    ],
)
async def test_origin(bench, origin, welcome):
    async with bench.reader(greet=False, origin=origin) as reader:
        if welcome:
            assert (await reader.next())["type"] == "hello"
        else:
            seen, code = await reader.rest()
            assert code == 4403
            assert [event["type"] for event in seen] == ["error"]


async def test_subprotocols(bench):
    async with connect(bench.url, additional_headers=AUTH) as socket:
        assert json.loads(await socket.recv())["protocol"] == "demeanor.v1.json"
    async with connect(
        bench.url, additional_headers=AUTH, subprotocols=["other", "demeanor.v1.json"]
    ) as socket:
        assert socket.subprotocol == "demeanor.v1.json"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(bench.url, additional_headers=AUTH, subprotocols=["demeanor.v9.json"]):
            pass
    assert refused.value.response.status_code == 400


async def test_other_paths_and_full_house(bench, monkeypatch):
    with pytest.raises(InvalidStatus) as refused:
        async with connect(bench.url + "/else"):
            pass
    assert refused.value.response.status_code == 404
    monkeypatch.setattr(app, "CONNECTIONS", 1)
    async with bench.reader():
        with pytest.raises(InvalidStatus) as full:
            async with connect(bench.url):
                pass
    assert full.value.response.status_code == 503
    assert full.value.response.headers["Retry-After"] == "3"
    assert bench.gateway.statistics()["refused_connections_total"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"type":"dance"}',
        '{"type":"subscribe","max_hz":0}',
        '{"type":"subscribe","max_hz":-1}',
        '{"type":"subscribe","sessions":[""]}',
        '{"type":"resume","since":{"ses_1":1.5}}',
        json.dumps({"type": "subscribe", "sessions": [f"ses_{n}" for n in range(65)]}),
        json.dumps({"type": "resume", "since": {f"ses_{n}": 1 for n in range(65)}}),
        b"\x00",
    ],
)
async def test_bad_message_4400(bench, text):
    async with bench.reader() as reader:
        await reader.socket.send(text)
        seen, code = await reader.rest()
    assert (code, seen[-1]["code"], seen[-1]["fatal"]) == (4400, "bad_message", True)


async def test_unknown_fields_are_ignored(bench):
    async with bench.reader() as reader:
        answer = await reader.ask(type="subscribe", id="1", colour="blue")
    assert answer == {"type": "subscribed", "id": "1", "sessions": [], "snapshot": []}


async def test_message_too_big_1009(bench):
    async with bench.reader() as reader:
        await reader.send(type="ping", id="x" * 4096)
        assert (await reader.rest())[1] == 1009


async def test_too_many_messages_first_an_error_then_4529(bench):
    async with bench.reader() as reader:
        for number in range(45):
            await reader.send(type="ping", id=str(number))
        seen, code = await reader.rest()
    pongs = [event for event in seen if event["type"] == "pong"]
    errors = [event for event in seen if event["type"] == "error"]
    assert code == 4529
    assert 20 <= len(pongs) < 30
    assert errors[0]["code"] == "rate_limited"
    assert errors[0]["fatal"] is False
    assert errors[-1]["fatal"] is True
    assert errors[-1]["retry_after_ms"] > 0


async def test_no_such_session(bench):
    async with bench.reader() as reader:
        await reader.send(type="subscribe", id="1", sessions=["ses_nobody"])
        assert (await reader.rest())[1] == 4404
    async with bench.reader() as reader:
        await reader.send(
            type="resume", id="2", since={"ses_nobody": 3}, subscribe={"sessions": ["ses_nobody"]}
        )
        seen, code = await reader.rest()
    assert code == 4404
    assert seen[0] == {
        "type": "resumed",
        "id": "2",
        "recovered": {},
        "lost": {"ses_nobody": None},
        "sessions": [],
    }


async def test_one_unknown_session_beside_a_known_one_is_told(bench):
    await bench.announce()
    await bench.publish(started(), key=KEY)
    async with bench.reader() as reader:
        await reader.send(type="subscribe", id="1", sessions=["ses_1", "ses_nobody"])
        error, answer = await reader.take(2)
    assert (error["code"], error["session_id"], error["ref"]) == (
        "no_such_session",
        "ses_nobody",
        "1",
    )
    assert answer["sessions"] == ["ses_1"]


async def test_bus_away_1013():
    bus = MemoryBus()
    async with opened(bus) as bench:
        with bus.outage():
            async with bench.reader() as reader:
                await reader.send(type="subscribe", id="1")
                seen, code = await reader.rest()
    assert code == 1013
    assert seen[-1]["code"] == "bus_away"


async def test_drain_then_1001(bench):
    async with bench.reader() as reader, asyncio.TaskGroup() as group:
        group.create_task(bench.gateway.drain())
        seen, code = await reader.rest()
    assert code == 1001
    assert seen[-1]["type"] == "drain"
    assert 200 <= seen[-1]["reconnect_after_ms"] <= 3000
    with pytest.raises(InvalidStatus) as refused:
        async with connect(bench.url):
            pass
    assert refused.value.response.status_code == 503


async def test_moved_4503(bench):
    async with bench.reader() as reader, asyncio.TaskGroup() as group:
        group.create_task(bench.gateway.drain(moved=True))
        seen, code = await reader.rest()
    assert (code, seen[-1]) == (4503, {"type": "drain", "reconnect_after_ms": 0})


async def test_replaced_by_a_newer_publisher_4409(bench):
    await bench.announce("ses_1", epoch=1000)
    await bench.publish(started(), key=KEY)
    async with bench.reader() as one, bench.reader() as everything:
        await one.ask(type="subscribe", id="1", sessions=["ses_1"])
        await everything.ask(type="subscribe", id="1")
        await bench.publish(started(0, "ses_2"), key=KEY, epoch=2000)
        await bench.announce("ses_2", epoch=2000)
        assert (await one.rest())[1] == 4409
        seen = await everything.take(2)
    assert {event["type"] for event in seen} == {"error", "session.started"}
    assert next(e for e in seen if e["type"] == "error")["code"] == "stream_replaced"


async def test_an_ended_session_is_not_replaced(bench):
    await bench.announce("ses_1", epoch=1000)
    await bench.publish(started(), key=KEY)
    async with bench.reader() as reader:
        await reader.ask(type="subscribe", id="1", sessions=["ses_1"])
        await bench.publish(ended(1), key=KEY)
        await bench.publish(started(0, "ses_2"), key=KEY, epoch=2000)
        await bench.announce("ses_2", epoch=2000)
        assert (await reader.next())["type"] == "session.ended"
        assert (await reader.ask(type="ping", id="still here"))["type"] == "pong"


async def test_filters(bench):
    await bench.announce()
    await bench.announce("ses_2", stream="b", role="customer")
    await bench.publish(started(), key=KEY)
    async with bench.reader() as reader:
        answer = await reader.ask(
            type="subscribe", id="1", events=["window.scored", "alert.*"], roles=["self"]
        )
        assert answer["sessions"] == ["ses_1"]
        await bench.publish(skipped(1), scored(2), alert(3), skipped(4), scored(5), key=KEY)
        seen = await reader.take(3)
    assert [(event["type"], event["seq"]) for event in seen] == [
        ("window.scored", 2),
        ("alert.raised", 3),
        ("window.scored", 5),
    ]


async def test_snapshot_is_the_last_wanted_event(bench):
    await bench.announce()
    await bench.publish(started(), scored(1), alert(2), key=KEY)
    async with bench.reader() as reader:
        first = await reader.ask(type="subscribe", id="1", snapshot=True)
        second = await reader.ask(
            type="subscribe", id="2", snapshot=True, events=["window.*"], sessions=["ses_1"]
        )
    assert [event["seq"] for event in first["snapshot"]] == [2]
    assert [event["seq"] for event in second["snapshot"]] == [1]


async def test_unsubscribe(bench):
    await bench.announce()
    await bench.publish(started(), key=KEY)
    async with bench.reader() as reader:
        await reader.ask(type="subscribe", id="1", sessions=["ses_1"])
        assert await reader.ask(type="unsubscribe", id="1") == {"type": "unsubscribed", "id": "1"}
        await bench.publish(scored(1), key=KEY)
        assert (await reader.ask(type="ping", id="p"))["type"] == "pong"
        assert (await reader.ask(type="unsubscribe", id="1"))["code"] == "no_such_subscription"


async def test_port_in_use_is_said(bench):
    taken = bench.gateway.settings.model_copy(update={"ws_port": bench.gateway.ws_port})
    second = app.Gateway(bench.bus, guard=bench.gateway.guard, clock=bench.clock, settings=taken)
    with pytest.raises(UsageError, match="DEMEANOR_WS_PORT"):
        await second.__aenter__()


def test_globs():
    selection = Selection(events=["alert.*", "session.started"])
    assert selection.takes("alert.raised")
    assert not selection.takes("session.ended")
    assert Selection().takes("anything.new")


def test_binary_is_refused():
    with pytest.raises(Closing) as closing:
        decode(b"{}")
    assert closing.value.code is Code.BAD_MESSAGE
