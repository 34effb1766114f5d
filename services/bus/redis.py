"""The result bus on one Redis or Valkey server.

A Stream per stream is the truth (ids ``<epoch>-<seq>``), pub/sub is the live path. The write path
lives in :mod:`services.bus.appender`, the live path in :mod:`services.bus.channels`.
"""

import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakSet

import msgspec

from services.bus import keys, server
from services.bus.appender import Appender, wrapped
from services.bus.board import RedisBoard
from services.bus.channels import Channels
from services.bus.server import Client
from services.bus.types import (
    KEPT_MS,
    Reconnected,
    Record,
    Replay,
    Session,
    StreamKey,
    replay_of,
)

_LARGEST_SEQ = 2**63
_LEASE_MS = 5_000
"""Longest lease that is counted on when keys expire by the server's own clock."""


class RedisBus(RedisBoard):
    """``ResultBus`` on a standalone server; open it with ``async with RedisBus.at(url)``."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(client)
        self._appender = Appender(client)
        self._counts: Counter[str] = Counter(overflows_total=0, reconnects_total=0)
        self._feeds: WeakSet[Channels] = WeakSet()
        self.name = name
        """Server and version, such as ``valkey 9.1``."""

    @classmethod
    @asynccontextmanager
    async def at(
        cls, url: str, password: str | None = None, ca: Path | None = None
    ) -> AsyncIterator[Self]:
        """Open the bus at ``url``.

        Raises :class:`~pipeline.errors.BusError` when nobody answers there and
        :class:`~pipeline.errors.UsageError` when the server cannot be used.
        """
        async with AsyncExitStack() as closing:
            client = server.client(url, password, ca)
            closing.push_async_callback(client.aclose)
            bus = cls(client, await server.greet(client, url))
            closing.push_async_callback(bus._appender.close)
            yield bus

    async def append(
        self, key: StreamKey, records: Sequence[Record], *, restart: bool = False
    ) -> None:
        """Write, wait for the answers, then publish."""
        await self._appender.append(key, records, restart=restart)

    async def epoch(self, key: StreamKey, now_ms: int) -> int:
        """Return the epoch for a new session of ``key``."""
        with wrapped():
            if not await self._client.exists(keys.log(key)):
                return now_ms
            info = await self._client.xinfo_stream(keys.log(key))
        return max(now_ms, int(info["last-generated-id"].split(b"-")[0]) + 1)

    def subscribe(self) -> "RedisSubscription":
        """Open an empty live feed."""
        return RedisSubscription(self._channels())

    async def replay(self, key: StreamKey, epoch: int, after: int) -> Replay:
        """Return what the log holds of ``epoch`` behind ``after``."""
        first, last = f"{epoch}-{after + 1}", f"{epoch}-{_LARGEST_SEQ}"
        with wrapped():
            entries = await self._client.xrange(keys.log(key), first, last)
        return replay_of(tuple(map(_record, entries)), after)

    async def last(self, key: StreamKey) -> Record | None:
        """Return the newest record of the stream."""
        with wrapped():
            entries = await self._client.xrevrange(keys.log(key), count=1)
        return _record(entries[0]) if entries else None

    async def announce(self, session: Session, expires_ms: int, *, quiet: bool = False) -> None:
        """Put or renew a directory entry; a live one keeps its log from expiring."""
        name = keys.session(session.session_id)
        fields: dict[str, str | int] = {
            "stream": session.stream,
            "tenant": session.tenant,
            "epoch": session.epoch,
            "owner": session.owner,
            "state": session.state,
            "role": session.role,
            "lease_ms": expires_ms,
        }
        if session.erase:
            fields["erase"] = 1
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(name, mapping=fields)
        pipe.pexpire(name, KEPT_MS + _LEASE_MS)
        pipe.zadd(keys.live(session.tenant), {session.session_id: expires_ms})
        pipe.zremrangebyscore(keys.live(session.tenant), "-inf", expires_ms - 2 * KEPT_MS)
        pipe.pexpire(keys.live(session.tenant), KEPT_MS + _LEASE_MS)
        if session.state == "live":
            log = keys.log(StreamKey(session.tenant, session.stream))
            pipe.pexpire(log, KEPT_MS)
        if not quiet:
            entry = msgspec.structs.replace(session, lease_ms=expires_ms)
            pipe.publish(keys.CTL, msgspec.json.encode(entry))
        with wrapped():
            await pipe.execute()

    async def lookup(self, session_id: str) -> Session | None:
        """Return one directory entry."""
        with wrapped():
            fields = await self._client.hgetall(keys.session(session_id))
        return _session(session_id, fields)

    async def sessions(self, tenant: str, now_ms: int) -> list[Session]:
        """Return the tenant's directory, oldest session first."""
        ids = list(await self.leases(tenant, now_ms))
        pipe = self._client.pipeline(transaction=False)
        for session_id in ids:
            pipe.hgetall(keys.session(session_id))
        with wrapped():
            answers = await pipe.execute() if ids else []
        entries = [_session(*pair) for pair in zip(ids, answers, strict=True)]
        return sorted(filter(None, entries), key=lambda entry: (entry.epoch, entry.session_id))

    async def leases(self, tenant: str, now_ms: int) -> dict[str, int]:
        """Return session id → lease expiry."""
        with wrapped():
            pairs = await self._client.zrangebyscore(
                keys.live(tenant), now_ms - KEPT_MS, "+inf", withscores=True
            )
        return {session_id.decode(): int(score) for session_id, score in pairs}

    def changes(self) -> "RedisChanges":
        """Open the feed of directory changes."""
        return RedisChanges(self._channels())

    async def erase(self, streams: Collection[StreamKey]) -> None:
        """Delete whole logs."""
        if streams:
            with wrapped():
                await self._client.delete(*map(keys.log, streams))

    async def erase_session(self, key: StreamKey, epoch: int) -> None:
        """Delete one epoch of a log."""
        with wrapped():
            entries = await self._client.xrange(
                keys.log(key), f"{epoch}-0", f"{epoch}-{_LARGEST_SEQ}"
            )
            if entries:
                await self._client.xdel(keys.log(key), *(entry[0] for entry in entries))

    async def ping(self) -> float:
        """Return the round trip in seconds."""
        begun = time.perf_counter()
        with wrapped():
            await self._client.ping()
        return time.perf_counter() - begun

    def _channels(self) -> Channels:
        channels = Channels(self._client, self._counts)
        self._feeds.add(channels)
        return channels

    @property
    def feeding(self) -> bool:
        """Whether every live feed still reads."""
        return not any(channels.failed for channels in self._feeds)

    @property
    def feed_depth(self) -> int:
        """Messages that wait in all live feeds."""
        return sum(channels.waiting for channels in self._feeds)

    @property
    def feed_dropped(self) -> int:
        """Messages that were dropped because a reader fell behind."""
        return self._counts["overflowed_messages_total"]

    def statistics(self) -> dict[str, int]:
        """Return what went wrong so far."""
        return {
            "publish_errors_total": self._appender.publish_errors,
            "fenced_total": self._appender.fenced,
            **self._counts,
        }


