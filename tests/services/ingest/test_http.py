"""The WHIP door, status by status (RFC 9725), with a plain HTTP client and real offers."""

import asyncio
import re

import pytest

from pipeline.errors import BusError
from pipeline.events import SessionStarted
from services.auth import Guard
from tests.services.ingest.support import AUTH, SDP_TYPE, Card, Publisher, Tone, publishing, serving

FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


@pytest.fixture
async def offer():
    publisher = Publisher("", Tone())
    try:
        return await publisher.offer()
    finally:
        await publisher.close()


async def _refused(response, status, code):
    assert response.status == status, await response.text()
    assert response.content_type == "application/problem+json"
    problem = await response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert len(problem["detail"]) > 15
    return problem


def _posted(http, server, offer, *, stream="cam", query="", headers=None, **more):
    headers = AUTH | SDP_TYPE if headers is None else headers
    return http.post(server.endpoint(stream, query), data=offer, headers=headers, **more)


async def test_an_accepted_offer_names_resource_etag_and_events(server, http, offer):
    async with _posted(http, server, offer) as response:
        answer = await response.text()
    assert response.status == 201
    assert response.content_type == "application/sdp"
    assert re.fullmatch(
        re.escape(server.url) + r"/whip/cam/[\w-]{22}", response.headers["Location"]
    )
    assert re.fullmatch(r'"[0-9a-f]{16}"', response.headers["ETag"])
    (session_id,) = server.sinks
    assert response.headers["Link"] == (
        f"<ws://127.0.0.1:8081/v1/events?session={session_id}>; "
        f'rel="urn:demeanor:events"; session="{session_id}"'
    )
    assert session_id not in response.headers["Location"]
    assert re.search(r"a=candidate:\S+ 1 udp \d+ 127\.0\.0\.1 41\d\d\d typ host", answer)
    assert "a=recvonly" in answer
    assert "a=setup:active" in answer
    assert "a=ssrc" not in answer
    opening, _ = server.openings[0]
    assert (opening.tenant, opening.stream, opening.role) == ("default", "cam", "self")


async def test_two_resources_never_share_a_secret(server, http, offer):
    locations = []
    for name in ("a", "b"):
        async with _posted(http, server, offer, stream=name) as response:
            locations.append(response.headers["Location"].rsplit("/", 1)[1])
    assert locations[0] != locations[1]


async def test_a_passive_offer_gets_an_active_answer_and_the_reverse(server, http, offer):
    for number, (offered, answered) in enumerate((("passive", "active"), ("active", "passive"))):
        changed = offer.replace("a=setup:actpass", f"a=setup:{offered}")
        async with _posted(http, server, changed, stream=f"s{number}") as response:
            assert f"a=setup:{answered}" in await response.text()


@pytest.mark.parametrize("stream", ["a" * 65, "ses_1", "a.b", "caf%C3%A9", "a%20b", "%2e%2e%2fx"])
async def test_bad_stream_names(server, http, offer, stream):
    from yarl import URL

    url = URL(f"{server.url}/whip/{stream}", encoded=True)
    async with http.post(url, data=offer, headers=AUTH | SDP_TYPE) as response:
        await _refused(response, 400, "bad_stream_name")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Basic ZGV2"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer dév"},
        AUTH | {"X-Forwarded-For": "10.0.0.1"},
        AUTH | {"Forwarded": "for=10.0.0.1"},
        AUTH | {"Host": "example.org"},
    ],
)
async def test_who_may_not_publish(server, http, offer, headers):
    async with _posted(http, server, offer, headers=headers | SDP_TYPE) as response:
        await _refused(response, 401, "unauthorised")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert not server.sinks


async def test_the_dev_token_dies_with_the_loopback_binding(http, offer):
    exposed = serving(guard=Guard(loopback_only=False))
    async with exposed as server, _posted(http, server, offer) as response:
        await _refused(response, 401, "unauthorised")


async def test_a_role_that_is_not_scored_may_still_publish(http, offer):
    async with serving(score_roles=("customer",)) as server:
        async with _posted(http, server, offer) as response:
            assert response.status == 201
            assert response.headers["Demeanor-Not-Scored"] == "policy_role"
        (session,) = server.whip.sessions()
        assert (session.facts.scored, session.facts.why_not) == (False, "policy_role")


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/sdpx", ""])
async def test_wrong_content_type(server, http, offer, content_type):
    headers = AUTH | {"Content-Type": content_type}
    async with _posted(http, server, offer, headers=headers) as response:
        await _refused(response, 415, "wrong_content_type")
    assert response.headers["Accept-Post"] == "application/sdp"


