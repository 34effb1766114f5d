"""Why a publisher failed, in one sentence that says what to do."""

import asyncio
from contextlib import closing

import pytest

from services.cli.pushing import reason
from services.ingest.publishing import Failed
from services.sockets import listen
from tests.services.ingest.support import Tone, publishing, serving
from tests.services.test_client import pages


async def told(failure, url: str, *, status: int | None = None, token: str | None = "dev") -> str:
    failed = Failed(failure, status, 61.0, "End of file")
    sentence = await asyncio.to_thread(reason, failed, url, token)
    assert url in sentence or failure == "media"
    assert len(sentence.splitlines()) == 1
    return sentence


@pytest.mark.parametrize(
    ("path", "status", "token", "words"),
    [
        ("/whip/a.b", 400, "dev", "a stream name has 1 to 64 characters"),
        ("/whip/a?token=dev", 400, "dev", "never in the URL"),
        ("/whip/a?meta.A=1", 400, "dev", "meta.<name>=<text>"),
        ("/whip/a", 400, "wrong", "(401): this token is not known here – give a token with"),
        ("/whip/a", 400, None, "give a token with --token"),
        ("/elsewhere", 404, "dev", "write http://HOST:PORT/whip/NAME"),
        ("/whip/a/b", 405, "dev", "write http://HOST:PORT/whip/NAME"),
        ("/whip/a", 400, "dev", "(400) – see the server's log"),
    ],
)
async def test_a_refusal_is_told_in_the_servers_words(
    path: str, status: int, token: str | None, words: str
) -> None:
    async with serving() as server:
        assert words in await told("http", server.url + path, status=status, token=token)


async def test_a_live_stream_is_told() -> None:
    async with serving() as server, publishing(server, Tone(), stream="busy"):
        sentence = await told("http", server.endpoint("busy"), status=400)
        assert "(409): the stream 'busy' is live" in sentence
        assert "push to another name" in sentence


async def test_a_full_server_says_when_to_come_back() -> None:
    async with serving(max_streams=1) as server, publishing(server, Tone(), stream="one"):
        sentence = await told("http", server.endpoint("two"), status=500)
        assert "(503)" in sentence
        assert "try again in " in sentence


@pytest.mark.parametrize("failure", ["handshake", "unreachable"])
@pytest.mark.parametrize("status", [200, 404, 426])
async def test_a_web_server_is_no_whip_address(failure: str, status: int) -> None:
    async with pages(status) as server:
        sentence = await told(failure, f"http://127.0.0.1:{server.port}/whip/x")
        assert f"is no WHIP address (it answers HTTP {status})" in sentence


async def test_a_whip_server_without_a_way_for_media() -> None:
    async with serving() as server:
        assert "does UDP pass" in await told("handshake", server.endpoint("x"))


async def test_nothing_there_says_how_to_start_it() -> None:
    with closing(listen("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/whip/x"
    assert "start the server with 'demeanor up'" in await told("refused", url)
    assert "check the address" in await told("unreachable", url)


@pytest.mark.parametrize(
    ("failure", "words"), [("lost", "ended the session of"), ("media", "try another file")]
)
async def test_what_the_server_need_not_be_asked(failure: str, words: str) -> None:
    assert words in await told(failure, "http://127.0.0.1:1/whip/x")
