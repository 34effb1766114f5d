"""Events and records for tests of the bus and the gateway."""

import asyncio

from pipeline import events
from services.bus.types import Header, Record, Session, StreamKey

KEY = StreamKey("default", "me")
NONE = events.Evidence(used=False, quality=None, reason="no_track")


def session(session_id="ses_1", *, epoch=1000, stream="me", tenant="default", state="live", **more):
    return Session(
        session_id=session_id,
        tenant=tenant,
        stream=stream,
        epoch=epoch,
        owner="ing_1",
        state=state,
        role=more.pop("role", "self"),
        **more,
    )


def envelope(seq, session_id="ses_1"):
    return {
        "id": f"evt_{session_id}_{seq}",
        "session_id": session_id,
        "seq": seq,
        "ts": events.timestamp(1_000_000 + seq),
        "participant_id": "p1",
    }


def started(seq=0, session_id="ses_1", stream="me"):
    return events.SessionStarted(
        **envelope(seq, session_id),
        started_at=events.timestamp(1_000_000),
        source=events.Source("file"),
        participants=[events.Participant("p1", "self", True, None, ["audio"])],
        labels=["neutral", "angry"],
        window=events.WindowShape(2000, 500),
        model=events.LoadedModel("tiny", "1.0", "sha256:0", ["CPU"]),
        meta={},
        stream=stream,
    )


def scored(seq, session_id="ses_1", value=0.4):
    return events.WindowScored(
        **envelope(seq, session_id),
        window=events.Span(seq, seq * 500, seq * 500 + 2000),
        emotions={"neutral": 0.25, "angry": 0.75},
        top="angry",
        abstained=False,
        valence=-0.2,
        arousal=0.5,
        frustration=events.Frustration(value, value - 0.1, value + 0.1, "rising", 0),
        state="calm",
        confidence=0.8,
        evidence=events.EvidenceSet(NONE, NONE, NONE),
        model=events.Model("tiny", "1.0"),
        timing=events.Timing(80, 5, 20),
        faces=None,
        degraded=[],
    )


def skipped(seq, session_id="ses_1"):
    return events.WindowSkipped(
        **envelope(seq, session_id),
        window=events.Span(seq, seq * 500, seq * 500 + 2000),
        reason="no_evidence",
        state="no_evidence",
        age_ms=70,
        evidence=events.EvidenceSet(NONE, NONE, NONE),
    )


def alert(seq, session_id="ses_1"):
    return events.AlertRaised(
        **envelope(seq, session_id),
        alert=events.Alert("alr_1", "frustration_high", "high", 0.8, 0.7, 0.9, 0.7, 8000, 0),
        reason=events.Reason("voice", "Louder than the first minute."),
        windows=[1, 2],
    )


def ended(seq, session_id="ses_1", reason="publisher_left"):
    return events.SessionEnded(
        **envelope(seq, session_id),
        reason=reason,
        duration_ms=1000,
        counts=events.Counts(1, {}, 0, 0),
        coverage=events.Coverage(1.0, None),
    )


def record(event, *, epoch=1000, role="self"):
    kind = event.__struct_config__.tag
    header = Header(event.session_id, epoch, event.seq, kind, role)
    return Record(header, events.encode(event))


def records(first, last, *, epoch=1000, session_id="ses_1", role="self"):
    """Return windows ``first`` to ``last`` (both included); seq 0 starts the session."""
    made = [
        started(0, session_id) if seq == 0 else scored(seq, session_id)
        for seq in range(first, last + 1)
    ]
    return [record(event, epoch=epoch, role=role) for event in made]


def seqs(items):
    return [item.header.seq for item in items]


async def take(feed, count):
    """Return the next ``count`` items of a live feed; fails after ten seconds without."""
    iterator = aiter(feed)
    return [await asyncio.wait_for(anext(iterator), 10) for _ in range(count)]


class ManualClock:
    """Time that moves when a test says so."""

    def __init__(self, wall_ms=1_000_000):
        self.now_ms = wall_ms

    def wall_ms(self):
        return self.now_ms

    def monotonic_s(self):
        return self.now_ms / 1000
