"""Every refusal of an HTTP door has the one shape of RFC 9457."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from pipeline.errors import BusError
from services import problems


async def _refuse(request):
    raise problems.Problem(422, "bad_thing", "send another thing", {"Retry-After": "7"})


async def _break(request):
    raise RuntimeError("secret words")


async def _away(request):
    raise BusError("the bus is away", retryable=True)


async def _fine(request):
    return web.Response(text="fine")


async def _move(request):
    raise web.HTTPFound("/fine")


@pytest.fixture
async def client():
    app = web.Application(middlewares=[problems.middleware])
    for path, handler in [
        ("/refuse", _refuse),
        ("/break", _break),
        ("/away", _away),
        ("/fine", _fine),
        ("/move", _move),
    ]:
        app.router.add_get(path, handler)
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/refuse", 422, "bad_thing"),
        ("/break", 500, "internal"),
        ("/away", 503, "bus_away"),
        ("/nowhere", 404, "not_found"),
    ],
)
async def test_shape(client, path, status, code):
    async with client.get(path) as answer:
        body = await answer.json(content_type=problems.CONTENT_TYPE)
    assert answer.status == status == body["status"]
    assert body["code"] == code
    assert body["doc"] == body["type"] == f"/docs/errors#{code}"
    assert answer.headers["X-Request-Id"] == body["request_id"]
    assert "secret words" not in str(body)


async def test_headers_of_the_problem_are_kept(client):
    async with client.get("/refuse") as answer:
        assert answer.headers["Retry-After"] == "7"
        assert (await answer.json(content_type=None))["detail"] == "send another thing"


async def test_wrong_method_names_the_right_one(client):
    async with client.post("/fine") as answer:
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]
        assert "GET" in (await answer.json(content_type=None))["detail"]


async def test_success_and_redirect_pass(client):
    async with client.get("/move") as answer:
        assert answer.status == 200
        assert await answer.text() == "fine"
        assert answer.headers["X-Request-Id"].startswith("req_")
