"""Two tenants with equal stream names: whatever one asks for, the other's events never reach it."""

import asyncio
import json
import random
from collections import Counter

from websockets.exceptions import ConnectionClosed

from services.auth import Principal
from services.gateway import client, protocol
from services.gateway.client import Rate
from services.gateway.feed import Entry, Feed
from services.gateway.member import Member
from services.gateway.outbox import Outbox
from services.gateway.protocol import Closing, Selection
from services.gateway.requests import Requests
from tests.services.events import record, scored, session, started
from tests.services.gateway.trust import trusted

STREAMS = 50
BY_HAND = 9000
"""Operations on the hub directly, as a connection does them."""
BY_SOCKET = 1000
TENANTS = ("acme", "rival")


def name(tenant, number):
    return f"ses_{tenant}_{number}"


def other(tenant):
    return next(each for each in TENANTS if each != tenant)


SCOPES = {
    "all": (["read:*"], range(STREAMS)),
    "admin": (["admin"], range(STREAMS)),
    "some": ([f"read:s{n}" for n in range(1, 5)], range(1, 5)),
}
"""By name: the scopes of a reader and the streams it mostly asks for."""


def operation(dice, tenant, numbers, foreign=0.01):
    """Anything a reader may ask for: its own, and now and then foreign and senseless things."""
    whose = other(tenant) if dice.random() < foreign else tenant
    named = [name(whose, dice.choice(numbers)) for _ in range(dice.randint(1, 3))]
    if dice.random() < 0.02:
        named = ["*"]
    selection = {"sessions": named, "snapshot": dice.random() < 0.2}
    if dice.random() < 0.3:
        selection["max_hz"] = dice.choice([0.5, 4, 1000])
    chosen = str(dice.randrange(20))
    if dice.random() < 0.5:
        return {"type": "subscribe", "id": chosen, **selection}
    since = {each: dice.choice([-1, 0, 1, 5, 10**6]) for each in named if each != "*"}
    return {"type": "resume", "id": chosen, "since": since, "subscribe": selection}


class Publishing:
    """Writes the next event of a random stream of a random tenant."""

    def __init__(self, bench, dice):
        self.bench = bench
        self.dice = dice
        self.tops = Counter()

    async def begin(self):
        for tenant in TENANTS:
            for number in range(STREAMS):
                await self.bench.session(name(tenant, number), f"s{number}", tenant)

    async def step(self):
        tenant, number = self.dice.choice(TENANTS), self.dice.randrange(STREAMS)
        self.tops[tenant, number] += 1
        seqs = (self.tops[tenant, number],)
        await self.bench.write(name(tenant, number), f"s{number}", tenant, seqs)


class Eyes:
    """One reader of a tenant: what it saw, as text."""

    def __init__(self, tenant, kind):
        self.tenant = tenant
        self.scopes, self.numbers = SCOPES[kind]
        self.seen = []
        self.answered = self.refused = 0
        self.codes = set()

    def check(self):
        foreign = f"ses_{other(self.tenant)}_"
        assert not [text for text in self.seen if foreign in text]
        assert self.codes <= {4403}


class Hand(Eyes):
    """Its connection is an outbox in this test's hands."""

    def __init__(self, bench, tenant, kind):
        super().__init__(tenant, kind)
        rights = {"admin"} & set(self.scopes)
        read = {scope.removeprefix("read:") for scope in self.scopes if scope.startswith("read:")}
        self._principal = Principal(
            tenant, "customer", read=frozenset(read), rights=frozenset(rights), expires_s=1e12
        )
        self._hub = bench.gateway.hub
        self._open()

    def _open(self):
        self._outbox = Outbox(self._hub.notices, asyncio.get_running_loop().time)
        self._outbox.tenant = self.tenant
        self._requests = Requests(self._hub, self._outbox, self._principal)

    async def do(self, wish):
        message = protocol.decode(json.dumps(wish))
        try:
            if isinstance(message, protocol.Resume):
                await self._requests.resume(message)
            else:
                await self._requests.subscribe(message)
            self.answered += 1
        except Closing as closing:
            self.codes.add(int(closing.code))
            self.refused += 1
            self.close()
            self._open()

    def look(self):
        while batch := self._outbox.take(1 << 20):
            self.seen += [
                (item.data if isinstance(item, Entry) else item).decode() for item in batch
            ]

    def close(self):
        self.look()
        self._requests.close()
        self._outbox.leave_all()


