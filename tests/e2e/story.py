"""Events of one session as the wire has them, built with the product's own structs."""

import json
from typing import Any

from pipeline import events
from pipeline.events import Evidence, EvidenceSet

LABELS = ["neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"]
HOP_MS = 500
SIZE_MS = 2000
TS = "2026-11-23T08:00:10.004Z"
USED = Evidence(used=True, quality=0.9, reason=None)
QUIET = Evidence(used=False, quality=0.9, reason="no_speech")
FACELESS = Evidence(used=False, quality=None, reason="no_face")
UNREAD = Evidence(used=False, quality=None, reason="no_asr")
MODEL = events.Model(id="demeanor-tiny", version="1.0")
RAISED = events.Reason("voice", "Louder and faster than the first minute.")


class Story:
    """Counts seq and windows of ``session``; each method returns the next event.

    ``hop_ms`` is what ``session.started`` declares. Pages call a session stale after three hops
    without an event: the default never gets there, whatever the machine's load.
    """

    def __init__(self, session: str = "ses_1", hop_ms: int = 3_600_000) -> None:
        self._session = session
        self._hop_ms = hop_ms
        self._seq = -1
        self.end_ms = SIZE_MS - HOP_MS

    def started(self) -> dict[str, Any]:
        return self._wire(
            events.SessionStarted(
                **self._envelope(),
                started_at=TS,
                source=events.Source(kind="whip"),
                participants=[events.Participant("p1", "self", True, None, ["audio", "video"])],
                labels=LABELS,
                window=events.WindowShape(SIZE_MS, self._hop_ms),
                model=events.LoadedModel("demeanor-tiny", "1.0", "sha256:3f9a", ["CPU"]),
                meta={},
                stream="page",
            )
        )

    def scored(
        self,
        top: str = "happy",
        *,
        state: events.State = "calm",
        frustration: float | None = 0.2,
        valence: float | None = 0.5,
        audio: Evidence = USED,
        video: Evidence = USED,
        **more: Any,
    ) -> dict[str, Any]:
        value = frustration
        return self._wire(
            events.WindowScored(
                **self._envelope(),
                window=self._next_window(),
                emotions={label: 0.7 if label == top else 0.05 for label in LABELS},
                bands={top: (0.6, 0.8)},
                top=top,
                abstained=False,
                valence=valence,
                arousal=0.3,
                frustration=None
                if value is None
                else events.Frustration(value, value - 0.08, value + 0.08, "rising", 0),
                state=state,
                confidence=0.77,
                evidence=EvidenceSet(audio=audio, video=video, text=UNREAD),
                model=MODEL,
                timing=events.Timing(age_ms=88, queue_ms=6, score_ms=31),
                faces=[
                    events.FaceBox(
                        1, (0.2, 0.2, 0.2, 0.4), 0, 0.9, None, {"happy": 0.8, "sad": 0.2}
                    )
                ],
                degraded=[],
            ),
            **more,
        )

    def skipped(
        self,
        reason: events.WireSkip = "no_evidence",
        state: events.SkippedState = "no_evidence",
        audio: Evidence = QUIET,
        video: Evidence = FACELESS,
    ) -> dict[str, Any]:
        return self._wire(
            events.WindowSkipped(
                **self._envelope(),
                window=self._next_window(),
                reason=reason,
                state=state,
                age_ms=70,
                evidence=EvidenceSet(audio=audio, video=video, text=UNREAD),
            )
        )

    def raised(self, value: float = 0.74) -> dict[str, Any]:
        alert = events.Alert(
            "alr_1", "frustration_high", "high", value, value - 0.08, value + 0.08, 0.7, 8000, 0
        )
        return self._wire(
            events.AlertRaised(**self._envelope(), alert=alert, reason=RAISED, windows=[0, 4])
        )

    def cleared(self) -> dict[str, Any]:
        return self._wire(
            events.AlertCleared(
                **self._envelope(),
                alert_id="alr_1",
                cause="recovered",
                duration_ms=41_500,
                peak=0.88,
            )
        )

    def explained(self, text: str, *, generated: bool = False) -> dict[str, Any]:
        return self._wire(
            events.Explanation(
                **self._envelope(),
                about_seq=self._seq,
                alert_id="alr_1",
                text=text,
                source="model" if generated else "rules",
                generated=generated,
                cues=[],
                model=None,
                took_ms=2,
            )
        )

    def generated(self, text: str, *, alert: bool = True, **made: Any) -> dict[str, Any]:
        """What an explain model wrote; ``made`` changes how it came about."""
        facts: dict[str, Any] = {
            "label": "angry",
            "raw": "anger",
            "labels": {"angry": 0.6, "sad": 0.4},
            "margin": 0.2,
            "entropy": 0.67,
            "prefix": "",
            "agrees": True,
            "truncated": False,
            "withheld": 0,
            "audio": "heard",
        }
        cues = made.pop("cues", [])
        return self._wire(
            events.Explanation(
                **self._envelope(),
                about_seq=self._seq,
                alert_id="alr_1" if alert else None,
                text=text,
                source="model",
                generated=True,
                cues=cues,
                model=events.Model(id="R1-Omni-0.5B", version="sha256:12ab"),
                took_ms=900,
                generation=events.Generation(**facts | made),
            )
        )

    def ended(self, reason: events.EndReason = "timeout") -> dict[str, Any]:
        return self._wire(
            events.SessionEnded(
                **self._envelope(),
                reason=reason,
                duration_ms=self.end_ms,
                counts=events.Counts(scored=4, skipped={"no_evidence": 2}, gaps=0, alerts=0),
                coverage=events.Coverage(audio=1.0, video=None),
            )
        )

    def skip_windows(self, count: int) -> None:
        """Let windows pass without an event."""
        self.end_ms += count * HOP_MS

    def _next_window(self) -> events.Span:
        self.end_ms += HOP_MS
        return events.Span(self.end_ms // HOP_MS, self.end_ms - SIZE_MS, self.end_ms)

    def _envelope(self) -> dict[str, Any]:
        self._seq += 1
        return {
            "id": f"evt_{self._session}_{self._seq}",
            "session_id": self._session,
            "seq": self._seq,
            "ts": TS,
            "participant_id": "p1",
        }

    @staticmethod
    def _wire(event: events.Event, **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(events.encode(event))
        return {**made, **more}
