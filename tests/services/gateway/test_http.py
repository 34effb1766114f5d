"""REST, SSE, pages and health of the gateway."""

import asyncio
import json
import re
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from pipeline import events
from pipeline.policy import Policy
from services import problems
from services.gateway import docs, http, pages, sse, views
from services.gateway.feed import Feed
from services.gateway.protocol import Code
from tests.services.events import (
    KEY,
    NONE,
    StreamKey,
    alert,
    ended,
    record,
    scored,
    session,
    skipped,
    started,
)
from tests.services.gateway.conftest import AUTH

TOKEN = AUTH


@pytest.fixture
async def door(bench):
    bench.gateway.model = events.LoadedModel("tiny", "1.0", "sha256:0", ["CPU"])
    bench.gateway.policy = Policy(("customer", "self"))
    app = web.Application(middlewares=[problems.middleware])
    http.routes(app, bench.gateway, sources={"scorer": lambda: {"batches_total": 3, "lag": 0.5}})
    async with TestClient(TestServer(app), headers=TOKEN) as client:
        yield client


async def body(door, path, status=200, **options):
    async with door.get(path, **options) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json(content_type=None)


async def three_sessions(bench):
    for number, value in ((1, 0.2), (2, 0.9), (3, 0.5)):
        name = f"ses_{number}"
        await bench.announce(name, stream=f"s{number}", epoch=1000 + number)
        await bench.publish(
            started(0, name),
            scored(1, name, value=value),
            key=StreamKey("default", f"s{number}"),
            epoch=1000 + number,
        )


class Sse:
    """A reader of one SSE response."""

    def __init__(self, answer):
        self.answer = answer

    async def next(self):
        """Return the fields of the next message that carries data."""
        fields = {}
        while True:
            line = (await asyncio.wait_for(self.answer.content.readline(), 10)).decode()
            if not line:
                raise EOFError
            if line == "\n":
                if "data" in fields:
                    return fields
                fields = {}
                continue
            name, _, value = line.rstrip("\n").partition(": ")
            fields[name] = value

    async def take(self, count):
        return [await self.next() for _ in range(count)]


# sessions


async def test_sessions_sorted_filtered_and_paged(bench, door):
    await three_sessions(bench)
    page = await body(door, "/v1/sessions?sort=-frustration.low&limit=2")
    assert [item["session_id"] for item in page["sessions"]] == ["ses_2", "ses_3"]
    rest = await body(door, f"/v1/sessions?sort=-frustration.low&limit=2&after={page['next']}")
    assert [item["session_id"] for item in rest["sessions"]] == ["ses_1"]
    assert rest["next"] is None
    assert (await body(door, "/v1/sessions?state=high"))["sessions"] == []
    assert len((await body(door, "/v1/sessions?state=calm"))["sessions"]) == 3


async def test_one_session(bench, door):
    await bench.announce()
    await bench.publish(started(), scored(1), alert(2), skipped(3), key=KEY)
    view = await body(door, "/v1/sessions/ses_1")
    assert view["status"] == "live"
    assert view["seq"] == 3
    assert view["state"] == "no_evidence"
    assert view["frustration"] is None
    assert view["alert"]["id"] == "alr_1"
    assert view["window"]["index"] == 3
    await bench.publish(scored(4, value=0.74), ended(5), key=KEY)
    async with asyncio.timeout(30):
        while (view := await body(door, "/v1/sessions/ses_1"))["seq"] < 5:
            await asyncio.sleep(0)
    assert view["status"] == "ended"
    assert view["frustration"]["value"] == 0.74
    assert view["alert"] is None


async def test_state_is_a_sentence_with_numbers(bench, door):
    await bench.announce()
    await bench.publish(started(), scored(20, value=0.74), key=KEY)
    state = await body(door, "/v1/sessions/ses_1/state")
    assert state["text"] == (
        "Expressed frustration 0.74 ±0.10, rising for 12 s; "
        "most likely expressed: angry (80% sure); from no source."
    )
    assert state["session"]["top"] == "angry"


