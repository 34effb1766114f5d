"""Standing orders: what somebody decided and every process must obey within a second.

A token is revoked, scoring is switched off, somebody withdraws consent. Orders lie on the bus;
each process reads them twice a second, keeps the last ones it knew while the bus is away, and gives
them again to a bus that forgot them. So an order is never taken back, only replaced by another.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import msgspec

from pipeline.errors import BusError
from services.clock import Clock
from services.tasks import cancelled

Kind = Literal["revoked", "scoring", "consent", "explain"]
"""``revoked``: name = tenant and token id, value = "". ``scoring``: name = tenant or ``*``, value =
``off`` or ``on``. ``consent``: name = session id, value = ``granted`` or ``withdrawn``.
``explain``: name = session id, value = an id of the request."""
POLL_S: Final = 0.5
LARGEST: Final = 10_000
"""Orders that may stand at once; a new one beyond that is refused."""


class Order(msgspec.Struct, frozen=True):
    """One decision and until when it stands."""

    kind: Kind
    name: str
    value: str
    expires_ms: int
    """Unix ms; a revocation stands until the token would have expired anyway."""


class OrderBoard(Protocol):
    """Where orders lie: part of every :class:`~services.bus.types.ResultBus`."""

    async def give_order(self, order: Order, now_ms: int) -> None:
        """Put or replace an order. Raises :class:`~pipeline.errors.BusError`, also when full."""

    async def orders(self, now_ms: int) -> list[Order]:
        """Return what stands, expired ones left out."""


def check_room(standing: int, *, known: bool) -> None:
    """Raise :class:`~pipeline.errors.BusError` when no further order may stand."""
    if standing >= LARGEST and not known:
        raise BusError(f"{LARGEST} orders stand already: wait until some expire", retryable=False)


class Orders:
    """One process's copy of the standing orders; an async context manager that keeps it fresh."""

    def __init__(self, board: OrderBoard, clock: Clock) -> None:
        self._board = board
        self._clock = clock
        self._standing: dict[tuple[Kind, str], Order] = {}
        self._listeners: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self.failures = 0
        """Readings that the bus did not answer."""

    async def __aenter__(self) -> Self:
        await self._read()
        self._task = asyncio.create_task(self._follow(), name="orders")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await cancelled(self._task)

    @property
    def running(self) -> bool:
        """Whether orders are still read."""
        return self._task is not None and not self._task.done()

    def value(self, kind: Kind, name: str) -> str | None:
        """Return what was ordered, or None."""
        order = self._standing.get((kind, name))
        if order is None or order.expires_ms <= self._clock.wall_ms():
            return None
        return order.value

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` on the event loop after every change; returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def give(self, kind: Kind, name: str, value: str, expires_ms: int) -> None:
        """Give an order; it holds here at once, elsewhere within :data:`POLL_S`.

        Raises :class:`~pipeline.errors.BusError`; then nothing has changed.
        """
        order = Order(kind, name, value, expires_ms)
        await self._board.give_order(order, self._clock.wall_ms())
        self._replace({**self._standing, (kind, name): order})

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self._read()

    async def _read(self) -> None:
        now_ms = self._clock.wall_ms()
        try:
            found = {(o.kind, o.name): o for o in await self._board.orders(now_ms)}
            forgotten = {
                key: order
                for key, order in self._standing.items()
                if key not in found and order.expires_ms > now_ms
            }
            for order in forgotten.values():
                await self._board.give_order(order, now_ms)
        except BusError:
            self.failures += 1
        else:
            self._replace({**found, **forgotten})

    def _replace(self, standing: dict[tuple[Kind, str], Order]) -> None:
        if standing == self._standing:
            return
        self._standing = standing
        for listener in tuple(self._listeners):
            listener()
