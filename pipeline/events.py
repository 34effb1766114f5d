"""The wire schema ``demeanor.v1``: one msgspec Struct per event, tagged by ``type``.

JSON, UTF-8, snake_case. Times are integer ms of media time; ``ts`` is RFC 3339 UTC with ms.
``null`` means known field, no value now; it never stands for 0. Inside a major version fields are
only added; readers ignore what they do not know.
"""

from typing import Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

SCHEMA = "1.0"
PROTOCOL = "demeanor.v1.json"

Role = Literal[
    "customer",
    "self",
    "agent",
    "employee",
    "student",
    "participant",
    "supervisor",
    "candidate",
    "bot",
    "unknown",
]
SourceKind = Literal[
    "whip", "pcm", "twilio", "livekit", "jitsi", "audiohook", "rtms", "file", "device", "rtsp"
]
State = Literal["calm", "watch", "high"]
SkippedState = Literal["calm", "watch", "high", "no_evidence"]
Level = Literal["watch", "high"]
WireSkip = Literal[
    "no_evidence", "stale", "late", "overload", "low_quality", "policy", "model_error"
]
EvidenceReason = Literal[
    "no_track",
    "no_speech",
    "no_face",
    "no_media",
    "no_asr",
    "muted",
    "silent",
    "dark",
    "frozen",
    "blurred",
    "multiple_faces",
    "overload",
]
EndReason = Literal[
    "publisher_left",
    "deleted",
    "timeout",
    "drained",
    "policy",
    "owner_lost",
    "bad_media",
    "error",
]
MediaGapCause = Literal[
    "packet_loss", "muted", "hold", "publisher_reconnect", "clock_jump", "no_media"
]
DeliveryGapCause = Literal["slow_reader", "log_trimmed", "bus_reconnect"]
Trend = Literal["rising", "steady", "falling"]


class Source(msgspec.Struct, frozen=True):
    """Where the media came from."""

    kind: SourceKind
    user_agent: str | None = None


class Participant(msgspec.Struct, frozen=True):
    """One person on a session and whether the policy lets them be scored."""

    id: str
    role: Role
    scored: bool
    why_not: str | None
    tracks: list[Literal["audio", "video"]]


class WindowShape(msgspec.Struct, frozen=True):
    """Length and step of the sliding windows."""

    size_ms: int
    hop_ms: int


class Model(msgspec.Struct, frozen=True):
    """The model that scored a window."""

    id: str
    version: str


class LoadedModel(msgspec.Struct, frozen=True):
    """The model a session begins with."""

    id: str
    version: str
    digest: str
    """``sha256:`` and the digest over the loaded files."""
    providers: list[str]


class Span(msgspec.Struct, frozen=True):
    """A window's place on the media clock."""

    index: int
    start_ms: int
    end_ms: int


class Evidence(msgspec.Struct, frozen=True):
    """Whether one modality counted in a window, and why not."""

    used: bool
    quality: float | None
    reason: EvidenceReason | None


class EvidenceSet(msgspec.Struct, frozen=True):
    """Evidence per modality."""

    audio: Evidence
    video: Evidence
    text: Evidence


class Frustration(msgspec.Struct, frozen=True):
    """Expressed frustration in [0, 1] with an 80 % band."""

    value: float
    low: float
    high: float
    trend: Trend
    since_ms: int
    """Media time since when the trend holds."""


class Timing(msgspec.Struct, frozen=True):
    """How fresh the event is; all in ms."""

    age_ms: int
    """Last media of the window received → event made."""
    queue_ms: int
    score_ms: int


class FaceBox(msgspec.Struct, frozen=True):
    """One face on the newest sampled frame of the window."""

    face_id: int
    box: tuple[float, float, float, float]
    at_ms: int
    score: float
    speaking: bool | None
    emotions: dict[str, float]


class Alert(msgspec.Struct, frozen=True):
    """What an alert rule saw when it fired."""

    id: str
    rule: str
    level: Level
    value: float
    low: float
    high: float
    threshold: float
    dwell_ms: int
    since_ms: int


class Reason(msgspec.Struct, frozen=True):
    """A sentence made of measured cues."""

    code: str
    text: str


class Cue(msgspec.Struct, frozen=True):
    """One measured cue beside its baseline."""

    name: str
    modality: Literal["audio", "video"]
    value: float
    baseline: float | None
    unit: str


class Counts(msgspec.Struct, frozen=True):
    """A session's books: ``scored + sum(skipped)`` windows were cut."""

    scored: int
    skipped: dict[str, int]
    gaps: int
    alerts: int


class Coverage(msgspec.Struct, frozen=True):
    """Share of windows in which a modality counted; null without such a track."""

    audio: float | None
    video: float | None


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """The envelope that all events share."""

    schema: str = SCHEMA
    id: str
    session_id: str | None
    seq: int | None
    ts: str
    participant_id: str | None
    policy: str | None = None
    """Policy in force when the session began: jurisdiction and first digits of its hash."""