async def test_content_type_may_carry_a_parameter(server, http, offer):
    headers = AUTH | {"Content-Type": "application/sdp; charset=utf-8"}
    async with _posted(http, server, offer, headers=headers) as response:
        assert response.status == 201


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda sdp: "garbage", 400, "bad_sdp"),
        (lambda sdp: "", 400, "bad_sdp"),
        (lambda sdp: sdp.replace("sendonly", "recvonly"), 422, "unusable_sdp"),
        (lambda sdp: sdp.replace("sendonly", "inactive"), 422, "unusable_sdp"),
        (lambda sdp: sdp.replace("a=rtcp-mux\r\n", ""), 422, "unusable_sdp"),
        (lambda sdp: re.sub("opus|G722|PCM[UA]", "L16", sdp), 406, "no_common_codec"),
    ],
)
async def test_offers_that_cannot_be_answered(server, http, offer, change, status, code):
    async with _posted(http, server, change(offer)) as response:
        await _refused(response, status, code)
    assert not server.sinks
    assert server.whip.statistics().live == 0
    assert server.whip.statistics().refused == {code: 1}


async def test_a_body_over_the_limit(server, http, offer):
    padding = "a=x\r\n" * 20_000
    async with _posted(http, server, offer + padding) as response:
        await _refused(response, 413, "body_too_large")

    async def chunks():
        for _ in range(20):
            yield padding.encode()

    async with _posted(http, server, chunks()) as response:
        await _refused(response, 413, "body_too_large")


async def test_a_body_that_does_not_come(server, http, monkeypatch):
    monkeypatch.setattr("services.ingest.http.BODY_S", 0.05)
    never = asyncio.Event()

    async def stalled():
        yield b"v=0\r\n"
        await never.wait()

    async with _posted(http, server, stalled()) as response:
        await _refused(response, 408, "slow_body")


async def test_a_live_stream_is_busy_and_others_are_not(server, http, offer):
    async with _posted(http, server, offer) as response:
        assert response.status == 201
    async with _posted(http, server, offer) as response:
        await _refused(response, 409, "stream_live")
    async with _posted(http, server, offer, stream="other") as response:
        assert response.status == 201
    assert server.whip.statistics().live == 2


async def test_posts_at_the_same_moment_open_one_session(server, http, offer):
    async def post():
        async with _posted(http, server, offer) as response:
            return response.status

    statuses = await asyncio.gather(*(post() for _ in range(5)))
    assert sorted(statuses) == [201, 409, 409, 409, 409]


async def test_a_full_server_and_a_draining_one(http, offer):
    async with serving(max_streams=1) as server:
        async with _posted(http, server, offer) as response:
            location = response.headers["Location"]
        async with _posted(http, server, offer, stream="b") as response:
            await _refused(response, 503, "at_capacity")
        assert 3 <= int(response.headers["Retry-After"]) <= 8
        async with http.delete(location, headers=AUTH) as response:
            assert response.status == 200
        server.whip.drain()
        async with _posted(http, server, offer, stream="b") as response:
            await _refused(response, 503, "draining")
        assert "Retry-After" in response.headers


async def test_no_free_port(http, offer):
    async with serving(udp_ports=(41500, 41500)) as server:
        async with _posted(http, server, offer) as response:
            assert response.status == 201
        async with _posted(http, server, offer, stream="b") as response:
            await _refused(response, 503, "no_udp_port")
        assert server.whip.statistics().live == 1


async def test_a_bus_that_is_away_frees_everything(server, http, offer, monkeypatch):
    async def away(opening, on_stop):
        raise BusError("the bus does not answer: start it", retryable=True)

    monkeypatch.setattr(server.whip, "_open_sink", away)
    async with _posted(http, server, offer) as response:
        await _refused(response, 503, "bus_away")
    assert server.whip.statistics().live == 0
    assert all(
        queue.instances == 0 or queue.kind.name == "decoder_batches"
        for queue in server.whip.queues.statistics()
    )


async def test_meta_strings_ride_along(server, http, offer):
    query = "?meta.call=C-17&meta.queue=Billing%20EU&page=1"
    async with _posted(http, server, offer, query=query) as response:
        location = response.headers["Location"]
    async with http.delete(location, headers=AUTH) as response:
        assert response.status == 200
    (started,) = server.sink().of(SessionStarted)
    assert started.meta == {"call": "C-17", "queue": "Billing EU"}
    assert started.source.kind == "whip"
    assert "aiohttp" in started.source.user_agent
    assert "page" not in location


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("?token=dev", "token_in_url"),
        ("?access_token=dev", "token_in_url"),
        ("?meta.Call=1", "bad_meta"),
        ("?meta.=1", "bad_meta"),
        ("?meta.call=1&meta.call=2", "bad_meta"),
        ("?meta.call=%0a", "bad_meta"),
        ("?meta.call=" + "x" * 1021, "bad_meta"),
    ],
)
async def test_bad_query(server, http, offer, query, code):
    async with _posted(http, server, offer, query=query) as response:
        await _refused(response, 400, code)


