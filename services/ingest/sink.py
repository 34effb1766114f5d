"""Where a session's events go: the bus, or a file with one event per line.

A sink takes events in order, never makes its caller wait, and is closed once by the session.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.events import Event, Role, encode
from services.bus.types import ResultBus, Session, StreamKey
from services.bus.writer import open_writer
from services.clock import Clock
from services.queues import Registry


class EventSink(Protocol):
    """One session's way out; used from one event loop."""

    def put(self, events: Sequence[Event]) -> None:
        """Take events in order of ``seq``; bounded, never blocks, never raises for an outage."""

    def erase(self) -> None:
        """Erase everything that was put, and will be, when closing; may be called twice."""

    async def close(self) -> None:
        """Write out what is held, then let go of everything; called once, after the last event."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A session that needs a way out."""

    session_id: str
    tenant: str
    stream: str
    role: Role


Stop = Literal["fenced", "erased"]
"""Why a sink wants its session to end: a newer publisher owns the stream, or its data must go."""
OpenSink = Callable[[Opening, Callable[[Stop], None]], Awaitable[EventSink]]
"""Opens a session's sink; the second argument is called when the session must end. Raises
:class:`~pipeline.errors.BusError` when there is no way out at the moment."""


def bus_sinks(
    bus: ResultBus,
    clock: Clock,
    owner: str,
    queues: Registry | None = None,
    on_ended: Callable[[Session], None] | None = None,
) -> OpenSink:
    """Return what opens sinks on ``bus`` for the ingest process ``owner``.

    ``on_ended`` is called for each session once its sink is closed.
    """

    async def open_sink(opening: Opening, on_stop: Callable[[Stop], None]) -> EventSink:
        key = StreamKey(opening.tenant, opening.stream)
        session = Session(
            session_id=opening.session_id,
            tenant=opening.tenant,
            stream=opening.stream,
            epoch=await bus.epoch(key, clock.wall_ms()),
            owner=owner,
            state="live",
            role=opening.role,
        )
        writer = await open_writer(bus, clock, session, on_stop=on_stop, queues=queues)
        return writer if on_ended is None else _Told(writer, lambda: on_ended(session))

    return open_sink


@dataclass(frozen=True, slots=True)
class _Told:
    """A sink that says when it is closed."""

    sink: EventSink
    on_closed: Callable[[], None]

    def put(self, events: Sequence[Event]) -> None:
        self.sink.put(events)

    def erase(self) -> None:
        self.sink.erase()

    async def close(self) -> None:
        try:
            await self.sink.close()
        finally:
            self.on_closed()


class JsonlSink:
    """Writes ``<stem>.demeanor.jsonl``: one event per line, exactly as on the wire."""

    def __init__(self, path: Path) -> None:
        """Create or empty ``path``. Raises :class:`OSError` when that is not possible."""
        self._file = path.open("wb")
        self._erased = False

    def put(self, events: Sequence[Event]) -> None:
        """Append events. Raises :class:`OSError` when the disk is full: a file must be whole."""
        for event in events:
            self._file.write(encode(event) + b"\n")

    def erase(self) -> None:
        """Leave the file empty when closing."""
        self._erased = True

    async def close(self) -> None:
        """Flush and close the file."""
        if self._erased:
            self._file.truncate(0)
        self._file.close()
