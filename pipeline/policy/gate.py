"""The gate in front of one participant's media: the decision, consent and the kill switch.

::

    consent →   granted     withdrawn
    PENDING     GRANTED     WITHDRAWN
    GRANTED     GRANTED     WITHDRAWN
    WITHDRAWN   WITHDRAWN   WITHDRAWN     final: whoever agrees again begins a new session

While the gate is shut, media is dropped before anything of it is kept or decoded, and no window is
cut. Switched-off scoring leaves the gate open: windows are cut and skipped, so the books go on.
"""

from typing import Literal

from pipeline.policy.rules import Decision
from pipeline.types import SkipReason

Consent = Literal["pending", "granted", "withdrawn"]


class Gate:
    """What may pass for one participant; orders come in, in any order, as often as they like."""

    def __init__(self, decision: Decision) -> None:
        self._scorable = decision.scored or decision.asks
        self.consent: Consent = "pending" if decision.asks else "granted"
        """Where nobody has to be asked it begins as granted; an objection still ends it."""
        self.scoring = True
        """False while the kill switch is off."""
        self.dropped = 0
        """Packets that met a shut gate."""

    @property
    def opens(self) -> bool:
        """Whether media may pass."""
        return self._scorable and self.consent == "granted"

    @property
    def asks(self) -> bool:
        """Whether consent may still open it."""
        return self._scorable and self.consent == "pending"

    @property
    def skips(self) -> SkipReason | None:
        """Why windows that are cut or in flight may not be scored now, or None."""
        if self.consent == "withdrawn":
            return "consent_withdrawn"
        return None if self.scoring else "scoring_off"

    def passes(self) -> bool:
        """Tell whether one packet may pass; counts those that may not."""
        if self.opens:
            return True
        self.dropped += 1
        return False

    def consented(self, value: str | None) -> bool:
        """Take what was ordered about consent (None: nothing); True when it changed something."""
        before = self.consent
        if value == "withdrawn":
            self.consent = "withdrawn"
        elif value == "granted" and self.consent == "pending":
            self.consent = "granted"
        return self.consent != before

    def switched(self, *, on: bool) -> bool:
        """Take what the kill switch says; True when that changed something."""
        changed = self.scoring != on
        self.scoring = on
        return changed