class RedisSubscription:
    """Live records of a set of streams."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def __aenter__(self) -> Self:
        await self._channels.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channels.__aexit__(kind, error, trace)

    async def add(self, key: StreamKey) -> None:
        """Start to receive records of ``key``."""
        await self._channels.add(keys.channel(key))

    async def remove(self, key: StreamKey) -> None:
        """Stop receiving records of ``key``."""
        await self._channels.remove(keys.channel(key))

    async def __aiter__(self) -> AsyncIterator[tuple[StreamKey, Record] | Reconnected]:
        async for item in self._channels:
            if isinstance(item, Reconnected):
                yield item
                continue
            try:
                record = keys.unpack_published(item[1])
            except ValueError:
                continue  # not ours: anybody with the password may publish
            yield keys.of_channel(item[0]), record


class RedisChanges:
    """Directory changes as they are announced."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def __aenter__(self) -> AsyncIterator[Session | Reconnected]:
        await self._channels.__aenter__()
        await self._channels.add(keys.CTL)
        return self._changes()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channels.__aexit__(kind, error, trace)

    async def _changes(self) -> AsyncIterator[Session | Reconnected]:
        async for item in self._channels:
            if isinstance(item, Reconnected):
                yield item
                continue
            try:
                change = keys.unpack_change(item[1])
            except ValueError:
                continue  # not ours
            yield change


def _record(entry: tuple[bytes, dict[bytes, bytes]]) -> Record:
    return keys.unpack(entry[1][b"h"], entry[1][b"d"])


def _session(session_id: str, fields: dict[bytes, bytes]) -> Session | None:
    if b"epoch" not in fields:
        return None
    text = {name.decode(): value.decode() for name, value in fields.items()}
    return Session(
        session_id=session_id,
        tenant=text["tenant"],
        stream=text["stream"],
        epoch=int(text["epoch"]),
        owner=text["owner"],
        state="live" if text["state"] == "live" else "ended",
        role=text["role"],
        lease_ms=int(text["lease_ms"]),
        erase="erase" in text,
    )
