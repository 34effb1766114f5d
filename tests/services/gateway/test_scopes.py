"""What a token reads and erases: by session id, by stream name, within its own tenant only."""

import asyncio
import json

import pytest

from services.bus.types import StreamKey
from tests.services.events import ended, scored
from tests.services.gateway.test_http import Sse


async def code_of(reader, **message):
    await reader.send(**message)
    seen, code = await reader.rest()
    return code, seen[-1]["code"]


@pytest.mark.parametrize("scope", ["read:ses_a", "read:a", "read:*", "admin", "read:a read:b"])
async def test_a_scope_names_a_session_or_a_stream_and_admin_reads_all(acme, scope):
    async with acme.reads(scope=scope) as reader:
        answer = await reader.ask(type="subscribe", id="1", sessions=["ses_a"], snapshot=True)
        assert answer["sessions"] == ["ses_a"]
        assert answer["snapshot"][0]["session_id"] == "ses_a"


@pytest.mark.parametrize(
    ("scope", "session"),
    [
        ("read:ses_b", "ses_a"),
        ("read:b", "ses_a"),
        ("read:ses", "ses_a"),
        ("read:ses_a", "ses_r"),
        ("read:*", "ses_r"),
        ("admin", "ses_r"),
        ("read:b", "ses_nobody"),
        ("ingest:a", "ses_a"),
        ("alerts:ack explain", "ses_a"),
    ],
)
async def test_a_named_session_that_is_not_readable_4403(acme, scope, session):
    role = {"part_role": "customer"}
    async with acme.reads(scope=scope, **role) as reader:
        assert await code_of(reader, type="subscribe", sessions=[session]) == (4403, "forbidden")
    async with acme.reads(scope=scope, **role) as reader:
        message = {"type": "resume", "since": {session: 0}, "subscribe": {"sessions": []}}
        assert await code_of(reader, **message) == (4403, "forbidden")


async def test_a_readable_session_that_does_not_exist_4404(acme):
    for scope in ("read:*", "read:ses_nobody", "admin"):
        async with acme.reads(scope=scope) as reader:
            assert (await code_of(reader, type="subscribe", sessions=["ses_nobody"]))[0] == 4404


async def test_a_publisher_reads_nothing_not_even_all(acme):
    async with acme.reads(scope="ingest:a") as reader:
        assert await code_of(reader, type="subscribe") == (4403, "forbidden")


async def test_all_means_all_readable_newcomers_too(acme):
    async with acme.reads(scope="read:b read:new read:ses_d") as reader:
        answer = await reader.ask(type="subscribe", id="1")
        assert answer["sessions"] == ["ses_b"]
        for session_id, stream in (("ses_c", "other"), ("ses_n", "new"), ("ses_d", "free")):
            await acme.session(session_id, stream)
        await acme.session("ses_rn", "new", "rival")
        await acme.write("ses_a", "a", seqs=(1,))
        await acme.write("ses_b", "b", seqs=(1,))
        seen = {(e["session_id"], e["seq"]) for e in await reader.take(3)}
        assert seen == {("ses_n", 0), ("ses_d", 0), ("ses_b", 1)}
        assert (await reader.ask(type="ping", id="p"))["type"] == "pong", "and nothing else"


async def test_resume_of_all_replays_readable_sessions_only(acme):
    async with acme.reads(scope="read:a") as reader:
        answer = await reader.ask(type="resume", id="1", since={})
        assert answer["recovered"] == {"ses_a": 1}
        assert (await reader.next())["session_id"] == "ses_a"
        assert (await reader.ask(type="ping", id="p"))["type"] == "pong"


async def test_rest_lists_and_opens_what_is_readable(acme):
    def bearer(scope, **claims):
        return acme.issuer.bearer(scope=scope, **claims)

    async def listed(headers):
        page = await acme.status("GET", "/v1/sessions", status=200, headers=headers)
        return [item["session_id"] for item in page["sessions"]]

    assert await listed(bearer("read:*")) == ["ses_a", "ses_b"]
    assert await listed(bearer("read:a")) == ["ses_a"]
    assert await listed(bearer("read:none")) == []
    assert await listed(bearer("admin")) == ["ses_a", "ses_b"]
    assert await listed(bearer("read:*", tenant="rival")) == ["ses_r"]
    for path in ("", "/state", "/timeline", "/events"):
        address = f"/v1/sessions/ses_a{path}"
        await acme.status("GET", address, status=200, headers=bearer("read:a"))
        for scope in ("read:b", "read:ses_r"):
            found = await acme.status("GET", address, status=404, headers=bearer(scope))
            nobody = await acme.status(
                "GET", f"/v1/sessions/ses_no{path}", status=404, headers=bearer(scope)
            )
            assert (found["code"], found["detail"]) == (nobody["code"], nobody["detail"])
        await acme.status("GET", address, status=404, headers=bearer("admin", tenant="rival"))
        problem = await acme.status("GET", address, status=403, headers=bearer("ingest:a"))
        assert problem["code"] == "forbidden"


