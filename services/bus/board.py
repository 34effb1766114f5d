"""Standing orders on one Redis or Valkey server: one hash, small and read twice a second."""

from typing import Final

import msgspec

from services.bus import keys
from services.bus.appender import wrapped
from services.bus.server import Client
from services.orders import Kind, Order, check_room

_orders: Final[msgspec.json.Decoder[Order]] = msgspec.json.Decoder(Order)


class RedisBoard:
    """``OrderBoard`` on a standalone server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def give_order(self, order: Order, now_ms: int) -> None:
        """Put or replace an order; expired ones leave on the way."""
        standing = await self._read()
        expired = [field for field, held in standing.items() if held.expires_ms <= now_ms]
        field = _field(order.kind, order.name)
        check_room(len(standing) - len(expired), known=field in standing)
        pipe = self._client.pipeline(transaction=False)
        if expired:
            pipe.hdel(keys.ORDERS, *expired)
        pipe.hset(keys.ORDERS, field, msgspec.json.encode(order))
        with wrapped():
            await pipe.execute()

    async def orders(self, now_ms: int) -> list[Order]:
        """Return what stands."""
        standing = await self._read()
        return [order for order in standing.values() if order.expires_ms > now_ms]

    async def _read(self) -> dict[str, Order]:
        with wrapped():
            fields = await self._client.hgetall(keys.ORDERS)
        return {field.decode(): _orders.decode(value) for field, value in fields.items()}


def _field(kind: Kind, name: str) -> str:
    return f"{kind}:{name}"
