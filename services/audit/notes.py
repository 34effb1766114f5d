"""What other rooms say to the audit log, and the log of a process that keeps none."""

from typing import Final, Literal, Protocol

from pipeline.errors import DemeanorError
from services.auth import Principal

Kind = Literal[
    "started",
    "stopped",
    "published",
    "subscribed",
    "refused",
    "consent",
    "erased",
    "scoring",
    "revoked",
    "drained",
    "rows_lost",
]
Fact = str | int | bool | None
"""``session`` is written as a hash, so a row outlives an erasure without naming what it erased."""


class AuditAway(DemeanorError):
    """The audit log cannot be written, and what was asked may not happen without a row."""

    def __init__(self) -> None:
        super().__init__(
            "the audit log cannot be written, so nobody new may read: try again in a moment"
        )


class Audit(Protocol):
    """Takes rows; used from the event loop."""

    def note(self, kind: Kind, principal: Principal | None, **facts: Fact) -> None:
        """Take a row about what happened; never waits.

        A row for which there is no room is counted, and the count is written once there is.
        """

    async def require(self, kind: Kind, principal: Principal | None, **facts: Fact) -> None:
        """Take a row about what may only happen with it; waits a moment for room.

        Raises :class:`AuditAway`.
        """


class _Silent:
    """Keeps nothing: for parts under test and processes without people."""

    def note(self, kind: Kind, principal: Principal | None, **facts: Fact) -> None:
        """Forget it."""

    async def require(self, kind: Kind, principal: Principal | None, **facts: Fact) -> None:
        """Forget it."""


SILENT: Final[Audit] = _Silent()
