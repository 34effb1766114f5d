"""By which right a session is published, and until when.

A session outlives its token by a minute, in which its publisher may show a newer one with PATCH. A
token that was revoked ends it at once. Both ends are told as ``policy``: it may not go on.
"""

from dataclasses import dataclass
from typing import Final, Literal

from services.auth import Guard, Principal
from services.problems import Problem

GRACE_S: Final = 60
"""How long a publisher goes on after its token expired."""
Over = Literal["expired", "revoked"]


@dataclass(slots=True)
class Tenure:
    """The token that a session stands on: of all that were shown, the one that lasts longest."""

    principal: Principal
    ended: bool = False
    """It was noticed that it is over."""

    def check(self, shown: Principal) -> None:
        """Check a token that is shown on the way: it must stand for the same participant.

        Raises :class:`Problem` (403).
        """
        if _participant(shown) != _participant(self.principal):
            raise Problem(
                403,
                "other_participant",
                f"this session was opened for the role '{self.principal.role}': show a token of "
                "the same role and context",
            )

    def renew(self, shown: Principal) -> None:
        """Stand on ``shown`` from now on if it lasts longer."""
        if _until(shown) > _until(self.principal):
            self.principal = shown

    def over(self, guard: Guard, now_ms: int) -> Over | None:
        """Tell whether the session must end, and why."""
        if guard.revoked(self.principal):
            return "revoked"
        return "expired" if now_ms >= (_until(self.principal) + GRACE_S) * 1000 else None


def _participant(principal: Principal) -> tuple[object, ...]:
    return principal.role, principal.context, principal.mixed


def _until(principal: Principal) -> float:
    return float("inf") if principal.expires_s is None else principal.expires_s
