"""Limits at the WHIP door: half-open publishers, offers a second; and what they stand on."""

import asyncio

import pytest

from services.auth import DEV_TOKEN, Principal
from services.ingest.limits import MAX_RESTING, MAX_TENANTS, REST_S, Limits
from services.ingest.rates import TokenBucket
from services.problems import Problem
from tests.chaos.holes.pairs import offered
from tests.services.ingest.support import AUTH, SDP_TYPE, Tone, publishing, serving

DEV = Principal("default", "self")


def _token(name="t1", tenant="acme"):
    return Principal(tenant, "customer", token_id=name)


def _limits(**given):
    return Limits(**{"half_open": 8, "half_open_per_token": 2, "posts_per_s": 5} | given)


def test_a_bucket_fills_again_and_never_beyond_its_burst():
    bucket = TokenBucket(per_s=2, burst=4)
    assert [bucket.take(0) for _ in range(5)] == [True] * 4 + [False]
    assert bucket.wait_s(0) == 0.5
    assert bucket.wait_s(0, 4) == 2
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert [bucket.take(100) for _ in range(5)] == [True] * 4 + [False]


def test_a_clock_that_goes_back_gives_nothing():
    bucket = TokenBucket(per_s=1, burst=1)
    assert bucket.take(10)
    assert not bucket.take(5)
    assert not bucket.take(10.5)
    assert bucket.take(11)


def test_a_tenant_may_offer_so_often_and_others_do_not_notice():
    limits = _limits()
    answers = [limits.knock(_token(f"t{number}"), 0.0) for number in range(6)]
    assert answers[:5] == [None] * 5
    assert (answers[5].status, answers[5].code, answers[5].retry_after_s) == (
        429,
        "too_many_offers",
        1,
    )
    assert limits.knock(_token(tenant="other"), 0.0) is None
    assert limits.knock(_token(), 0.2) is None
    assert limits.knock(_token(), 0.2) is not None


def test_the_tenants_that_are_remembered_are_bounded():
    limits = _limits()
    for number in range(MAX_TENANTS + 50):
        limits.knock(_token(tenant=f"n{number}"), 0.0)
    assert len(limits._tenants) == MAX_TENANTS


def test_a_stream_of_bad_media_rests_and_others_do_not():
    limits = _limits()
    limits.rest("acme", "cam", 100.0)
    refused = limits.rested("acme", "cam", 100.5)
    assert (refused.status, refused.code, refused.retry_after_s) == (429, "bad_media", 10)
    assert limits.rested("acme", "other", 100.5) is None
    assert limits.rested("rival", "cam", 100.5) is None
    assert limits.rested("acme", "cam", 100.0 + REST_S) is None
    assert not limits._resting
    for number in range(MAX_RESTING + 5):
        limits.rest("acme", f"s{number}", 0.0)
    assert len(limits._resting) == MAX_RESTING


def test_half_open_publishers_of_a_token_and_of_the_node():
    limits = _limits()
    assert limits.room(_token(), {"t1": 1, "t2": 2}) is None
    refused = limits.room(_token(), {"t1": 2, "t2": 2})
    assert (refused.status, refused.code) == (429, "token_connecting")
    refused = limits.room(_token(), {"t2": 2, "t3": 6})
    assert (refused.status, refused.code) == (503, "too_many_connecting")


def test_the_public_token_has_the_nodes_limit_alone():
    limits = _limits()
    assert all(limits.knock(DEV, 0.0) is None for _ in range(100))
    assert limits.room(DEV, {DEV_TOKEN: 7}) is None
    assert limits.room(DEV, {DEV_TOKEN: 8}).status == 503


async def test_offers_that_never_connect_fill_the_node_and_are_freed(monkeypatch, http):
    monkeypatch.setattr("services.ingest.publication.HANDSHAKE_S", 1)
    monkeypatch.setattr("services.ingest.whip.CHECK_S", 0.05)
    publisher = await offered()
    offer = publisher.localDescription.sdp
    async with serving(half_open=3) as server:
        given = {"data": offer, "headers": AUTH | SDP_TYPE}
        statuses = []
        for number in range(5):
            async with http.post(server.endpoint(f"s{number}"), **given) as response:
                statuses.append(response.status)
                if response.status != 201:
                    problem = await response.json()
                    assert problem["code"] == "too_many_connecting"
                    assert int(response.headers["Retry-After"]) > 0
        assert statuses == [201, 201, 201, 503, 503]
        assert server.whip.statistics().half_open == 3
        async with asyncio.timeout(30):
            while server.whip.publications():
                await asyncio.sleep(0.05)
        assert all(sink.ended == "timeout" for sink in server.sinks.values())
        async with http.post(server.endpoint("again"), **given) as response:
            assert response.status == 201
    await publisher.close()


async def test_connected_publishers_are_not_half_open():
    async with serving(half_open=1) as server, publishing(server, Tone(), stream="a"):
        while server.whip.statistics().half_open:
            await asyncio.sleep(0.01)
        async with publishing(server, Tone(), stream="b"):
            assert server.whip.statistics().live == 2


async def test_a_tenant_that_posts_too_fast_is_told_when_to_come_back():
    async with serving(posts_per_s=2) as server:
        token = _token()
        token = Principal(token.tenant, "customer", token_id="t1", ingest=frozenset({"cam"}))
        server.whip.admit(token, "cam")
        server.whip.admit(token, "cam")
        with pytest.raises(Problem) as refused:
            server.whip.admit(token, "cam")
        assert (refused.value.status, refused.value.code) == (429, "too_many_offers")
        assert refused.value.headers["Retry-After"] == "1"
        server.whip.admit(DEV, "cam")
