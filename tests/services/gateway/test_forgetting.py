"""What the bus has forgotten is not kept warm by a gateway, however lately somebody looked."""

from services.bus.memory import MemoryBus
from services.bus.types import KEPT_MS
from services.gateway.hub import Hub
from services.queues import Registry
from tests.services.events import KEY, ManualClock, ended, record, scored, session, started


async def test_scores_leave_a_gateway_when_their_time_is_over():
    clock = ManualClock()
    bus = MemoryBus(clock)
    entry = session(state="ended")
    await bus.announce(entry, clock.now_ms)
    await bus.append(KEY, [record(event) for event in (started(), scored(1), ended(2))])
    async with Hub(bus, clock, Registry()) as hub:
        await hub.serve("default")
        clock.now_ms += KEPT_MS - 500
        await hub.tick(tails=False)
        feed = await hub.feed(await hub.find("default", "ses_1"))
        assert len(feed.entries) == 3
        clock.now_ms += 1_000
        await hub.tick(tails=False)
        assert hub.statistics()["feeds"] == 0
        assert (await bus.replay(KEY, entry.epoch, -1)).records == ()