async def test_timeline(bench, door):
    await bench.announce()
    windows = [scored(seq) for seq in range(1, 9)]
    await bench.publish(started(), *windows, alert(9), key=KEY)
    whole = await body(door, "/v1/sessions/ses_1/timeline")
    assert [window["seq"] for window in whole["windows"]] == list(range(1, 9))
    assert whole["windows"][0] == json.loads(events.encode(windows[0]))
    part = await body(door, "/v1/sessions/ses_1/timeline?from_ms=3000&to_ms=3500&format=json")
    assert [window["seq"] for window in part["windows"]] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/sessions/ses_nobody", 404, "no_such_session"),
        ("/v1/sessions/ses_nobody/state", 404, "no_such_session"),
        ("/v1/sessions/ses_nobody/events", 404, "no_such_session"),
        ("/v1/sessions?sort=colour", 400, "bad_sort"),
        ("/v1/sessions?limit=0", 400, "bad_query"),
        ("/v1/sessions?limit=9999999999999999999999", 400, "bad_query"),
        ("/v1/sessions?limit=x", 400, "bad_query"),
        ("/v1/sessions/ses_1/timeline?format=csv", 400, "bad_format"),
        ("/v1/sessions/ses_1/timeline?from_ms=-1", 400, "bad_query"),
        ("/v1/events?max_hz=0", 400, "bad_query"),
        ("/v1/events?max_hz=nan", 400, "bad_query"),
        ("/v1/events?max_hz=fast", 400, "bad_query"),
        ("/nothing", 404, "not_found"),
    ],
)
async def test_refusals(bench, door, path, status, code):
    await bench.announce()
    problem = await body(door, path, status)
    assert problem["code"] == code
    assert problem["request_id"].startswith("req_")


async def test_bus_away_503(bench, door):
    with bench.bus.outage():
        assert (await body(door, "/v1/sessions", 503))["code"] == "bus_away"


# erasing


async def test_delete_without_an_owner_erases_at_once(bench, door):
    await bench.announce(state="ended", lease_ms=0)
    await bench.publish(started(), scored(1), ended(2), key=KEY)
    async with door.delete("/v1/sessions/ses_1") as answer:
        assert answer.status == 204
    assert (await bench.bus.replay(KEY, 1000, -1)).records == ()
    await body(door, "/v1/sessions/ses_1", 404)
    assert (await body(door, "/v1/sessions"))["sessions"] == []


async def test_delete_of_a_live_session_goes_through_its_owner(bench, door):
    from services.bus.writer import open_writer

    stopped = asyncio.Event()
    writer = await open_writer(
        bench.bus, bench.clock, session(), on_stop=lambda _why: stopped.set()
    )
    writer.put([started(), scored(1)])

    async def owner():
        await stopped.wait()
        writer.put([ended(2, reason="deleted")])
        await writer.close()

    async with bench.reader() as reader, asyncio.TaskGroup() as group:
        group.create_task(owner())
        await reader.ask(type="subscribe", id="1")
        async with door.delete("/v1/sessions/ses_1") as answer:
            assert answer.status == 204
        seen = await reader.until("session.ended")
    assert seen[-1]["reason"] == "deleted"
    assert (await bench.bus.replay(KEY, 1000, -1)).records == ()
    await body(door, "/v1/sessions/ses_1", 404)


# streams


async def test_sse_sends_events_and_resumes(bench, door):
    await bench.announce()
    await bench.publish(started(), key=KEY)
    async with door.get("/v1/sessions/ses_1/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        await bench.publish(scored(1), alert(2), key=KEY)
        seen = await Sse(answer).take(2)
    assert [(item["id"], item["event"]) for item in seen] == [
        ("ses_1:1", "window.scored"),
        ("ses_1:2", "alert.raised"),
    ]
    assert json.loads(seen[0]["data"]) == json.loads(events.encode(scored(1)))
    await bench.publish(scored(3), scored(4), key=KEY)
    async with door.get(
        "/v1/sessions/ses_1/events", headers={"Last-Event-ID": "ses_1:2"}
    ) as answer:
        await bench.publish(ended(5), key=KEY)
        seen = await Sse(answer).take(3)
        assert [item["id"] for item in seen] == ["ses_1:3", "ses_1:4", "ses_1:5"]
        with pytest.raises(EOFError):
            await Sse(answer).next()
    async with door.get(
        "/v1/sessions/ses_1/events", headers={"Last-Event-ID": "ses_1:5"}
    ) as answer:
        assert answer.status == 204, "tells EventSource not to come back"


async def test_sse_of_all_sessions_takes_newcomers_and_filters(bench, door):
    async with door.get("/v1/events?events=alert.*,session.started&roles=self") as answer:
        await bench.announce()
        await bench.announce("ses_2", stream="b", role="agent")
        await bench.publish(started(), scored(1), alert(2), key=KEY)
        seen = await Sse(answer).take(2)
    assert [item["event"] for item in seen] == ["session.started", "alert.raised"]


async def test_sse_of_all_sessions_resumes_every_one(bench, door):
    await three_sessions(bench)
    async with door.get("/v1/events", headers={"Last-Event-ID": "ses_2:0"}) as answer:
        seen = {item["id"] for item in await Sse(answer).take(5)}
    assert seen == {"ses_1:0", "ses_1:1", "ses_2:1", "ses_3:0", "ses_3:1"}


async def test_sse_tells_a_gap(bench, door):
    await bench.announce()
    await bench.publish(started(), scored(5), key=KEY)
    async with door.get(
        "/v1/sessions/ses_1/events", headers={"Last-Event-ID": "ses_1:0"}
    ) as answer:
        gap, window = await Sse(answer).take(2)
    assert "id" not in gap
    assert gap["event"] == "gap"
    assert (json.loads(gap["data"])["from_seq"], json.loads(gap["data"])["to_seq"]) == (1, 4)
    assert window["id"] == "ses_1:5"


async def test_sse_pings(bench, door, monkeypatch):
    monkeypatch.setattr(sse, "PING_S", 0.02)
    async with door.get("/v1/events") as answer:
        lines = [await asyncio.wait_for(answer.content.readline(), 10) for _ in range(4)]
    assert lines == [b"retry: 2000\n", b"\n", b": ping\n", b"\n"]


async def test_sse_ends_on_drain(bench, door):
    async with door.get("/v1/events") as answer:
        await answer.content.readline()
        await bench.gateway.drain()
        rest = await asyncio.wait_for(answer.content.read(), 10)
    assert rest == b"\n"
    assert (await body(door, "/v1/events", 503))["code"] == "try_later"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ses_1:118", ("ses_1", 118)),
        (None, None),
        ("", None),
        ("ses_1", None),
        ("ses_1:-1", None),
        (":5", None),
        ("ses_1:99999999999999999999", None),
    ],
)
def test_last_event_id(text, wanted):
    assert sse.position(text) == wanted


