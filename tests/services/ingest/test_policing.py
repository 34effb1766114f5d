"""The policy at the door, over real connections: media of who is not scored is never looked at."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiortc import RTCSessionDescription

from pipeline.events import SessionEnded, SessionStarted, WindowScored, WindowSkipped
from services.auth import Guard, Principal, Unauthorised
from services.bus.memory import MemoryBus
from services.clock import SystemClock
from services.orders import Orders
from tests.pipeline.readings import outcome
from tests.services.ingest.support import (
    SDP_TYPE,
    Card,
    DirectScoring,
    Publisher,
    Tone,
    publishing,
    serving,
)

ISSUED = {
    "agent": {"role": "agent"},
    "customer": {"role": "customer"},
    "mixed": {"role": "customer", "mixed": True},
    "hiring": {"role": "customer", "context": "recruitment"},
    "nobody": {"role": "unknown"},
    "elsewhere": {"role": "customer", "policy": "us-il"},
}


class Issuer:
    """Stands where signatures are checked: each word is the token of one kind of participant."""

    def verify(self, token):
        if token not in ISSUED:
            raise Unauthorised("this token is not known here")
        return Principal(
            tenant="default",
            token_id=f"jti-{token}",
            subject=token,
            rights=frozenset(),
            **ISSUED[token],
        )

    def revoked(self, principal):
        return False


class Notes:
    """An audit log in a list."""

    def __init__(self):
        self.rows = []

    def note(self, kind, principal, **facts):
        self.rows.append((kind, principal and principal.subject, facts))

    async def require(self, kind, principal, **facts):
        self.note(kind, principal, **facts)


class Talkative(DirectScoring):
    """Finds a voice and a face in every window."""

    def _result(self, job):
        _, timing = super()._result(job)
        return outcome(job.window.index), timing


GUARD = Guard(loopback_only=True, verifier=Issuer())


@asynccontextmanager
async def published(server, token, *tracks, stream="cam"):
    async with aiohttp.ClientSession() as http:
        publisher = Publisher(server.endpoint(stream), *tracks)
        sdp = await publisher.offer()
        headers = {"Authorization": f"Bearer {token}"} | SDP_TYPE
        async with http.post(publisher.url, data=sdp, headers=headers) as response:
            assert response.status == 201, await response.text()
            answer, publisher.location = await response.text(), response.headers["Location"]
        await publisher.peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        publisher.http, publisher.headers = http, headers
        try:
            yield publisher
        finally:
            await publisher.close()


async def until(condition, timeout_s=30):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_media_of_a_role_that_is_not_scored_is_never_decoded():
    notes, role = Notes(), "agent"
    async with serving(guard=GUARD, audit=notes, scoring=Talkative()) as server:
        async with (
            published(server, role, Tone(), Card(), stream="theirs") as theirs,
            publishing(server, Tone(), stream="ours"),
        ):
            unseen, seen = server.whip.publications()
            await until(lambda: unseen.statistics().lost.get("policy", 0) > 100)
            await server.sink(1).until(lambda sink: sink.of(WindowScored))
            assert seen.statistics().decoded > 0
            books = unseen.statistics()
            assert books.decoded == 0
            assert books.undecoded == 0
            assert unseen.session.gate.dropped == books.lost["policy"]
            assert unseen.session.statistics().cut == 0
            async with theirs.http.delete(theirs.location, headers=theirs.headers) as response:
                assert response.status == 200
        started, ended = server.sink(0).events
        assert isinstance(started, SessionStarted)
        assert isinstance(ended, SessionEnded)
        (participant,) = started.participants
        assert (participant.role, participant.scored, participant.why_not) == (
            role,
            False,
            "policy_role",
        )
        assert started.policy == ended.policy
        assert started.policy.startswith("eu-strict@")
        assert {job.session_id for job in server.scoring.jobs} == {seen.session.session_id}
    kind, subject, facts = notes.rows[0]
    assert (kind, subject, facts["scored"]) == ("published", role, False)
    assert facts["why_not"] == "policy_role"


@pytest.mark.parametrize(
    ("token", "why", "words"),
    [
        ("mixed", "policy_mixed", "one person per track"),
        ("hiring", "policy_context", "'recruitment'"),
        ("nobody", "policy_unknown_role", "part_role"),
        ("elsewhere", "policy_other", "another policy"),
    ],
)
async def test_who_is_refused_learns_why_and_leaves_no_trace_but_a_row(token, why, words):
    notes = Notes()
    async with serving(guard=GUARD, audit=notes) as server, aiohttp.ClientSession() as http:
        headers = {"Authorization": f"Bearer {token}"} | SDP_TYPE
        async with http.post(server.endpoint(), data="v=0", headers=headers) as response:
            problem = await response.json()
        assert (response.status, problem["code"]) == (403, "policy_denied")
        assert words in problem["detail"]
        assert not server.sinks
    ((kind, subject, facts),) = notes.rows
    assert (kind, subject, facts["why"]) == ("refused", token, why)


async def test_consent_opens_the_gate_and_its_withdrawal_ends_the_session():
    async with (
        Orders(MemoryBus(), SystemClock()) as orders,
        serving(guard=GUARD, orders=orders, scoring=Talkative()) as server,
        published(server, "customer", Tone(), Card()),
    ):
        (publication,) = server.whip.publications()
        sink, session_id = server.sink(), publication.session.session_id
        await until(lambda: publication.statistics().lost.get("policy", 0) > 100)
        assert sink.events == []
        assert publication.statistics().decoded == 0

        far_ms = SystemClock().wall_ms() + 60_000
        await orders.give("consent", session_id, "granted", far_ms)
        await sink.until(lambda sink: len(sink.of(WindowScored)) >= 2)
        (started,) = sink.of(SessionStarted)
        assert started.participants[0].scored
        await until(lambda: any(job.window.frames for job in server.scoring.jobs))

        await orders.give("consent", session_id, "withdrawn", far_ms)
        told = len(sink.of(WindowScored))
        await sink.until(lambda sink: sink.ended)
        assert sink.ended == "policy"
        assert sink.erased
        assert len(sink.of(WindowScored)) == told
        await until(lambda: not server.whip.publications())


async def test_a_session_that_begins_while_scoring_is_off_is_skipped_from_its_first_window():
    async with (
        Orders(MemoryBus(), SystemClock()) as orders,
        serving(orders=orders, scoring=Talkative()) as server,
    ):
        await orders.give("scoring", "*", "off", SystemClock().wall_ms() + 60_000)
        async with publishing(server, Tone()):
            await server.sink().until(lambda sink: len(sink.of(WindowSkipped)) >= 2)
            assert server.sink().of(WindowScored) == []


async def test_an_objection_is_heard_where_nobody_was_asked():
    async with (
        Orders(MemoryBus(), SystemClock()) as orders,
        serving(orders=orders, scoring=Talkative()) as server,
        publishing(server, Tone()),
    ):
        (session,) = server.whip.sessions()
        far_ms = SystemClock().wall_ms() + 60_000
        await orders.give("consent", session.session_id, "withdrawn", far_ms)
        await server.sink().until(lambda sink: sink.ended)
        assert server.sink().ended == "policy"
