"""The books of many sessions in one: what ``/metrics`` says of windows."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from pipeline.types import SkipReason
from services.ingest.session import Session


@dataclass(slots=True)
class Books:
    """After every addition ``cut == scored + skipped + in_flight``."""

    cut: int = 0
    scored: int = 0
    in_flight: int = 0
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    """By fine reason (:data:`pipeline.types.SkipReason`)."""

    def add(self, session: Session) -> None:
        """Add the books of a session as they stand."""
        now = session.statistics()
        self.cut += now.cut
        self.scored += now.scored
        self.in_flight += now.in_flight
        self.skipped.update(now.skipped)

    def copy(self) -> Self:
        """Return a copy to add to."""
        return type(self)(self.cut, self.scored, self.in_flight, Counter(self.skipped))
