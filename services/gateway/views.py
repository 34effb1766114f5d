"""What REST says about a session: its newest events as one object, and as one plain sentence."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from pipeline import events
from services.bus.types import Session
from services.gateway.feed import Feed

Window = events.WindowScored | events.WindowSkipped
_WINDOWS = ("window.scored", "window.skipped")

LARGEST_LIMIT = 200
"""Sessions on one page."""


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """One session as it stands; null = no value now."""

    session_id: str
    stream: str
    role: str
    status: Literal["live", "ended", "owner_lost"]
    seq: int
    """Newest event of the session, -1 before the first."""
    updated_at: str | None
    window: events.Span | None
    state: str | None
    """``calm``, ``watch``, ``high`` or ``no_evidence``."""
    top: str | None
    confidence: float | None
    emotions: dict[str, float] | None
    valence: float | None
    arousal: float | None
    frustration: events.Frustration | None
    evidence: events.EvidenceSet | None
    alert: events.Alert | None
    """The alert that is raised now."""
    why_not: str | None
    """The policy's code for why nothing of this session is looked at; null: it is scored, or has
    not begun."""


class Page(msgspec.Struct, frozen=True):
    """Part of the list of sessions."""

    sessions: list[SessionView]
    next: str | None
    """Give it as ``after`` to get the following page; null at the end."""


class StateView(msgspec.Struct, frozen=True):
    """For prompts: a sentence and the numbers behind it."""

    text: str
    session: SessionView


class Timeline(msgspec.Struct, frozen=True):
    """Windows as they were sent, oldest first."""

    session_id: str
    first_seq: int | None
    """Oldest event that is still held; earlier windows are gone."""
    windows: list[msgspec.Raw]


def view(feed: Feed, session: Session, *, owner_lost: bool) -> SessionView:
    """Return the session as its feed tells it."""
    window = _last_window(feed)
    scored = window if isinstance(window, events.WindowScored) else None
    ended = feed.ended or session.state == "ended"
    return SessionView(
        session_id=session.session_id,
        stream=session.stream,
        role=session.role,
        status="ended" if ended else "owner_lost" if owner_lost else "live",
        seq=feed.last,
        updated_at=events.decode(feed.entries[-1].data).ts if feed.entries else None,
        window=None if window is None else window.window,
        state=None if window is None else window.state,
        top=None if scored is None else scored.top,
        confidence=None if scored is None else scored.confidence,
        emotions=None if scored is None else scored.emotions,
        valence=None if scored is None else scored.valence,
        arousal=None if scored is None else scored.arousal,
        frustration=None if scored is None else scored.frustration,
        evidence=None if window is None else window.evidence,
        alert=_open_alert(feed),
        why_not=_unscored(feed),
    )


def timeline(feed: Feed, from_ms: int, to_ms: int) -> Timeline:
    """Return the held windows that touch ``[from_ms, to_ms)`` of media time."""
    found = []
    for entry in feed.entries:
        if entry.window:
            span = _span.decode(entry.data).window
            if span.end_ms > from_ms and span.start_ms < to_ms:
                found.append(msgspec.Raw(entry.data))
    return Timeline(feed.session.session_id, feed.first if feed.entries else None, found)


def sentence(view: SessionView) -> str:
    """Return what the session expresses at the moment, for people and for prompts."""
    if view.status != "live":
        over = "is over" if view.status == "ended" else "has lost its source"
        return f"This session {over}."
    if view.why_not is not None:
        return f"Nothing of this session is looked at: {_UNSCORED.get(view.why_not, view.why_not)}."
    if view.window is None or view.evidence is None:
        return "Nothing has been scored yet."
    if view.state == "no_evidence" or view.confidence is None:
        return f"No evidence right now: {_why_not(view.evidence)}."
    parts = [_frustration(view), _emotion(view), f"from {_sources(view.evidence)}"]
    return "; ".join(filter(None, parts)) + "."


def sort(views: Sequence[SessionView], key: str) -> list[SessionView]:
    """Return views in the order of a ``sort`` parameter; what has no value comes last.

    Raises :class:`KeyError` for an order that does not exist.
    """
    value = SORTS[key.removeprefix("-")]
    by_id = sorted(views, key=lambda item: item.session_id)
    known = [(found, item) for item in by_id if (found := value(item)) is not None]
    known.sort(key=lambda pair: pair[0], reverse=key.startswith("-"))
    return [item for _, item in known] + [item for item in by_id if value(item) is None]


def _of_frustration(item: SessionView, name: str) -> float | None:
    return None if item.frustration is None else float(getattr(item.frustration, name))


SORTS: dict[str, Callable[[SessionView], Any]] = {
    "session_id": lambda item: item.session_id,
    "updated_at": lambda item: item.updated_at,
    "confidence": lambda item: item.confidence,
    "frustration.value": lambda item: _of_frustration(item, "value"),
    "frustration.low": lambda item: _of_frustration(item, "low"),
    "frustration.high": lambda item: _of_frustration(item, "high"),
}
"""Orders of the list; a leading ``-`` turns one round."""


class _Spanned(msgspec.Struct):
    window: events.Span


_span: msgspec.json.Decoder[_Spanned] = msgspec.json.Decoder(_Spanned)


def _last_window(feed: Feed) -> Window | None:
    for entry in reversed(feed.entries):
        if entry.kind in _WINDOWS:
            event = events.decode(entry.data)
            return event if isinstance(event, Window) else None
    return None


_UNSCORED = {
    "policy_role": "the policy does not score this role",
    "policy_consent": "nobody agreed to the notice",
    "policy_release": "no release was signed",
}


def _unscored(feed: Feed) -> str | None:
    """Return why a session is not scored; its first event is never trimmed, for few follow it."""
    first = events.decode(feed.entries[0].data) if feed.entries else None
    if not isinstance(first, events.SessionStarted):
        return None
    return next((person.why_not for person in first.participants if not person.scored), None)


def _open_alert(feed: Feed) -> events.Alert | None:
    for entry in reversed(feed.entries):
        if entry.kind in ("alert.cleared", "session.ended"):
            return None
        if entry.kind == "alert.raised":
            event = events.decode(entry.data)
            return event.alert if isinstance(event, events.AlertRaised) else None
    return None


def _frustration(view: SessionView) -> str:
    now = view.frustration
    if now is None or view.window is None:
        return "Expressed frustration unknown"
    band = (now.high - now.low) / 2
    for_s = max(0, view.window.end_ms - now.since_ms) // 1000
    return f"Expressed frustration {now.value:.2f} ±{band:.2f}, {now.trend} for {for_s} s"


def _emotion(view: SessionView) -> str:
    if view.top is None or view.confidence is None:
        return "not sure which emotion is expressed"
    return f"most likely expressed: {view.top} ({view.confidence:.0%} sure)"


def _sources(evidence: events.EvidenceSet) -> str:
    used = [
        name for name, item in (("voice", evidence.audio), ("face", evidence.video)) if item.used
    ]
    return " and ".join(used) if len(used) > 1 else f"{used[0]} only" if used else "no source"


def _why_not(evidence: events.EvidenceSet) -> str:
    reasons = [
        f"{name} {item.reason.replace('_', ' ')}"
        for name, item in (("voice:", evidence.audio), ("face:", evidence.video))
        if item.reason is not None
    ]
    return ", ".join(reasons) or "nothing can be scored"
