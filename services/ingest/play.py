"""One source through one session, from its first sample to ``session.ended``, without a server."""

from collections.abc import Callable

from pipeline.errors import DemeanorError
from pipeline.events import EndReason
from services.ingest.items import Item
from services.ingest.reading import Reading
from services.ingest.session import Session
from services.ingest.source import Source


async def play(source: Source, session: Session, progress: Callable[[], None]) -> None:
    """Feed ``session`` from ``source`` until it is over or :meth:`Source.stop` was called.

    Files wait for every outcome, live sources do not. ``progress`` is called after each batch.
    Always ends the session and closes the source. Raises :class:`~pipeline.errors.MediaError` when
    nothing could be decoded.
    """
    reason: EndReason = "error"
    try:
        async with Reading(source) as reading:
            async for batch in reading.batches():
                await _feed(session, batch, live=source.address.live)
                progress()
            reason = _reason(source)
    except DemeanorError:
        reason = "bad_media"
        raise
    finally:
        await session.end(reason)


async def _feed(session: Session, batch: list[Item], *, live: bool) -> None:
    if live:
        session.feed(batch)
    else:
        await session.feed_all(batch)


def _reason(source: Source) -> EndReason:
    if source.stopped:
        return "drained"
    if source.complaint:
        return "timeout" if source.address.live else "bad_media"
    return "publisher_left"