# about


@pytest.mark.parametrize(
    "path",
    ["/v1/sessions", "/v1/sessions/ses_1", "/v1/events", "/v1/policy", "/v1/models", "/metrics"],
)
async def test_token_is_needed(bench, door, path):
    for headers in ({"Authorization": "Bearer no"}, {"Authorization": "Basic x"}):
        problem = await body(door, path, 401, headers=headers)
        assert problem["code"] == "unauthorised"
    async with door.get(path, headers={"X-Forwarded-For": "10.0.0.1"}) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_name_of_another_host_is_refused(bench, door):
    for path in ("/", "/v1/config", "/v1/sessions"):
        assert (await body(door, path, 403, headers={"Host": "evil.example"}))["code"] == "bad_host"


async def test_about(bench, door):
    assert (await body(door, "/v1/policy"))["score_roles"] == ["customer", "self"]
    assert (await body(door, "/v1/models"))["models"][0]["id"] == "tiny"
    assert (await body(door, "/version"))["protocol"] == "demeanor.v1.json"
    async with door.get("/livez") as answer:
        assert await answer.text() == "ok\n"


async def test_config_tells_the_page_where_the_socket_is(bench, door):
    config = await body(door, "/v1/config", headers={"Host": "localhost:8080"})
    assert config["events_url"] == f"ws://localhost:{bench.gateway.ws_port}/v1/events"
    assert config["token"] == "dev"


async def test_readyz_names_what_is_wrong(bench, door):
    assert (await body(door, "/readyz"))["ready"] is True
    with bench.bus.outage():
        state = await body(door, "/readyz", 503)
    assert state["checks"]["bus"] == "the bus does not answer"
    await bench.gateway.drain()
    assert (await body(door, "/readyz", 503))["checks"]["draining"] == "draining"


async def test_metrics_name_no_session(bench, door):
    await three_sessions(bench)
    async with bench.reader() as reader:
        await reader.ask(type="subscribe", id="1")
        async with door.get("/metrics") as answer:
            text = await answer.text()
    assert "demeanor_gateway_connections 1.0" in text
    assert "demeanor_gateway_feeds 3.0" in text
    assert 'demeanor_queue_depth{queue="gw_cache"}' in text
    assert "demeanor_scorer_batches_total 3.0" in text
    assert "process_resident_memory_bytes" in text
    assert not re.search(r"ses_\d|\bs\d\b", text)


async def test_documents_name_every_address(bench, door):
    document = await body(door, "/openapi.json")
    described = set(document["paths"])
    served = {
        resource.canonical
        for resource in door.app.router.resources()
        if resource.canonical.strip("/") not in pages.files() and resource.canonical != "/"
    }
    assert described == served
    socket = await body(door, "/asyncapi.json")
    assert "subscribe" in socket["channels"]["events"]["messages"]
    assert "window.scored" in socket["channels"]["events"]["messages"]
    assert set(socket["components"]["securitySchemes"]) == {"bearer", "ticket"}
    assert all(f"* {int(code)}: " in socket["channels"]["events"]["description"] for code in Code)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "ticket"}
    assert {"bearer": []} in document["paths"]["/v1/sessions"]["get"]["security"]
    assert {"ticket": []} in document["paths"]["/v1/events"]["get"]["security"]


