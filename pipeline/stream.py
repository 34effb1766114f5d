"""One session: windows and outcomes in, events out, in order and each exactly once.

The owner of a session calls :meth:`Stream.cut` for every window, hands it to a scorer and gives
whatever came of it to :meth:`Stream.resolve`, in any order. The events it returns carry a dense
``seq`` and go to the bus as they are. After every call ``cut == scored + skipped + in_flight``.
Time is an argument; the same calls give the same events, ids included.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from pipeline import envelope, events, types
from pipeline.alerts import Alerts
from pipeline.envelope import DIGITS, Envelopes, Stamp
from pipeline.events import EvidenceSet
from pipeline.frustration import Cleared, Raised
from pipeline.ledger import Answer, Entry, Ledger, Timing
from pipeline.person import Judged, Person, PersonSettings
from pipeline.rationale import sentence
from pipeline.reasons import LACKS_EVIDENCE, WIRE
from pipeline.spec import LABELS
from pipeline.types import SLOT_TICKS, TICKS_PER_MS, WINDOW_TICKS, Outcome, SkipReason

__all__ = ["Facts", "Stream", "StreamSettings", "Timing"]

PARTICIPANT = "p1"
NOT_LOOKED_AT = events.Evidence(used=False, quality=None, reason="overload")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a session when it begins."""

    session_id: str
    stream: str
    role: events.Role
    scored: bool
    why_not: str | None
    tracks: tuple[types.Kind, ...]
    source: events.Source
    meta: dict[str, str]
    model: events.LoadedModel
    policy: str | None = None
    """:attr:`pipeline.policy.Policy.tag` of the policy that decided."""
    notice: str | None = None
    """Version of its notice."""


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How a session is judged and written down."""

    person: PersonSettings = field(default_factory=PersonSettings)
    floor: float = 0.35
    """Confidence below which the answer is an abstention: no top label."""
    late_ms: int = 3_000
    """A window whose media ended longer ago is marked ``late``."""
    max_faces: int = 8
    """Faces an event lists at most, the one that counts first."""
    max_in_flight: int = 64
    """Windows in flight beyond which the oldest without an answer is given up."""


@dataclass(frozen=True, slots=True)
class Words:
    """What an explain model wrote about an event, checked against measured cues."""

    about_seq: int
    alert_id: str | None
    text: str
    cues: tuple[events.Cue, ...]
    model: events.Model
    took_ms: int
    generation: events.Generation


class Stream:
    """The state of one session."""

    def __init__(self, facts: Facts, settings: StreamSettings | None = None) -> None:
        self.facts = facts
        self.settings = settings or StreamSettings()
        self.skipped: Counter[SkipReason] = Counter()
        """Windows skipped so far, by fine reason."""
        self.scored = 0
        self.ended = False
        self._ledger = Ledger(self.settings.max_in_flight)
        self._person = Person(self.settings.person)
        self._envelopes = Envelopes(facts.session_id, facts.policy)
        self._gaps = 0
        self._alerts = Alerts(
            facts.session_id, PARTICIPANT, self.settings.person.frustration.high, self._envelopes
        )
        self._used: Counter[str] = Counter()
        self._state: events.SkippedState = "calm"
        self._end_ms = 0
        self._origin_ms: int | None = None
        """Wall time at which the media of tick 0 arrived, as the last answer tells it."""

    @property
    def cut_count(self) -> int:
        """Windows cut so far."""
        return self._ledger.cut

    @property
    def in_flight(self) -> int:
        """Windows cut that made no event yet."""
        return self._ledger.in_flight

    @property
    def ignored(self) -> int:
        """Answers that came twice, or for a window that was never cut."""
        return self._ledger.ignored

    @property
    def counts(self) -> events.Counts:
        """The books as ``session.ended`` carries them: skipped windows by wire reason."""
        wire: Counter[str] = Counter()
        for reason, count in self.skipped.items():
            wire[WIRE[reason]] += count
        return events.Counts(
            scored=self.scored,
            skipped=dict(wire),
            gaps=self._gaps,
            alerts=self._alerts.raised_count,
        )

    def start(self, wall_ms: int, started_ms: int | None = None) -> list[events.Event]:
        """Return ``session.started``; ``started_ms`` is when the first media sample arrived."""
        self._origin_ms = wall_ms if started_ms is None else started_ms
        facts = self.facts
        participant = events.Participant(
            PARTICIPANT, facts.role, facts.scored, facts.why_not, list(facts.tracks)
        )
        return [
            events.SessionStarted(
                **self._stamp(wall_ms, None),
                started_at=events.timestamp(self._origin_ms),
                source=facts.source,
                participants=[participant],
                labels=list(LABELS),
                window=events.WindowShape(
                    size_ms=WINDOW_TICKS // TICKS_PER_MS, hop_ms=SLOT_TICKS // TICKS_PER_MS
                ),
                model=facts.model,
                meta=dict(facts.meta),
                stream=facts.stream,
                notice=facts.notice,
            )
        ]

    def cut(self, window: types.Window, degraded: tuple[str, ...] = ()) -> None:
        """Enter a window that was just cut; ``degraded`` names what was left out of it.

        Raises :class:`ValueError` unless indices grow, and after the end.
        """
        if self.ended:
            raise ValueError(f"window {window.index} was cut after the session's end")
        self._ledger.add(window, degraded)
        self._end_ms = max(self._end_ms, window.end // TICKS_PER_MS)

    def resolve(
        self, index: int, result: Outcome | SkipReason, timing: Timing, wall_ms: int
    ) -> list[events.Event]:
        """Note what came of a window; return the events that can leave now, maybe none.

        A second answer for a window is ignored and counted.
        """
        if not self._ledger.answer(index, Answer(result, timing, wall_ms)):
            return []
        end_ms = (index * SLOT_TICKS + WINDOW_TICKS) // TICKS_PER_MS
        self._origin_ms = wall_ms - timing.age_ms - end_ms
        leaving = self._leave(wall_ms)
        while (entry := self._ledger.overdue()) is not None:
            self._give_up(entry.index, "unanswered", wall_ms)
            leaving += self._leave(wall_ms)
        return leaving

    def void(self, reason: SkipReason, wall_ms: int) -> list[events.Event]:
        """Skip everything in flight for ``reason``, whatever was answered; return the events.

        Nothing scored leaves after this for a window that was cut before it.
        """
        for index in self._ledger.reopened():
            self._give_up(index, reason, wall_ms)
        return self._leave(wall_ms)

    def gap(self, gap: types.Gap, wall_ms: int) -> list[events.Event]:
        """Return the event for media time with nothing to score; none after the end."""
        if self.ended:
            return []
        self._gaps += 1
        self._end_ms = max(self._end_ms, gap.end // TICKS_PER_MS)
        return [
            events.Gap(
                **self._stamp(wall_ms),
                kind="media",
                start_ms=gap.start // TICKS_PER_MS,
                end_ms=gap.end // TICKS_PER_MS,
                tracks=list(gap.tracks),
                cause=gap.cause,
            )
        ]

    @property
    def position(self) -> int:
        """The newest ``seq`` that left; -1 before the first event."""
        return self._envelopes.next_seq - 1

    @property
    def measured(self) -> tuple[events.Cue, ...]:
        """Cues that stood out when something last did, newest last."""
        return self._alerts.measured

    def explained(self, words: Words, wall_ms: int) -> list[events.Event]:
        """Return the event for generated words about an earlier one; none after the end."""
        if self.ended:
            return []
        return [
            events.Explanation(
                **self._stamp(wall_ms),
                about_seq=words.about_seq,
                alert_id=words.alert_id,
                text=words.text,
                source="model",
                generated=True,
                cues=list(words.cues),
                model=words.model,
                took_ms=words.took_ms,
                generation=words.generation,
            )
        ]

    def end(
        self, reason: events.EndReason, wall_ms: int, duration_ms: int | None = None
    ) -> list[events.Event]:
        """Close the session: open windows are skipped, an alert is cleared, the books are given.

        ``duration_ms`` is the length of the media where the caller knows it better than the last
        window does. A second end returns nothing.
        """
        if self.ended:
            return []
        self.ended = True
        for index in self._ledger.unanswered():
            self._give_up(index, "draining" if reason == "drained" else "unanswered", wall_ms)
        leaving = self._leave(wall_ms)
        leaving += self._changes(self._person.frustration.finish(self._end_ms), wall_ms)
        ended = events.SessionEnded(
            **self._stamp(wall_ms, None),
            reason=reason,
            duration_ms=self._end_ms if duration_ms is None else duration_ms,
            counts=self.counts,
            coverage=events.Coverage(audio=self._coverage("audio"), video=self._coverage("video")),
        )
        return [*leaving, ended]

    def _give_up(self, index: int, reason: SkipReason, wall_ms: int) -> None:
        end_ms = (index * SLOT_TICKS + WINDOW_TICKS) // TICKS_PER_MS
        age_ms = 0 if self._origin_ms is None else max(0, wall_ms - self._origin_ms - end_ms)
        self._ledger.answer(index, Answer(reason, Timing(age_ms=age_ms), wall_ms))

    def _leave(self, wall_ms: int) -> list[events.Event]:
        return [
            event
            for entry, answer in self._ledger.leave()
            for event in self._close(entry, answer, wall_ms)
        ]

    def _close(self, entry: Entry, answer: Answer, wall_ms: int) -> list[events.Event]:
        age_ms = answer.timing.age_ms + max(0, wall_ms - answer.wall_ms)
        result = answer.result
        if isinstance(result, Outcome):
            if result.failure is not None:
                return self._skip(entry, entry.evidence, result.failure, age_ms, wall_ms)
            judged = self._person.judge(result)
            if isinstance(judged, Judged):
                return self._score(entry, judged, answer.timing, age_ms, wall_ms)
            return self._skip(entry, judged.evidence, judged.reason, age_ms, wall_ms)
        return self._skip(entry, entry.evidence, result, age_ms, wall_ms)

    def _skip(
        self, entry: Entry, evidence: EvidenceSet, reason: SkipReason, age_ms: int, wall_ms: int
    ) -> list[events.Event]:
        self.skipped[reason] += 1
        lost = self._person.frustration.absent(entry.end // TICKS_PER_MS)
        self._state = self._state_without(WIRE[reason] in LACKS_EVIDENCE or bool(lost))
        skipped = events.WindowSkipped(
            **self._stamp(wall_ms),
            window=_span(entry),
            reason=WIRE[reason],
            state=self._state,
            age_ms=age_ms,
            evidence=evidence,
        )
        return [skipped, *self._changes(lost, wall_ms)]

    def _state_without(self, lacking: bool) -> events.SkippedState:
        """A latched alert stays, and that a machine was busy is no news of the person."""
        if self._person.frustration.alerting:
            return "high"
        if lacking or self._state == "no_evidence":
            return "no_evidence"
        return self._person.frustration.state

    def _score(
        self, entry: Entry, judged: Judged, timing: Timing, age_ms: int, wall_ms: int
    ) -> list[events.Event]:
        self.scored += 1
        evidence = judged.evidence
        if "video_dropped" in entry.degraded:
            evidence = msgspec.structs.replace(evidence, video=NOT_LOOKED_AT)
        self._used["audio"] += judged.evidence.audio.used
        self._used["video"] += judged.evidence.video.used
        self._state = judged.state
        self._alerts.note(entry.index, judged.found)
        abstained = judged.confidence < self.settings.floor
        best = LABELS[int(judged.probabilities.argmax())]
        scored = events.WindowScored(
            **self._stamp(wall_ms),
            window=_span(entry),
            emotions=envelope.emotions(judged.probabilities.tolist()),
            bands=envelope.bands(judged.bands.tolist()),
            top=None if abstained else best,
            abstained=abstained,
            valence=round(judged.valence, DIGITS),
            arousal=round(judged.arousal, DIGITS),
            frustration=judged.frustration,
            state=judged.state,
            confidence=round(judged.confidence, DIGITS),
            evidence=evidence,
            model=events.Model(self.facts.model.id, self.facts.model.version),
            timing=events.Timing(age_ms, timing.queue_ms, timing.score_ms),
            faces=envelope.faces(judged.frames, judged.speaking, self.settings.max_faces),
            reason=sentence(judged.found),
            degraded=[*entry.degraded, *(["late"] if age_ms > self.settings.late_ms else [])],
        )
        return [scored, *self._changes(judged.changes, wall_ms)]

    def _changes(self, changes: Iterable[Raised | Cleared], wall_ms: int) -> list[events.Event]:
        return [event for change in changes for event in self._alerts.written(change, wall_ms)]

    def _coverage(self, kind: types.Kind) -> float | None:
        if kind not in self.facts.tracks or not self.facts.scored:
            return None
        return round(self._used[kind] / max(1, self._ledger.cut), DIGITS)

    def _stamp(self, wall_ms: int, participant_id: str | None = PARTICIPANT) -> Stamp:
        return self._envelopes.stamp(wall_ms, participant_id)


def _span(entry: Entry) -> events.Span:
    return events.Span(entry.index, entry.start // TICKS_PER_MS, entry.end // TICKS_PER_MS)
