"""Delivery as a state machine: real owners, bus, hub and readers, and everything that can go wrong.

Owners cut windows and answer them in any order; the bus goes away, forgets, loses live copies; a
second owner takes a stream over; readers come, fall behind, leave and resume from true and absurd
places. After each step the books add up and no reader has seen anything twice, out of order or
with a hole that nobody announced (I1 to I4 and I6 of the delivery design).

Time is virtual and chance is hypothesis's, so a failure replays. ``make chaos`` sets
``DEMEANOR_CHAOS_EXAMPLES`` for more examples with new seeds.
"""

import asyncio
import contextlib
import os
import random
from collections import defaultdict
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from structlog.testing import capture_logs

from pipeline.errors import BusError
from pipeline.events import AnyEvent, Gap
from services.auth import Principal
from services.bus.memory import MemoryBus
from services.bus.types import Session, StreamKey
from services.bus.writer import open_writer
from services.client import Link, Reader
from services.gateway import protocol
from services.gateway.feed import Entry, text_frame
from services.gateway.hub import Hub
from services.gateway.outbox import Outbox
from services.gateway.protocol import Closing
from services.gateway.requests import Requests
from services.queues import Registry
from tests.chaos.call import SKIPS, Call, seen
from tests.chaos.ledger import Hole, audit, judge
from tests.services.virtual import VirtualLoop

EXAMPLES = int(os.environ.get("DEMEANOR_CHAOS_EXAMPLES", "0"))
TENANTS = ("a", "b")
STREAMS = ("x", "y")
IN_FLIGHT = 64
CALM_S = 30.0
"""Longer than any patience of the hub."""


class WatchedBus(MemoryBus):
    """Notes what enters a log behind the first record of a newer owner."""

    def __init__(self, clock):
        super().__init__(clock)
        self.stale = []
        self._newest = {}

    def _accept(self, log, record):
        accepted = super()._accept(log, record)
        if accepted:
            name = next(key for key, held in self._logs.items() if held is log)
            newest = self._newest.get(name, -1)
            if record.header.epoch < newest:
                self.stale.append(record.header)
            self._newest[name] = max(newest, record.header.epoch)
        return accepted

    def wipe(self):
        super().wipe()
        self._newest.clear()  # a server without a memory cannot fence


class Owner:
    """One session of one ingest process."""

    def __init__(self, bus, loop, number, tenant, stream):
        self.bus = bus
        self.loop = loop
        self.tenant = tenant
        self.stream = stream
        self.session_id = f"ses_{tenant}{number}"
        self.stop = None
        self.over = self.wiped = False
        self.writer = self.call = self.closing = None

    async def open(self):
        key = StreamKey(self.tenant, self.stream)
        epoch = await self.bus.epoch(key, self.loop.wall_ms())
        self.call = Call(self.session_id, self.stream, epoch, random.Random(1))
        entry = Session(
            self.session_id, self.tenant, self.stream, epoch, "ing_1", "live", "customer"
        )
        self.writer = await open_writer(self.bus, self.loop, entry, on_stop=self._stop)
        self.writer.put(self.call.begin(self.loop.wall_ms()))

    def _stop(self, why):
        assert self.stop is None, "told once"
        self.stop = why

    def end(self):
        """End the session; what is held is written out in the background, over an outage too."""
        self.over = True
        self.writer.put(self.call.end(self.loop.wall_ms()))
        self.closing = self.loop.create_task(self.writer.close())

    @property
    def written(self):
        """Whether everything got out and stayed where a reader can find it.

        Not with a newer owner, not over an outage that outlasted the end, and not in a server that
        lost its memory when this owner was gone: then nobody has it any more.
        """
        return not (self.stop or self.wiped or self.pending)

    @property
    def pending(self):
        return self.writer.statistics()["pending"]


