"""A gateway that checks real tokens, its HTTP door beside it, and clients that bring them."""

from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from services import problems
from services.bus.memory import MemoryBus
from services.clock import SystemClock
from services.gateway import http, policing
from services.gateway.app import Gateway
from services.gateway.holders import SWEEP_S
from services.identity.open import open_guard
from services.orders import Orders
from services.settings import Settings
from tests.services.events import StreamKey, scored, started
from tests.services.gateway.conftest import Bench

LONG_MS = 100_000_000
DEADLINE_S = SWEEP_S + 30


class Trusted(Bench):
    """A bench whose clients need tokens; sessions of any tenant."""

    def __init__(self, gateway, bus, issuer, orders, door):
        super().__init__(gateway, bus)
        self.issuer = issuer
        self.orders = orders
        self.door = door

    async def session(self, session_id, stream, tenant="acme", seqs=(0,)):
        """Announce a session and write its first events."""
        await self.announce(session_id, stream=stream, tenant=tenant, lease_ms=LONG_MS)
        await self.write(session_id, stream, tenant, seqs)

    async def write(self, session_id, stream, tenant="acme", seqs=()):
        events = [scored(seq, session_id) if seq else started(0, session_id) for seq in seqs]
        await self.publish(*events, key=StreamKey(tenant, stream))

    def reads(self, **claims):
        """A reader with a token of its own: ``read:*`` of acme unless told otherwise."""
        return self.reader(headers=self.issuer.bearer(**({"scope": "read:*"} | claims)))

    async def status(self, method, path, *, status, headers=None, **options):
        """Ask, check the status and return the answer's JSON, if it has some."""
        async with self.door.request(method, path, headers=headers, **options) as answer:
            assert answer.status == status, await answer.text()
            if "json" not in answer.content_type:
                return None
            return await answer.json(content_type=None)

    def sweep(self):
        """Look at all tokens now, as the gateway does twice a second."""
        self.gateway.holders.sweep(self.clock.wall_ms())


@asynccontextmanager
async def trusted(issuer, *, clock=None, bus=None, **settings):
    made = Settings(ws_port=0, http_port=8080, token_keys=str(issuer.jwks), **settings)
    clock, bus = clock or SystemClock(), bus or MemoryBus()
    async with (
        Orders(bus, clock) as orders,
        open_guard(made, clock, orders) as guard,
        Gateway(bus, guard=guard, clock=clock, settings=made, orders=orders) as gateway,
    ):
        app = web.Application(middlewares=[problems.middleware])
        http.routes(app, gateway)
        policing.routes(app, gateway)
        async with TestClient(TestServer(app)) as door:
            yield Trusted(gateway, bus, issuer, orders, door)
