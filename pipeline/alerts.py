"""Alert events: raised with the measured reason, explained right after, cleared with a cause.

Only the rule for "high" raises alerts; "watch" is a state of the windows.
"""

from pipeline import events, ids
from pipeline.envelope import Envelopes
from pipeline.frustration import Cleared, Raised
from pipeline.latch import RuleSettings
from pipeline.rationale import Finding, sentence

STILL_NEWS = 16
"""Windows (8 s) after which what stood out says nothing of the moment any longer."""


class Alerts:
    """Writes the alerts of one participant."""

    def __init__(
        self, session_id: str, participant_id: str, rule: RuleSettings, envelopes: Envelopes
    ) -> None:
        self._session_id = session_id
        self._participant_id = participant_id
        self._rule = rule
        self._envelopes = envelopes
        self._open_id = ""
        self._found_at = -1
        self._noted_at = -1
        self._found: tuple[Finding, ...] = ()
        self.raised_count = 0

    @property
    def measured(self) -> tuple[events.Cue, ...]:
        """The cues of the newest window in which something stood out, while they are news."""
        if self._noted_at - self._found_at > STILL_NEWS:
            return ()
        return tuple(cue for finding in self._found for cue in finding.cues)

    def note(self, index: int, found: tuple[Finding, ...]) -> None:
        """Remember what stood out in a window, for the reason of an alert it leads to."""
        self._noted_at = index
        if found:
            self._found_at, self._found = index, found

    def written(self, change: Raised | Cleared, wall_ms: int) -> list[events.Event]:
        """Return what a change says on the wire: an alert and its explanation, or its end."""
        if isinstance(change, Raised):
            return self._raised(change, wall_ms)
        cleared = events.AlertCleared(
            **self._envelopes.stamp(wall_ms, self._participant_id),
            alert_id=self._open_id,
            cause=change.cause,
            duration_ms=change.duration_ms,
            peak=change.peak,
        )
        return [cleared]

    def _raised(self, raised: Raised, wall_ms: int) -> list[events.Event]:
        self.raised_count += 1
        self._open_id = ids.derived("alr_", wall_ms, self._session_id, "alert", self.raised_count)
        found = self._found if self._found_at >= raised.windows[0] else ()
        reason = sentence(found) or self._level()
        stamp = self._envelopes.stamp(wall_ms, self._participant_id)
        alert = events.AlertRaised(
            **stamp, alert=self._alert(raised), reason=reason, windows=list(raised.windows)
        )
        explanation = events.Explanation(
            **self._envelopes.stamp(wall_ms, self._participant_id),
            about_seq=stamp["seq"],
            alert_id=self._open_id,
            text=reason.text,
            source="rules",
            generated=False,
            cues=[cue for finding in found for cue in finding.cues],
            model=None,
            took_ms=0,
        )
        return [alert, explanation]

    def _alert(self, raised: Raised) -> events.Alert:
        return events.Alert(
            id=self._open_id,
            rule=self._rule.name,
            level="high",
            value=raised.reading.value,
            low=raised.reading.low,
            high=raised.reading.high,
            threshold=self._rule.enter,
            dwell_ms=self._rule.enter_ms,
            since_ms=raised.since_ms,
        )

    def _level(self) -> events.Reason:
        """The reason when no single cue stood out: the rule itself."""
        rule = self._rule
        seconds = f"{rule.enter_ms / 1000:g}"
        text = f"Expressed frustration at or above {rule.enter:.2f} for {seconds} s."
        return events.Reason("level", text)