async def test_sse_of_all_delivers_what_is_readable(acme):
    headers = acme.issuer.bearer(scope="read:b read:new")
    async with acme.door.get("/v1/events", headers=headers) as answer:
        stream = Sse(answer)
        await acme.write("ses_a", "a", seqs=(1,))
        await acme.session("ses_n", "new")
        await acme.session("ses_x", "x")
        await acme.write("ses_b", "b", seqs=(1,))
        seen = {item["id"] for item in await stream.take(2)}
    assert seen == {"ses_n:0", "ses_b:1"}


async def test_who_may_erase(acme):
    async def erase(status, session="ses_a", **claims):
        headers = acme.issuer.bearer(**claims)
        await acme.status("DELETE", f"/v1/sessions/{session}", status=status, headers=headers)

    for session_id, stream in (("ses_a", "a"), ("ses_b", "b")):
        await acme.publish(ended(1, session_id), key=StreamKey("acme", stream))
        await acme.announce(session_id, stream=stream, tenant="acme", state="ended")
    await erase(403, scope="read:*")
    await erase(403, scope="read:* ingest:b")
    await erase(404, scope="admin", tenant="rival")
    await erase(404, scope="ingest:a", tenant="rival")
    await erase(404, "ses_nobody", scope="ingest:a")
    assert (await acme.bus.replay(StreamKey("acme", "a"), 1000, -1)).records
    await erase(204, scope="ingest:a")
    await erase(204, "ses_b", scope="admin")
    assert not (await acme.bus.replay(StreamKey("acme", "a"), 1000, -1)).records
    await erase(404, scope="ingest:a")


async def test_metrics_are_for_neighbours_and_admins(acme):
    await acme.status("GET", "/metrics", status=200)
    await acme.status("GET", "/metrics", status=403, headers={"Host": "evil.example"})
    await acme.status("GET", "/metrics", status=401, headers={"Authorization": "Bearer x"})
    await acme.status("GET", "/metrics", status=401, headers={"X-Forwarded-For": "192.0.2.7"})
    await acme.status("GET", "/metrics", status=403, headers=acme.issuer.bearer(scope="read:*"))
    await acme.status("GET", "/metrics", status=200, headers=acme.issuer.bearer(scope="admin"))


async def test_metrics_away_from_loopback_are_for_admins(issuer):
    from tests.services.gateway.trust import trusted

    async with trusted(issuer, host="0.0.0.0") as bench:
        await bench.status("GET", "/metrics", status=401)
        await bench.status("GET", "/metrics", status=403, headers=issuer.bearer(scope="read:*"))
        await bench.status("GET", "/metrics", status=200, headers=issuer.bearer(scope="admin"))
        await bench.status("GET", "/livez", status=200, headers={"Host": "any.example"})


async def test_a_record_on_a_foreign_channel_reaches_nobody(acme):
    """A node that writes under another tenant's name is not believed."""
    async with acme.reads(scope="read:*") as reader:
        await reader.ask(type="subscribe", id="1", sessions=["ses_a"])
        async with acme.reads(scope="read:*", tenant="rival") as rival:
            await rival.ask(type="subscribe", id="1")
            await acme.bus.append(  # ses_a's next record, on the channel of rival's stream
                StreamKey("rival", "a"), [_claiming("ses_a", 1)], restart=False
            )
            await acme.write("ses_a", "a", seqs=(1,))
            assert (await reader.next())["emotions"]["angry"] == 0.75
            assert (await reader.ask(type="ping", id="p"))["type"] == "pong"
            assert (await rival.ask(type="ping", id="p"))["type"] == "pong"


def _claiming(session_id, seq):
    from tests.services.events import record

    event = scored(seq, session_id)
    event = type(event)(
        **{name: getattr(event, name) for name in event.__struct_fields__}
        | {"emotions": {"neutral": 1.0, "angry": 0.0}}
    )
    return record(event)


async def test_an_audit_row_for_each_subscription_and_refusal(acme):
    rows = []

    class Rows:
        def note(self, kind, principal, **facts):
            rows.append((kind, principal.tenant, facts))

        async def require(self, kind, principal, **facts):
            await asyncio.sleep(0)
            self.note(kind, principal, **facts)

    acme.gateway.audit = Rows()
    async with acme.reads(scope="read:a") as reader:
        await reader.ask(type="subscribe", id="1", sessions=["ses_a"])
        await reader.ask(type="subscribe", id="2")
        await code_of(reader, type="subscribe", sessions=["ses_b"])
    assert rows == [
        ("subscribed", "acme", {"session": "ses_a"}),
        ("subscribed", "acme", {"session": "*"}),
        ("refused", "acme", {"session": "ses_b", "why": "not_readable"}),
    ]


async def test_nobody_new_reads_while_the_audit_log_is_away(acme):
    from services.audit import AuditAway

    class Away:
        def note(self, kind, principal, **facts):
            pass

        async def require(self, kind, principal, **facts):
            raise AuditAway

    async with acme.reads() as early:
        await early.ask(type="subscribe", id="1")
        acme.gateway.audit = Away()
        async with acme.reads() as late:
            assert await code_of(late, type="subscribe") == (1013, "audit_away")
        headers = acme.issuer.bearer(scope="read:*")
        problem = await acme.status("GET", "/v1/events", status=503, headers=headers)
        assert problem["code"] == "audit_away"
        await acme.write("ses_a", "a", seqs=(1,))
        assert json.dumps(await early.next()).count("ses_a"), "who reads already goes on"
