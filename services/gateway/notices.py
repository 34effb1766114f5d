"""Events that a gateway makes itself: they belong to one connection and have no ``seq``."""

import secrets
from typing import Literal

from pipeline import events
from pipeline.ids import ENTROPY_BYTES, ulid
from services.clock import Clock


class Notices:
    """Makes delivery gaps and errors with ids and times."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def gap(
        self, session_id: str, from_seq: int, to_seq: int, cause: events.DeliveryGapCause
    ) -> bytes:
        """Return the event that covers ``from_seq`` to ``to_seq`` (both included)."""
        wall_ms = self._clock.wall_ms()
        return events.encode(
            events.Gap(
                id=self._id(wall_ms),
                session_id=session_id,
                seq=None,
                ts=events.timestamp(wall_ms),
                participant_id=None,
                kind="delivery",
                from_seq=from_seq,
                to_seq=to_seq,
                cause=cause,
            )
        )

    def error(
        self,
        code: str,
        message: str,
        *,
        fatal: bool = False,
        session_id: str | None = None,
        retry_after_ms: int | None = None,
        ref: str | None = None,
    ) -> bytes:
        """Return an ``error`` event; ``fatal``: the connection closes next."""
        wall_ms = self._clock.wall_ms()
        return events.encode(
            events.Error(
                id=self._id(wall_ms),
                session_id=session_id,
                seq=None,
                ts=events.timestamp(wall_ms),
                participant_id=None,
                code=code,
                message=message,
                fatal=fatal,
                retry_after_ms=retry_after_ms,
                ref=ref,
                doc=f"/docs/errors#{code}",
            )
        )

    def connection_id(self) -> str:
        """Return a new ``con_…``."""
        return self._name("con_", self._clock.wall_ms())

    def _id(self, wall_ms: int) -> str:
        return self._name("evt_", wall_ms)

    @staticmethod
    def _name(prefix: Literal["evt_", "con_"], wall_ms: int) -> str:
        return prefix + ulid(wall_ms, secrets.token_bytes(ENTROPY_BYTES))