class App:
    """An application behind the client library; the socket between is a list."""

    def __init__(self, hub, loop, tenant):
        self._hub = hub
        self._loop = loop
        self.tenant = tenant
        self.reader = Reader("ws://127.0.0.1", None)
        self.lines = defaultdict(list)
        self.first = {}
        """Where each session began for this application, if not at its start."""
        self._outbox = self._requests = None
        self._texts = []

    @property
    def connected(self):
        return self._requests is not None

    async def connect(self):
        """Subscribe or resume as the client library does; a refusal leaves us disconnected."""
        self._outbox = Outbox(self._hub.notices, self._loop.time)
        self._requests = Requests(self._hub, self._outbox, Principal(self.tenant, "self"))
        try:
            await self.reader._greet(self)
        except (Closing, BusError):
            self.disconnect()

    async def send(self, text):
        message = protocol.decode(text)
        if isinstance(message, protocol.Subscribe):
            await self._requests.subscribe(message)
        else:
            await self._requests.resume(message)

    def disconnect(self):
        """What the gateway had not handed over is lost with the connection."""
        if self._requests is not None:
            self._requests.close()
            self._outbox.leave_all()
        self._requests = self._outbox = None

    async def read(self, limit_bytes):
        """Take what waits, about ``limit_bytes`` of it; a closed connection is noticed."""
        if not self.connected:
            return
        if self._outbox.closing:
            self.disconnect()
            return
        pieces = self._outbox.runs(limit_bytes)
        if pieces is None:
            batch = self._outbox.take(limit_bytes)
            pieces = [i.frame if isinstance(i, Entry) else text_frame(i) for i in batch]
        self._texts = [text for piece in pieces for text in texts(piece)]
        async for item in self.reader._read(self):
            if not isinstance(item, Link):
                self.note(item)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._texts:
            raise StopAsyncIteration
        text = self._texts.pop(0)
        message = msgspec.json.decode(text)
        if message["type"] == "subscribed":
            for event in message["snapshot"]:
                self.first.setdefault(event["session_id"], event["seq"])
        return text

    def note(self, event: AnyEvent):
        if isinstance(event, Gap) and event.kind == "delivery":
            self.lines[event.session_id].append(
                Hole(event.session_id, event.from_seq, event.to_seq)
            )
        elif event.seq is not None:
            self.lines[event.session_id].append(seen(event))


def texts(piece):
    """Return the payloads of unmasked text frames in one piece."""
    while piece:
        size, head = piece[1], 2
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(piece[2:head], "big")
        yield piece[head : head + size]
        piece = piece[head + size :]


