"""Where sessions and the explain tier meet: who is on, what was asked, which words go where."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from pipeline.errors import UsageError
from pipeline.events import Cue, Event, Generation, Model
from pipeline.explain import manifest
from pipeline.explain.check import checked
from pipeline.stream import Facts, Words
from pipeline.types import AudioChunk, VideoFrame
from services.explain import wire
from services.explain.options import Options
from services.explain.recorder import Recorder
from services.explain.tier import Limits, Question, Tier
from services.orders import Orders
from services.queues import Registry
from services.settings import Settings

USAGE: Final = (
    "the usage policy of R1-Omni forbids inferring emotions of people at work or in education, and "
    "its words are generated, never evidence: accept it with --explain-accept or "
    "DEMEANOR_EXPLAIN_ACCEPT=true"
)
_DIGITS: Final = 3


class Speaker(Protocol):
    """What is needed of a session (:class:`services.ingest.session.Session`)."""

    @property
    def measured(self) -> tuple[Cue, ...]:
        """What was measured when something last stood out."""

    def explain(self, words: Words) -> None:
        """Say what the model wrote."""


class Desk:
    """All sessions that are watched, and the tier."""

    def __init__(self, settings: Settings, orders: Orders, queues: Registry) -> None:
        """Raises :class:`UsageError` unless the usage policy was accepted."""
        if settings.explain is None:
            raise ValueError("the explain tier is off")
        if not settings.explain_accept:
            raise UsageError(USAGE)
        self._settings = settings
        self._orders = orders
        self._frames = manifest.read(settings.explain).frames
        self._watched: dict[str, _Watched] = {}
        self._recorded = 0
        self.tier = Tier(
            settings.explain,
            Options(device=settings.device, threads=settings.explain_threads),
            Limits(settings.explain_per_min),
            deliver=self._deliver,
            queues=queues,
        )

    def observe(self, facts: Facts) -> "_Watched":
        """Return the observer of a session that begins and is judged, or may be by consent."""
        recorder = Recorder(
            facts.session_id,
            facts.tracks,
            self.tier.submit,
            self._settings.explain_every_s,
            self._frames,
        )
        watched = _Watched(facts.session_id, recorder, self._forget)
        self._watched[facts.session_id] = watched
        self._recorded += 1
        return watched

    def statistics(self) -> dict[str, float]:
        """Return gauges and counters for ``/metrics``."""
        return {
            **self.tier.statistics(),
            "recorders": len(self._watched),
            "recorded_sessions_total": self._recorded,
        }

    def obey(self) -> None:
        """Look for requests among the standing orders."""
        for session_id, watched in tuple(self._watched.items()):
            asked = self._orders.value("explain", session_id)
            if asked is not None and asked != watched.request:
                watched.request = asked
                watched.recorder.asked()

    def _forget(self, session_id: str) -> None:
        self._watched.pop(session_id, None)
        self.tier.forget(session_id)

    def _deliver(self, question: Question, answer: wire.Answer) -> None:
        watched = self._watched.get(question.session_id)
        if watched is None or watched.speaker is None:
            return
        found = checked(
            answer.thinking or "",
            watched.speaker.measured,
            surroundings=self._settings.explain_surroundings,
        )
        name, _, version = self.tier.identity.partition("@")
        watched.speaker.explain(
            Words(
                about_seq=question.about_seq,
                alert_id=question.alert_id,
                text=found.text,
                cues=found.cues,
                model=Model(name, version),
                took_ms=answer.took_ms,
                generation=_generation(answer, found.withheld),
            )
        )


class _Watched:
    """One session's observer; knows its session once it exists."""

    def __init__(self, session_id: str, recorder: Recorder, forget: Callable[[str], None]) -> None:
        self.recorder = recorder
        self.speaker: Speaker | None = None
        self.request: str | None = None
        self._session_id = session_id
        self._forget = forget

    def attach(self, session: Speaker) -> None:
        """Remember who speaks."""
        self.speaker = session

    def media(self, item: AudioChunk | VideoFrame) -> None:
        """Keep the newest media."""
        self.recorder.media(item)

    def said(self, events: Sequence[Event]) -> None:
        """Look for a reason to explain."""
        self.recorder.said(events)

    def close(self) -> None:
        """Let go of everything."""
        self.recorder.close()
        self._forget(self._session_id)


def _generation(answer: wire.Answer, withheld: int) -> Generation:
    return Generation(
        label=answer.label,
        raw=answer.raw[:64],
        labels={label: round(share, _DIGITS) for label, share in answer.labels.items()},
        margin=round(answer.margin, _DIGITS),
        entropy=round(answer.entropy, _DIGITS),
        prefix=answer.prefix,
        agrees=answer.label == answer.top,
        truncated=answer.truncated,
        withheld=withheld,
        audio="heard" if answer.audio == "heard" else "missing",
    )


@asynccontextmanager
async def open_desk(
    settings: Settings, orders: Orders, queues: Registry
) -> AsyncIterator[Desk | None]:
    """Run the explain tier while the context lasts; None when it is off.

    Raises :class:`~pipeline.errors.ModelRefused` for a folder that cannot be used and
    :class:`~pipeline.errors.UsageError` until the usage policy is accepted.
    """
    if settings.explain is None:
        yield None
        return
    desk = Desk(settings, orders, queues)
    async with desk.tier:
        stop = orders.on_change(desk.obey)
        try:
            yield desk
        finally:
            stop()