class Plugged(Eyes):
    """Its connection is a WebSocket; it comes back when it is cut."""

    async def watch(self, bench, wishes):
        left = list(reversed(wishes))
        while left:
            async with bench.reads(tenant=self.tenant, scope=" ".join(self.scopes)) as reader:
                try:
                    while left:
                        await reader.send(**left.pop())
                        await self._until(reader, '"type":"subscribed"', '"type":"resumed"')
                        self.answered += 1
                    await reader.send(type="ping", id="done")
                    await self._until(reader, '"type":"pong"')
                except ConnectionClosed as closed:
                    self.codes.add(closed.rcvd.code)
                    self.refused += 1

    async def _until(self, reader, *kinds):
        while True:
            text = await asyncio.wait_for(reader.socket.recv(), 60)
            self.seen.append(text)
            if any(kind in text[:30] for kind in kinds):
                return


async def test_a_canary_of_one_tenant_is_never_seen_by_the_other(issuer):
    dice = random.Random(20261125)
    async with trusted(issuer) as bench:
        publishing = Publishing(bench, dice)
        await publishing.begin()
        eyes = [Hand(bench, tenant, kind) for tenant in TENANTS for kind in SCOPES]
        for count in range(BY_HAND):
            each = dice.choice(eyes)
            await each.do(operation(dice, each.tenant, each.numbers))
            if count % 5 == 0:
                await publishing.step()
                await asyncio.sleep(0)
            if count % 20 == 0:
                for each in eyes:
                    each.look()
        for each in eyes:
            each.close()
            each.check()
    assert sum(each.answered + each.refused for each in eyes) == BY_HAND
    assert sum(each.refused for each in eyes) > 50, "foreign sessions were asked for"
    assert sum("window.scored" in text for each in eyes for text in each.seen) > 1000


async def test_and_so_it_is_on_sockets(issuer, monkeypatch):
    monkeypatch.setattr(client, "Rate", lambda now_s: Rate(now_s, per_s=1_000_000))
    dice = random.Random(20261126)
    async with trusted(issuer) as bench:
        publishing = Publishing(bench, dice)
        await publishing.begin()
        eyes = [Plugged(tenant, kind) for tenant in TENANTS for kind in SCOPES]

        async def publish():
            while True:
                await publishing.step()
                await asyncio.sleep(0.002)

        writing = asyncio.create_task(publish())
        try:
            async with asyncio.TaskGroup() as group:
                for each in eyes:
                    wishes = [
                        operation(dice, each.tenant, each.numbers)
                        for _ in range(BY_SOCKET // len(eyes))
                    ]
                    group.create_task(each.watch(bench, wishes))
        finally:
            writing.cancel()
    for each in eyes:
        each.check()
    assert sum(each.answered + each.refused for each in eyes) >= BY_SOCKET - len(eyes)
    assert sum(each.refused for each in eyes) > 3
    assert sum("window.scored" in text for each in eyes for text in each.seen) > 50


def feed_of(tenant, session_id):
    feed = Feed(session(session_id, tenant=tenant))
    feed.receive(record(started(0, session_id)))
    return feed


async def test_an_outbox_refuses_and_gives_up_foreign_places():
    """Even if a fault of ours put one there: looked at when it is taken and at each delivery."""
    outbox = Outbox(None, asyncio.get_running_loop().time)
    outbox.tenant = "acme"
    own, foreign = feed_of("acme", "ses_a"), feed_of("rival", "ses_r")
    outbox.join(Member(own, outbox, Selection(), -1))
    outbox.join(Member(foreign, outbox, Selection(), -1))
    assert set(outbox.members) == {"ses_a"}
    smuggled = Member(foreign, outbox, Selection(), -1)
    outbox.members["ses_r"] = smuggled
    foreign.members.add(smuggled)
    outbox.ready(smuggled)
    assert outbox.runs(10**6) is None
    assert [item.header.session_id for item in outbox.take(10**6)] == ["ses_a"]
    assert set(outbox.members) == {"ses_a"}
    assert outbox.foreign == 2
    foreign.receive(record(scored(1, "ses_r")))
    foreign.tell()
    assert outbox.take(10**6) == []