async def test_every_code_is_explained(bench, door):
    root = Path(problems.__file__).parent
    source = "".join(
        path.read_text() for room in ("gateway", "ingest") for path in (root / room).rglob("*.py")
    )
    codes = set(re.findall(r"Problem\(\s*\d+,\s*\"([a-z_]+)\"", source))
    codes |= set(re.findall(r"Code\.[A-Z_]+,\s*\"([a-z_]+)\"", source))
    codes |= set(re.findall(r"notices\.error\(\s*\"([a-z_]+)\"", source))
    assert {"no_such_session", "slow_reader", "stream_lost"} <= codes
    assert codes <= set(docs.ERRORS)
    async with door.get("/docs/errors") as answer:
        text = await answer.text()
    assert all(f'id="{code}"' in text for code in docs.ERRORS)


# pages


async def test_page_under_a_strict_policy(bench, door):
    async with door.get("/", headers={"Host": "localhost:8080"}) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<!doctype html>" in await answer.text()
        policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert f"connect-src 'self' ws://localhost:{bench.gateway.ws_port};" in policy
    assert "unsafe" not in policy
    port = door.port
    assert bench.gateway.allows(f"http://localhost:{port}"), "our own page may connect"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/sample.webm", "video/webm"),
        ("/vendor/uplot.js", "text/javascript; charset=utf-8"),
    ],
)
async def test_assets_have_their_type_and_revalidate(door, path, kind):
    async with door.get(path) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        etag = answer.headers["ETag"]
    async with door.get(path, headers={"If-None-Match": etag}) as answer:
        assert answer.status == 304


async def test_parts_of_the_sample_call(door):
    async with door.get("/sample.webm", headers={"Range": "bytes=0-3"}) as answer:
        assert answer.status == 206
        assert await answer.read() == b"\x1aE\xdf\xa3"


@pytest.mark.parametrize(
    "path",
    [
        "/../settings.py",
        "/%2e%2e/settings.py",
        "/..%2fsettings.py",
        "/vendor/../../settings.py",
        "/__init__.py",
        "/SAMPLE.md",
        "/vendor/",
        "//etc/passwd",
    ],
)
async def test_nothing_else_can_be_reached(door, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]


def test_links_are_not_followed(tmp_path):
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "b.js").symlink_to("/etc/passwd")
    assert list(pages.files(tmp_path)) == ["a.js"]


# sentences


def feed_of(*made):
    feed = Feed(session())
    for event in made:
        assert feed.receive(record(event))
    return feed


def said(*made, **changes):
    view = views.view(feed_of(*made), session(**changes), owner_lost=False)
    return views.sentence(view)


def test_sentences():
    assert said() == "Nothing has been scored yet."
    assert said(started(), skipped(1)) == "No evidence right now: voice: no track, face: no track."
    assert said(started(), scored(1), ended(2)) == "This session is over."
    lost = views.view(feed_of(started()), session(), owner_lost=True)
    assert (lost.status, views.sentence(lost)) == (
        "owner_lost",
        "This session has lost its source.",
    )


@pytest.mark.parametrize(
    ("why_not", "words"),
    [
        ("policy_role", "the policy does not score this role"),
        ("policy_consent", "nobody agreed to the notice"),
        ("policy_new", "policy_new"),
    ],
)
async def test_a_session_that_is_not_looked_at_says_so(bench, door, why_not, words):
    person = events.Participant("p1", "agent", False, why_not, ["audio"])
    await bench.announce()
    await bench.publish(msgspec.structs.replace(started(), participants=[person]), key=KEY)
    state = await body(door, "/v1/sessions/ses_1/state")
    assert state["text"] == f"Nothing of this session is looked at: {words}."
    assert state["session"]["why_not"] == why_not


def test_sentence_says_when_it_is_not_sure_and_from_what():
    voice = events.Evidence(used=True, quality=0.9, reason=None)
    event = scored(1)
    unsure = type(event)(
        **{
            **{name: getattr(event, name) for name in event.__struct_fields__},
            "top": None,
            "abstained": True,
            "frustration": None,
            "evidence": events.EvidenceSet(voice, NONE, NONE),
        }
    )
    assert said(started(), unsure) == (
        "Expressed frustration unknown; not sure which emotion is expressed; from voice only."
    )
