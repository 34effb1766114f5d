"""Which pages may connect and read: exact origins, hosts, preflights; nothing of a cookie."""

import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pipeline.errors import UsageError
from services.bus.memory import MemoryBus
from services.gateway.origins import Origins
from tests.services.gateway.conftest import AUTH, opened
from tests.services.gateway.trust import trusted

APP = "https://app.example"


def origins(*configured, host="127.0.0.1", secure=False):
    made = Origins(configured, host=host, secure=secure)
    made.ports.add(8080)
    return made


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        (APP, True),
        (APP + ":443", True),
        (APP + ":8443", False),
        ("http://app.example", False),
        ("https://app.example.", False),
        ("https://APP.example", False),
        ("HTTPS://app.example", False),
        ("https://app.example/", False),
        ("https://app.example.evil.example", False),
        ("https://evil-app.example", False),
        ("https://evil.example#app.example", False),
        ("https://app.example@evil.example", False),
        ("https://user@app.example", False),
        ("https://app.example%00", False),
        ("https://app.example:", False),
        ("https://app.example:0443", False),
        ("https://app.example:99999", False),
        ("https://app.example, https://evil.example", False),
        ("https://other.example:9443", True),
        ("https://other.example", False),
        ("http://127.0.0.1:8080", True),
        ("http://localhost:8080", True),
        ("http://[::1]:8080", True),
        ("http://127.0.0.1:8081", False),
        ("https://127.0.0.1:8080", False),
        ("http://localhost.:8080", False),
        ("http://localhost.evil.example:8080", False),
        ("http://2130706433:8080", False),
        ("null", False),
        ("", False),
        ("*", False),
        ("file://", False),
        ("chrome-extension://abcdefgh", False),
    ],
)
def test_exact_origins(origin, allowed):
    known = origins(APP, "https://Other.example:9443")
    assert known.allows(origin, "127.0.0.1") is allowed


@pytest.mark.parametrize(
    ("host", "local", "origin", "allowed"),
    [
        ("0.0.0.0", "192.0.2.5", "http://192.0.2.5:8080", True),
        ("0.0.0.0", "192.0.2.5", "http://192.0.2.6:8080", False),
        ("0.0.0.0", "192.0.2.5", "http://localhost:8080", False),
        ("0.0.0.0", "127.0.0.1", "http://localhost:8080", True),
        ("::", "::ffff:192.0.2.5", "http://192.0.2.5:8080", True),
        ("::", "2001:db8::5", "http://[2001:db8::5]:8080", True),
        ("192.0.2.5", "192.0.2.5", "http://192.0.2.5:8080", True),
        ("server.example", "192.0.2.5", "http://server.example:8080", True),
        ("server.example", "192.0.2.5", "http://server.example:8081", False),
    ],
)
def test_our_own_pages_by_the_address_that_was_reached(host, local, origin, allowed):
    assert origins(host=host).allows(origin, local) is allowed


def test_with_tls_our_pages_are_https():
    assert origins(secure=True).allows("https://localhost:8080", "127.0.0.1")
    assert not origins(secure=True).allows("http://localhost:8080", "127.0.0.1")


@pytest.mark.parametrize(
    "text", ["null", "*", "app.example", "https://app.example/page", "ftp://app.example", ""]
)
def test_a_setting_that_is_no_origin_is_said(text):
    with pytest.raises(UsageError, match="https://HOST"):
        origins(text)


async def test_listed_pages_connect_and_others_get_4403():
    async with opened(MemoryBus(), origins=(APP,)) as bench:
        async with bench.reader(origin=APP) as reader:
            assert (await reader.ask(type="ping", id="p"))["type"] == "pong"
        for origin in ("https://evil.example", "https://app.example.", "null"):
            async with bench.reader(greet=False, origin=origin) as reader:
                seen, code = await reader.rest()
            assert (code, seen[0]["code"]) == (4403, "origin")


async def test_two_origin_headers_are_no_origin(bench, bench_door):
    own = ("Origin", f"http://127.0.0.1:{bench_door[1].port}")
    for headers, status in (([own], 200), ([own, own], 403)):
        async with bench_door[1].get("/v1/sessions", headers=headers) as answer:
            assert answer.status == status
    headers = [("Authorization", "Bearer dev"), ("Origin", "http://localhost:8080")] * 2
    with pytest.raises(InvalidStatus) as refused:
        async with bench.reader(greet=False, headers=headers):
            pass
    assert refused.value.response.status_code == 400


async def test_a_cookie_is_no_token(acme):
    token = acme.issuer.token(scope="read:*")
    cookie = {"Cookie": f"token={token}; Authorization=Bearer {token}; access_token={token}"}
    await acme.status("GET", "/v1/sessions", status=401, headers=cookie)
    async with acme.reader(headers=cookie) as reader:
        await reader.send(type="subscribe", id="1")
        assert (await reader.rest())[1] == 4401


async def test_without_an_origin_away_from_loopback_the_header_must_bring_the_token(issuer):
    async with trusted(issuer, host="0.0.0.0") as bench:
        await bench.session("ses_a", "a")
        token = issuer.token(scope="read:*")
        async with bench.reader(headers={}, greet=False) as program:
            seen, code = await program.rest()
            assert (code, seen[0]["code"]) == (4401, "unauthorised")
            assert "Authorization" in seen[0]["message"]
        async with bench.reader(headers={"Authorization": f"Bearer {token}"}) as program:
            assert (await program.ask(type="subscribe", id="1"))["sessions"] == ["ses_a"]
        async with bench.reader(headers={}, origin="http://127.0.0.1:8080") as page:
            await page.send(type="auth", token=token)
            assert (await page.ask(type="subscribe", id="1"))["sessions"] == ["ses_a"]
        async with bench.reader(headers=AUTH, greet=False) as public:
            assert (await public.rest())[1] == 4401, "dev is for loopback"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.:1"])
