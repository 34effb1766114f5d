"""Standing orders: obeyed everywhere, kept over an outage, given again to a bus that forgot."""

import pytest

from pipeline.errors import BusError
from services import orders
from services.bus.memory import MemoryBus
from services.orders import Orders
from tests.services.ingest.support import ManualClock


async def test_an_order_reaches_the_other_process_and_expires():
    bus, clock = MemoryBus(), ManualClock()
    heard = []
    async with Orders(bus, clock) as here, Orders(bus, clock) as there:
        there.on_change(lambda: heard.append(there.value("scoring", "*")))
        await here.give("scoring", "*", "off", clock.wall_ms() + 10_000)
        assert here.value("scoring", "*") == "off"
        await there._read()
        assert there.value("scoring", "*") == "off"
        assert there.value("scoring", "acme") is None
        clock.now_s += 11
        assert there.value("scoring", "*") is None
        await there._read()
    assert heard == ["off", None]


async def test_orders_hold_while_the_bus_is_away_and_come_back_after_it_forgot():
    bus, clock = MemoryBus(), ManualClock()
    async with Orders(bus, clock) as known:
        await known.give("revoked", "jti_1", "", clock.wall_ms() + 60_000)
        with bus.outage():
            bus.wipe()
            await known._read()
            assert known.value("revoked", "jti_1") == ""
            with pytest.raises(BusError):
                await known.give("revoked", "jti_2", "", clock.wall_ms() + 60_000)
            assert known.value("revoked", "jti_2") is None
        assert known.failures == 1
        await known._read()
        async with Orders(bus, clock) as late:
            assert late.value("revoked", "jti_1") == ""


async def test_the_board_has_a_bound(monkeypatch):
    monkeypatch.setattr(orders, "LARGEST", 2)
    bus, clock = MemoryBus(), ManualClock()
    async with Orders(bus, clock) as board:
        await board.give("revoked", "a", "", clock.wall_ms() + 1000)
        await board.give("revoked", "b", "", clock.wall_ms() + 9000)
        with pytest.raises(BusError, match="2 orders stand already"):
            await board.give("revoked", "c", "", clock.wall_ms() + 9000)
        await board.give("revoked", "b", "", clock.wall_ms() + 8000)
        clock.now_s += 2
        await board.give("revoked", "c", "", clock.wall_ms() + 9000)
