"""One pub/sub connection that never stays lost: reconnects, resubscribes, then says so.

redis-py would reconnect in silence and lose what was published meanwhile, so this reader owns its
connection: any failure drops it, a new one subscribes to every channel again, and only when the
server has confirmed all of them the reader of :class:`Channels` gets a ``Reconnected``.
"""

import asyncio
from collections import Counter, deque
from types import TracebackType
from typing import Self

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from pipeline.errors import BusError
from services.bus.backoff import Backoff
from services.bus.server import Client
from services.bus.types import FEED_ITEMS, Reconnected
from services.tasks import cancelled

_IDLE_S = 5.0
"""Silence after which the server is asked for a sign of life; twice that is a dead peer."""

_log = structlog.get_logger(__name__)


class _Silent(RedisError):
    """The server answers no PING."""


class Channels:
    """A live feed of raw messages from a changing set of channels.

    Bound :data:`~services.bus.types.FEED_ITEMS`; a reader that falls behind loses the whole queue
    and gets one ``Reconnected`` instead, so it heals from the logs (counted in :attr:`counts`).
    """

    def __init__(self, client: Client, counts: Counter[str] | None = None) -> None:
        self._pool = client.connection_pool
        self._names: dict[str, asyncio.Future[None]] = {}
        self._unconfirmed: set[str] = set()
        self._connection: AbstractConnection | None = None
        self._announce_return = False
        self._items: deque[tuple[str, bytes] | Reconnected] = deque(maxlen=FEED_ITEMS)
        self._ready = asyncio.Event()
        self._backoff = Backoff()
        self._task: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter() if counts is None else counts
        """``overflows_total`` and ``reconnects_total``; one counter may serve many feeds."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="bus-channels")
        self._task.add_done_callback(_fallen)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await cancelled(self._task)
        for confirmed in self._names.values():
            confirmed.cancel()

    @property
    def failed(self) -> bool:
        """Whether the reader has fallen over, so that nothing comes any more."""
        task = self._task
        return task is not None and task.done() and not task.cancelled()

    @property
    def waiting(self) -> int:
        """Messages that wait for the reader."""
        return len(self._items)

    async def add(self, name: str) -> None:
        """Subscribe to ``name``; returns once the server confirmed it, however long that takes.

        Raises a retryable :class:`~pipeline.errors.BusError` when somebody removes it meanwhile.
        """
        if name not in self._names:
            self._names[name] = asyncio.get_running_loop().create_future()
            self._unconfirmed.add(name)
            await self._send("SUBSCRIBE", name)
        confirmed = self._names[name]
        await asyncio.wait([confirmed])
        if confirmed.cancelled():
            raise BusError("the subscription was given up", retryable=True)

    async def remove(self, name: str) -> None:
        """Unsubscribe from ``name``."""
        confirmed = self._names.pop(name, None)
        if confirmed is None:
            return
        confirmed.cancel()
        self._unconfirmed.discard(name)
        await self._send("UNSUBSCRIBE", name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, bytes] | Reconnected:
        while not self._items:
            self._ready.clear()
            await self._ready.wait()
        return self._items.popleft()

    async def _send(self, *command: str) -> None:
        connection = self._connection
        # A dropped connection would silently connect anew; the reader resubscribes instead.
        if connection is None or not connection.is_connected:
            return
        try:
            await connection.send_command(*command, check_health=False)
        except (RedisError, OSError):
            _log.debug("pub/sub connection lost while sending")

    async def _run(self) -> None:
        while True:
            connection = self._pool.make_connection()
            try:
                await connection.connect()
                await self._subscribe_all(connection)
                await self._read(connection)
            except (RedisError, OSError) as error:
                _log.info("bus live feed lost", error=type(error).__name__)
            finally:
                self._connection = None
                await connection.disconnect()
            self._announce_return = True
            await asyncio.sleep(self._backoff.next_s())

    async def _subscribe_all(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._unconfirmed = set(self._names)
        if self._names:
            await connection.send_command("SUBSCRIBE", *self._names, check_health=False)
        else:
            self._returned()

    async def _read(self, connection: AbstractConnection) -> None:
        asked = False
        while True:
            answer = await connection.read_response(timeout=_IDLE_S, disconnect_on_error=False)
            if answer is not None:
                asked = False
                self._take(answer)
            elif asked:
                raise _Silent
            else:
                asked = True
                await connection.send_command("PING", check_health=False)

    def _take(self, answer: list[bytes]) -> None:
        kind = answer[0]
        if kind == b"message":
            self._put((answer[1].decode(), answer[2]))
        elif kind == b"subscribe":
            self._confirm(answer[1].decode())

    def _confirm(self, name: str) -> None:
        confirmed = self._names.get(name)
        if confirmed is not None and not confirmed.done():
            confirmed.set_result(None)
        self._unconfirmed.discard(name)
        if not self._unconfirmed:
            self._returned()

    def _returned(self) -> None:
        self._backoff.reset()
        if self._announce_return:
            self._announce_return = False
            self.counts["reconnects_total"] += 1
            self._put(Reconnected())

    def _put(self, item: tuple[str, bytes] | Reconnected) -> None:
        if len(self._items) == FEED_ITEMS:
            self.counts["overflows_total"] += 1
            self.counts["overflowed_messages_total"] += len(self._items)
            self._items.clear()
            self._items.append(Reconnected())
        self._items.append(item)
        self._ready.set()


def _fallen(task: asyncio.Task[None]) -> None:
    """Say why, when the reader ends that must not."""
    if not task.cancelled():
        _log.error("the reader of the live feed has fallen over", exc_info=task.exception())