class Delivery(RuleBasedStateMachine):
    @initialize()
    def open(self):
        self.loop = VirtualLoop()
        self.bus = WatchedBus(self.loop)
        self.hub = Hub(self.bus, self.loop, Registry())
        self.do(self.hub.__aenter__())
        self.owners = []
        self.apps = []
        self.away = contextlib.ExitStack()
        self.outage = self.deaf = False

    def do(self, work):
        return self.loop.run_until_complete(work)

    def alive(self):
        return [owner for owner in self.owners if not owner.over]

    # owners

    @rule(tenant=st.sampled_from(TENANTS), stream=st.sampled_from(STREAMS))
    def publish(self, tenant, stream):
        """A publisher comes; one that streams under this name already becomes a zombie."""
        if len(self.alive()) >= 4:
            return
        owner = Owner(self.bus, self.loop, len(self.owners), tenant, stream)
        self.loop.pass_time(0.002)
        with contextlib.suppress(BusError):  # refused at the door: no session
            self.do(owner.open())
            self.owners.append(owner)

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), count=st.integers(1, 12))
    def cut(self, data, count):
        owner = data.draw(st.sampled_from(self.alive()))
        for _ in range(count):
            owner.call.cut()
            if owner.call.stream.in_flight > IN_FLIGHT - 1:
                self._answer(owner, owner.call.open[0], None)
        self.loop.pass_time(0)

    @precondition(lambda self: any(owner.call.open for owner in self.alive()))
    @rule(data=st.data())
    def answer(self, data):
        """Some windows are scored or skipped, in any order."""
        owner = data.draw(st.sampled_from([o for o in self.alive() if o.call.open]))
        order = data.draw(st.permutations(owner.call.open[:6]))
        for index in order:
            self._answer(owner, index, data.draw(st.sampled_from([None, None, *SKIPS])))
        self.loop.pass_time(0)

    def _answer(self, owner, index, skip):
        owner.writer.put(owner.call.answer(index, self.loop.wall_ms(), skip))

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), count=st.sampled_from([40, 130, 300]))
    def burst(self, data, count):
        """More at once than a log, a queue or a ring holds."""
        owner = data.draw(st.sampled_from(self.alive()))
        for turn in range(count):
            self._answer(owner, owner.call.cut(), "stale")
            if turn % 50 == 49:
                self.loop.pass_time(0)
        self.loop.pass_time(0.01)

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def end(self, data):
        data.draw(st.sampled_from(self.alive())).end()
        self.loop.pass_time(0)

    # the bus

    @precondition(lambda self: not self.outage)
    @rule(wiped=st.booleans())
    def bus_goes(self, wiped):
        self.away.enter_context(self.bus.outage())
        self.outage = True
        if wiped:
            self._wipe()

    @precondition(lambda self: self.outage)
    @rule(wiped=st.booleans())
    def bus_returns(self, wiped):
        if wiped:
            self._wipe()
        self.away.close()
        self.outage = False
        self.loop.pass_time(0.01)

    @precondition(lambda self: not self.outage)
    @rule()
    def bus_forgets(self):
        """The logs go between two commands, and nobody is told."""
        self._wipe()

    def _wipe(self):
        self.bus.wipe()
        for owner in self.owners:
            owner.wiped = owner.wiped or (owner.over and not owner.pending)

    @precondition(lambda self: not self.deaf)
    @rule()
    def live_path_breaks(self):
        """Published copies get lost, as pub/sub may at any time."""
        self.live = self.bus._live.copy()
        self.bus._live.clear()
        self.deaf = True

    @precondition(lambda self: self.deaf)
    @rule()
    def live_path_mends(self):
        self.bus._live.update(self.live)
        self.deaf = False

    # readers

    @rule(tenant=st.sampled_from(TENANTS))
    def connect(self, tenant):
        if len(self.apps) < 4:
            self.apps.append(App(self.hub, self.loop, tenant))
            self.do(self.apps[-1].connect())

    @precondition(lambda self: self.apps)
    @rule(data=st.data())
    def reconnect(self, data):
        app = data.draw(st.sampled_from(self.apps))
        app.disconnect()
        self.do(app.connect())

    @precondition(lambda self: any(app.connected for app in self.apps))
    @rule(data=st.data())
    def disconnect(self, data):
        data.draw(st.sampled_from([app for app in self.apps if app.connected])).disconnect()

    @precondition(lambda self: self.apps)
    @rule(data=st.data(), limit=st.sampled_from([1, 3_000, 1 << 16, 1 << 20]))
    def read(self, data, limit):
        self.do(data.draw(st.sampled_from(self.apps)).read(limit))

    @rule(
        since=st.dictionaries(
            st.sampled_from(["ses_a0", "ses_b1", "ses_a2", "ses_none", "x" * 65, ""]),
            st.one_of(st.integers(-3, 3), st.sampled_from([10**6, 2**53, -(2**70)])),
            max_size=3,
        ),
        tenant=st.sampled_from(TENANTS),
    )
    def resume_from_nowhere(self, since, tenant):
        """Absurd positions are refused or served; they never break another reader."""
        app = App(self.hub, self.loop, tenant)
        app.reader.since = dict(since)
        self.do(app.connect())
        self.do(app.read(1 << 20))
        app.disconnect()
        for session, lines in app.lines.items():
            assert session.startswith(f"ses_{tenant}")
            at = since.get(session, -1)
            for line in lines:
                assert (line.first if isinstance(line, Hole) else line.seq) > at
                at = line.last if isinstance(line, Hole) else line.seq

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.1, 5.5, 12.0]))
    def wait(self, seconds):
        self.loop.pass_time(seconds)

    # what must hold

    @invariant()
    def books_add_up(self):
        if not hasattr(self, "owners"):
            return
        for owner in self.owners:
            stream = owner.call.stream
            skipped = sum(stream.skipped.values())
            assert stream.cut_count == stream.scored + skipped + stream.in_flight
            assert stream.in_flight <= IN_FLIGHT
            assert audit(owner.call.book) == []
        for one, two in self._takeovers():
            assert one.call.book.epoch < two.call.book.epoch

    def _takeovers(self):
        by_stream = defaultdict(list)
        for owner in self.owners:
            by_stream[owner.tenant, owner.stream].append(owner)
        return [pair for owners in by_stream.values() for pair in pairwise(owners)]

    @invariant()
    def nobody_missed_anything_in_silence(self):
        if not hasattr(self, "owners"):
            return
        assert self.bus.stale == []
        for app in self.apps:
            for session, lines in app.lines.items():
                assert session.startswith(f"ses_{app.tenant}"), "another tenant's event"
                self._judge(app, session, lines, whole=False)

    def _judge(self, app, session, lines, *, whole):
        (owner,) = [owner for owner in self.owners if owner.session_id == session]
        first = app.first.get(session, 0)
        verdict = judge(lines, owner.call.book, first=first, whole=whole)
        assert verdict.faults == [], (owner.writer.statistics(), lines[-5:])

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        try:
            if hasattr(self, "apps"):
                self._calm()
                self.nobody_missed_anything_in_silence()
                self.books_add_up()
                self._everybody_has_everything()
        finally:
            self._close()

    def _calm(self):
        """The weather turns fair; readers read, owners write what they hold, sessions end."""
        if self.outage:
            self.bus_returns(wiped=False)
        if self.deaf:
            self.live_path_mends()
        for _ in range(3):
            self.loop.pass_time(CALM_S / 3)
            self._read_all()
        self.survivors = self.alive()
        for owner in self.survivors:
            owner.end()
        for _ in range(3):
            self.loop.pass_time(CALM_S / 3)
            self._read_all()

    def _read_all(self):
        for app in self.apps:
            if not app.connected:
                self.do(app.connect())
            for _ in range(20):
                self.do(app.read(1 << 20))

    def _everybody_has_everything(self):
        replaced = {older for older, _ in self._takeovers()}  # readers were told, and let go
        for app in self.apps:
            assert app.connected
            for session, lines in app.lines.items():
                owner = next(owner for owner in self.owners if owner.session_id == session)
                if owner.written and owner not in replaced:
                    self._judge(app, session, lines, whole=True)
            for owner in self.survivors:
                if owner.tenant == app.tenant and owner.written and owner not in replaced:
                    assert owner.session_id in app.lines, "a live session was never joined"

    def _close(self):
        for owner in self.owners:
            self.do(owner.closing or owner.writer.close())
        for app in self.apps:
            app.disconnect()
        self.do(self.hub.__aexit__(None, None, None))
        self.loop.end()


def profile():
    if EXAMPLES:
        return settings(max_examples=EXAMPLES, print_blob=True)
    return settings(max_examples=200, derandomize=True)


@pytest.mark.timeout(60 + EXAMPLES)
def test_delivery_holds_whatever_happens():
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    tuned = settings(profile(), deadline=None, stateful_step_count=30, suppress_health_check=checks)
    with capture_logs():  # thousands of outages have much to say
        run_state_machine_as_test(Delivery, settings=tuned)


def test_time_passes_only_when_nothing_is_left_to_do():
    loop = VirtualLoop()
    marks = []

    async def tick(each_s, times):
        for _ in range(times):
            await asyncio.sleep(each_s)
            marks.append(round(loop.time(), 6))

    async def both():
        await asyncio.gather(tick(1000.0, 2), tick(700.0, 2))

    loop.run_until_complete(both())
    loop.end()
    assert marks == [700.0, 1000.0, 1400.0, 2000.0]