async def test_delete_frees_everything_and_only_once(server, http, offer):
    async with _posted(http, server, offer) as response:
        location = response.headers["Location"]
    async with http.delete(location) as response:
        await _refused(response, 401, "unauthorised")
    async with http.delete(location.replace("/cam/", "/other/"), headers=AUTH) as response:
        await _refused(response, 404, "no_such_resource")
    async with http.delete(location, headers=AUTH | {"If-Match": '"whatever"'}) as response:
        assert response.status == 200
    async with http.delete(location, headers=AUTH) as response:
        await _refused(response, 404, "no_such_resource")
    assert server.sink().ended == "publisher_left"
    assert server.sink().closed
    assert [event.seq for event in server.sink().events] == [0, 1]
    assert server.whip.sessions() == []
    async with _posted(http, server, offer) as response:
        assert response.status == 201


async def test_trickle(server, http, offer):
    async with _posted(http, server, offer) as response:
        location, etag = response.headers["Location"], response.headers["ETag"]
    ufrag = re.search("a=ice-ufrag:(.*)\r", offer)[1]
    body = (
        f"a=ice-ufrag:{ufrag}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n"
        "a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\na=candidate:rubbish\r\n"
        "a=end-of-candidates\r\n"
    )
    restart = body.replace(ufrag, "wxyz")
    cases = [
        (body, {"If-Match": etag}, 204, None),
        (body, {}, 428, "precondition_required"),
        (body, {"If-Match": '"other"'}, 412, "precondition_failed"),
        (restart, {"If-Match": '"*"'}, 422, "no_ice_restart"),
        (restart, {"If-Match": "*"}, 422, "no_ice_restart"),
        (restart, {"If-Match": etag}, 422, "no_ice_restart"),
        ("\x00", {"If-Match": etag}, 400, "bad_sdp"),
    ]
    for data, headers, status, code in cases:
        patch = http.patch(location, data=data, headers=AUTH | FRAGMENT | headers)
        async with patch as response:
            if code:
                await _refused(response, status, code)
            else:
                assert response.status == 204
                assert await response.read() == b""
                assert "ETag" not in response.headers
    wrong = AUTH | SDP_TYPE | {"If-Match": etag}
    async with http.patch(location, data=body, headers=wrong) as response:
        await _refused(response, 415, "wrong_content_type")
    unknown = location[:-1] + ("A" if location[-1] != "A" else "B")
    headers = AUTH | FRAGMENT | {"If-Match": etag}
    async with http.patch(unknown, data=body, headers=headers) as response:
        await _refused(response, 404, "no_such_resource")
    assert server.whip.statistics().live == 1


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/whip/cam", "POST, GET, OPTIONS"), ("/whip/cam/x", "PATCH, DELETE, GET, OPTIONS")],
)
async def test_options_and_get(server, http, path, methods):
    headers = {"Origin": "http://localhost:8080", "Access-Control-Request-Method": "POST"}
    async with http.options(server.url + path, headers=headers) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Methods"] == methods
        assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:8080"
        assert "If-Match" in response.headers["Access-Control-Allow-Headers"]
        assert response.headers["Accept-Post"] == "application/sdp"
        assert "Link" not in response.headers
    async with http.get(server.url + path) as response:
        assert (response.status, await response.read()) == (204, b"")


async def test_answers_may_be_read_by_pages_of_this_machine_only(server, http, offer):
    for origin, readable in (("http://127.0.0.1:9", True), ("https://evil.example", False)):
        headers = AUTH | SDP_TYPE | {"Origin": origin}
        async with _posted(http, server, "garbage", headers=headers) as response:
            await _refused(response, 400, "bad_sdp")
        assert ("Access-Control-Allow-Origin" in response.headers) is readable
    headers = AUTH | SDP_TYPE | {"Origin": "http://[::1]:8080"}
    async with _posted(http, server, offer, headers=headers) as response:
        exposed = response.headers["Access-Control-Expose-Headers"]
        assert {"Location", "ETag", "Link"} <= set(exposed.split(", "))


async def test_other_methods_are_refused(server, http):
    async with http.put(server.endpoint(), headers=AUTH) as response:
        await _refused(response, 405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


async def test_refusals_disturb_no_session(server, http, offer):
    async with publishing(server, Tone(), Card()):
        sink = server.sink()
        await sink.until(lambda sink: len(sink.windows) >= 1)
        for number in range(10):
            async with _posted(http, server, offer[: number * 20], stream=f"s{number}"):
                pass
            async with _posted(http, server, offer) as response:
                await _refused(response, 409, "stream_live")
        before = len(sink.windows)
        await sink.until(lambda sink: len(sink.windows) >= before + 2)
    assert [event.seq for event in sink.events] == list(range(len(sink.events)))