async def test_the_socket_refuses_names_of_others_on_loopback(bench, host):
    with pytest.raises(InvalidStatus) as refused:
        async with connect(
            f"ws://{host.split(':')[0]}:{bench.gateway.ws_port}/v1/events",
            host="127.0.0.1",
            port=bench.gateway.ws_port,
            additional_headers=AUTH,
        ):
            pass
    assert refused.value.response.status_code == 403


# REST and SSE


async def test_listed_pages_may_read_answers_and_no_cookie_is_asked_for(issuer):
    async with trusted(issuer, origins=(APP,)) as bench:
        headers = issuer.bearer(scope="read:*") | {"Origin": APP}
        for path, status in (("/v1/sessions", 200), ("/v1/sessions/ses_no", 404)):
            async with bench.door.get(path, headers=headers) as answer:
                assert answer.status == status
                assert answer.headers["Access-Control-Allow-Origin"] == APP
                assert "Origin" in answer.headers["Vary"]
                assert "Access-Control-Allow-Credentials" not in answer.headers
        async with bench.door.get("/v1/sessions", headers={"Origin": APP}) as answer:
            assert answer.status == 401
            assert answer.headers["Access-Control-Allow-Origin"] == APP, "the page may know why"
        async with bench.door.get("/v1/sessions", headers=issuer.bearer()) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert "Origin" in answer.headers["Vary"]
        async with bench.door.get("/v1/events", headers=headers) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == APP


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example."])
async def test_other_pages_are_refused_even_with_a_token(issuer, origin):
    async with trusted(issuer, origins=(APP,)) as bench:
        headers = issuer.bearer(scope="read:* admin") | {"Origin": origin}
        for method, path in (
            ("GET", "/v1/sessions"),
            ("GET", "/v1/events"),
            ("GET", "/metrics"),
            ("POST", "/v1/tickets"),
            ("DELETE", "/v1/sessions/ses_a"),
            ("OPTIONS", "/v1/sessions"),
        ):
            async with bench.door.request(method, path, headers=headers) as answer:
                assert answer.status == 403, (method, path)
                assert (await answer.json(content_type=None))["code"] == "origin"
                assert "Access-Control-Allow-Origin" not in answer.headers


async def test_our_own_page_may_ask_by_the_address_it_came_from(bench_door):
    bench, door = bench_door
    await bench.announce()
    own = {"Origin": f"http://127.0.0.1:{door.port}"}
    async with door.post("/v1/tickets", json={"session": "*"}, headers=own) as answer:
        assert answer.status == 201
    for other in (f"https://127.0.0.1:{door.port}", f"http://127.0.0.1:{door.port + 1}"):
        async with door.post(
            "/v1/tickets", json={"session": "*"}, headers={"Origin": other}
        ) as answer:
            assert answer.status == 403


@pytest.fixture
async def bench_door(bench):
    from aiohttp import web
    from aiohttp.test_utils import TestClient, TestServer

    from services import problems
    from services.gateway import http

    app = web.Application(middlewares=[problems.middleware])
    http.routes(app, bench.gateway)
    async with TestClient(TestServer(app), headers=AUTH) as door:
        yield bench, door


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/sessions", "GET, HEAD"),
        ("/v1/sessions/ses_a", "DELETE, GET, HEAD"),
        ("/v1/tickets", "POST"),
        ("/v1/events", "GET"),
    ],
)
async def test_preflight(issuer, path, methods):
    async with trusted(issuer, origins=(APP,)) as bench:
        asked = {
            "Origin": APP,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization",
        }
        async with bench.door.options(path, headers=asked) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == APP
            assert answer.headers["Access-Control-Allow-Methods"] == methods
            assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
            assert "Last-Event-ID" in answer.headers["Access-Control-Allow-Headers"]
            assert "Access-Control-Allow-Credentials" not in answer.headers
        async with bench.door.options("/v1/nothing", headers=asked) as answer:
            assert answer.status == 404
        async with bench.door.options(path, headers={"Origin": APP}) as answer:
            assert answer.status == 405, "no preflight, just a method that is not there"


# tokens never stand in an address


@pytest.mark.parametrize("name", ["token", "access_token", "TOKEN", "Authorization", "jwt", "key"])
async def test_a_token_in_the_address_is_refused_even_a_good_one(acme, name):
    token = acme.issuer.token(scope="read:*")
    headers = acme.issuer.bearer(scope="read:*")
    for path in ("/v1/sessions", "/v1/events", "/metrics", "/", "/version", "/no/such"):
        problem = await acme.status("GET", f"{path}?{name}={token}", status=400, headers=headers)
        assert problem["code"] == "token_in_url"
        assert token not in json.dumps(problem)
    with pytest.raises(InvalidStatus) as refused:
        async with acme.reader(headers=headers, url=f"{acme.url}?{name}={token}"):
            pass
    assert refused.value.response.status_code == 400
    assert token.encode() not in refused.value.response.body