class SessionStarted(Event, frozen=True, kw_only=True, tag="session.started"):
    """First event of a session, ``seq`` 0."""

    started_at: str
    source: Source
    participants: list[Participant]
    labels: list[str]
    scale: Literal["simplex", "independent"] = "simplex"
    window: WindowShape
    model: LoadedModel
    meta: dict[str, str]
    stream: str
    """The publisher's name for the stream."""
    notice: str | None = None
    """Version of the notice in force; its text: ``GET /v1/policy``."""


class WindowScored(Event, frozen=True, kw_only=True, tag="window.scored"):
    """One window with enough evidence."""

    window: Span
    trigger: Literal["interval", "utterance_end", "flush"] = "interval"
    emotions: dict[str, float]
    bands: dict[str, tuple[float, float]] | None = None
    """80 % interval of each entry of ``emotions``."""
    top: str | None
    abstained: bool
    valence: float | None
    arousal: float | None
    frustration: Frustration | None
    state: State
    confidence: float
    evidence: EvidenceSet
    model: Model
    timing: Timing
    faces: list[FaceBox] | None
    reason: Reason | None = None
    """What was measured in this window, as one sentence; null when nothing stands out."""
    degraded: list[str]


class WindowSkipped(Event, frozen=True, kw_only=True, tag="window.skipped"):
    """One window that was cut and not scored."""

    window: Span
    reason: WireSkip
    state: SkippedState
    age_ms: int
    evidence: EvidenceSet


class AlertRaised(Event, frozen=True, kw_only=True, tag="alert.raised"):
    """A rule held for its dwell time."""

    alert: Alert
    reason: Reason
    windows: list[int]


class AlertCleared(Event, frozen=True, kw_only=True, tag="alert.cleared"):
    """A raised alert is over."""

    alert_id: str
    cause: Literal["recovered", "evidence_lost", "session_ended", "operator"]
    duration_ms: int
    peak: float


class Generation(msgspec.Struct, frozen=True):
    """How a generated explanation came about. None of it is measured, and it is no evidence."""

    label: str
    """What the model wrote as its answer, or ``other``."""
    raw: str
    """The same in its own words."""
    labels: dict[str, float]
    """Shares of the labels by the model's own words, in [0, 1]; not calibrated."""
    margin: float
    """Likeliest minus second."""
    entropy: float
    """In nats; 0 is certain."""
    prefix: str
    """What was written for the model before its answer was scored."""
    agrees: bool
    """Whether the answer it wrote is the likeliest label."""
    truncated: bool
    """Its thinking was cut off."""
    withheld: int
    """Sentences left out: they contradict measured cues, or speak of other things."""
    audio: Literal["heard", "missing"]
    calibrated: bool = False


class Explanation(Event, frozen=True, kw_only=True, tag="explanation"):
    """Why an alert or a window looks as it does."""

    about_seq: int
    alert_id: str | None
    text: str
    source: Literal["rules", "model"]
    generated: bool
    cues: list[Cue]
    model: Model | None
    took_ms: int
    generation: Generation | None = None
    """Set when ``source`` is ``model``."""


class Gap(Event, frozen=True, kw_only=True, tag="gap"):
    """A hole: in the media (logged) or in the delivery to one connection (``seq`` null).

    Media gaps carry the first three fields, delivery gaps the next two.
    """

    kind: Literal["media", "delivery"]
    start_ms: int | UnsetType = UNSET
    end_ms: int | UnsetType = UNSET
    tracks: list[Literal["audio", "video"]] | UnsetType = UNSET
    from_seq: int | UnsetType = UNSET
    to_seq: int | UnsetType = UNSET
    cause: MediaGapCause | DeliveryGapCause


class SessionEnded(Event, frozen=True, kw_only=True, tag="session.ended"):
    """Last event of a session."""

    reason: EndReason
    duration_ms: int
    counts: Counts
    coverage: Coverage


class Error(Event, frozen=True, kw_only=True, tag="error"):
    """Something the reader can act on; ``fatal`` means the connection closes next."""

    code: str
    message: str
    fatal: bool
    retry_after_ms: int | None
    ref: str | None
    doc: str


AnyEvent = (
    SessionStarted
    | WindowScored
    | WindowSkipped
    | AlertRaised
    | AlertCleared
    | Explanation
    | Gap
    | SessionEnded
    | Error
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def timestamp(wall_ms: int) -> str:
    """Return unix milliseconds as RFC 3339 UTC with ms: ``2026-11-23T08:00:10.004Z``."""
    return f"{np.datetime64(wall_ms, 'ms')}Z"


def encode(event: Event) -> bytes:
    """Return the event as one line of JSON, exactly as on the wire."""
    return _encoder.encode(event)


def decode(data: bytes | str) -> AnyEvent:
    """Read one event. Raises :class:`msgspec.ValidationError` for an unknown type or bad field."""
    return _decoder.decode(data)
