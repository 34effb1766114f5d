"""The owner of one session: media in, windows to the scorer, events to the sink in order.

Live sessions hand windows on and take outcomes when they come; files wait for every outcome, so
nothing is lost. Either way each window that was cut leaves as exactly one event. A session reads
no clock but the one it is given and starts no task; whoever made it calls :meth:`Session.end`.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, cast

from pipeline.degrade import Rung, Treated, treat
from pipeline.events import Cue, EndReason, Event
from pipeline.policy import Decision, Gate, WhyNot
from pipeline.stream import Facts, Stream, StreamSettings, Timing, Words
from pipeline.types import (
    TICKS_PER_MS,
    TICKS_PER_S,
    WINDOW_TICKS,
    AudioChunk,
    Gap,
    Job,
    Kind,
    Outcome,
    SkipReason,
    VideoFrame,
    Window,
)
from pipeline.windowing import PATIENCE_TICKS, Windower
from services.clock import Clock
from services.ingest.items import Ended, Item, Reached
from services.ingest.sink import EventSink

NO_MEDIA_S = 10
"""Without media for this long a session announces a gap (``no_media``)."""
TIMEOUT_S = 30
"""Without media for this long a session is over (``timeout``)."""
ANSWER_PATIENCE_S = 2.0
"""How long the end of a live session waits for windows still at the scorer."""

Result = Outcome | SkipReason
Done = Callable[[Job, Result, Timing], None]
State = Literal["new", "live", "ending", "ended"]


class Observer(Protocol):
    """Looks on as a session works (the explain tier); must not block and must not raise."""

    def attach(self, session: "Session") -> None:
        """This is the session; called once, before anything else."""

    def media(self, item: AudioChunk | VideoFrame) -> None:
        """One piece of decoded media came in."""

    def said(self, events: Sequence[Event]) -> None:
        """These events left."""

    def close(self) -> None:
        """The session is over."""


class Scoring(Protocol):
    """What a session needs of the scoring loop (:mod:`services.scorer.loop`)."""

    def submit(self, job: Job, done: Done) -> None:
        """Queue a live window; ``done`` is called on the event loop exactly once."""

    async def score(self, job: Job) -> tuple[Result, Timing]:
        """Score a window of a file; waits its turn, never skips for age."""

    def forget(self, session_id: str) -> None:
        """Drop what is cached for a session that ended."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """A session's books."""

    state: State
    cut: int
    """Windows cut; ``cut == scored + skipped + in_flight``."""
    scored: int
    skipped: dict[SkipReason, int]
    in_flight: int
    events: int
    media_ticks: int
    dropped: dict[str, int]
    """Media that came too late for its window, by reason."""


@dataclass(slots=True)
class _Books:
    events: int = 0
    end: int = 0
    """Last tick of media or of an announced gap."""
    newest: dict[Kind, int] = field(default_factory=dict)


class Session:
    """One epoch of one stream, from its first media to ``session.ended``."""

    def __init__(
        self,
        facts: Facts,
        *,
        scoring: Scoring,
        sink: EventSink,
        clock: Clock,
        live: bool,
        patience_ticks: int = PATIENCE_TICKS,
        gate: Gate | None = None,
        settings: StreamSettings | None = None,
        rung: Callable[[], Rung] = lambda: Rung.FULL,
        observer: Observer | None = None,
    ) -> None:
        """Make the owner; nothing is said before the first media, or the end.

        ``patience_ticks`` is how far one track may run ahead of the other before windows stop
        waiting (loosely interleaved files want more). While
        ``gate`` is shut media is ignored and no window is cut; without one it is as open as
        ``facts`` say. ``rung`` tells how much of live windows to give up (:mod:`pipeline.degrade`).
        """
        self.facts = facts
        self._rung = rung
        self._observer = observer
        self.gate = gate or _gate_of(facts)
        self._scoring = scoring
        self._sink = sink
        self._clock = clock
        self._live = live
        self._stream = Stream(facts, settings)
        self._windower = Windower(
            audio="audio" in facts.tracks,
            video="video" in facts.tracks,
            patience_ticks=patience_ticks,
        )
        self._state: State = "new"
        self._began_s = self._heard_s = clock.monotonic_s()
        self._silence_told = False
        self._books = _Books()
        self._lost: dict[Kind, tuple[int, int]] = {}
        self._answered = asyncio.Event()
        self._over = asyncio.Event()
        if observer is not None:
            observer.attach(self)

    @property
    def session_id(self) -> str:
        """``ses_`` and a ULID."""
        return self.facts.session_id

    def begin(self) -> None:
        """Say ``session.started`` now: its time is that of the first media sample.

        The first :meth:`feed` does it too; live media is decoded half a second after it arrived,
        so whoever saw it arrive says so.
        """
        if self._state == "new":
            self._state = "live"
            self._began_s = self._clock.monotonic_s()
            scored = self.gate.opens
            why_not = None if scored else self.facts.why_not or "policy_consent"
            self._stream.facts = replace(self.facts, scored=scored, why_not=why_not)
            self._put(self._stream.start(self._clock.wall_ms()))

    def unseen(self) -> None:
        """Note that media arrived and was dropped at the gate: the publisher is not silent.

        A session whose media will never pass begins with it; one that waits for consent says
        nothing before that.
        """
        self._heard_s = self._clock.monotonic_s()
        if not self.gate.asks and self.gate.consent != "withdrawn":
            self.begin()

    def halt(self) -> None:
        """Skip whatever is in flight, if the gate now says so: consent withdrawn, scoring off."""
        reason = self.gate.skips
        if reason is not None and self._state in ("live", "ending"):
            self._put(self._stream.void(reason, self._clock.wall_ms()))
            self._answered.set()

    def erase(self) -> None:
        """Have everything that was written of this session erased when it ends."""
        self._sink.erase()

    def feed(self, items: Iterable[Item], arrived_s: float | None = None) -> None:
        """Take live media and submit every window it completes; never blocks.

        ``arrived_s`` is the monotonic time at which the newest of it came in. Media for a session
        that is ending, or behind a shut gate, is ignored.
        """
        if self._state in ("ending", "ended") or not self.gate.opens:
            return
        for due in self._take_in(items, arrived_s):
            self._dispatch(due)

    def lose(self, spans: Mapping[Kind, tuple[int, int]], arrived_s: float | None = None) -> None:
        """Note live media that the decoder lost, by track: windows wait for it no longer.

        A window that has nothing else is skipped as ``decoder_crash``.
        """
        for kind, (start, end) in spans.items():
            first, last = self._lost.get(kind, (start, end))
            if start > last + WINDOW_TICKS:
                first = start
            self._lost[kind] = min(first, start), max(last, end)
        self.feed([Reached(kind, end) for kind, (_, end) in spans.items()], arrived_s)

    async def feed_all(self, items: Iterable[Item]) -> None:
        """Take media of a file and wait until every window it completes has left as an event."""
        if self._state in ("ending", "ended") or not self.gate.opens:
            return
        for due in self._take_in(items, None):
            await self._settle(due)

    def gap(self, gap: Gap) -> None:
        """Announce a stretch without media that was found elsewhere (``clock_jump``)."""
        if self._state in ("new", "live") and self.gate.opens:
            self.begin()
            self._dispatch(gap)

    def check(self) -> bool:
        """Watch the media; call about once a second. True: it was silent too long, end it.

        The first :data:`NO_MEDIA_S` of silence are announced as one gap.
        """
        if self._state not in ("new", "live"):
            return False
        silent_s = self._clock.monotonic_s() - self._heard_s
        if silent_s >= NO_MEDIA_S and not self._silence_told:
            self._silence_told = True
            start = max(self._books.newest.values(), default=0)
            end = start + int(silent_s * TICKS_PER_S)
            self.gap(Gap(start, end, tuple(self.facts.tracks), "no_media"))
        return silent_s >= TIMEOUT_S

    async def end(self, reason: EndReason) -> None:
        """Cut what is left, wait a moment for its outcomes, say ``session.ended``, close the sink.

        The first reason counts; later calls wait until the session is over.
        """
        if self._state in ("ending", "ended"):
            await self._over.wait()
            return
        self.begin()
        self._state = "ending"
        try:
            await self._settle_rest()
            duration_ms = self._duration_ms()
            self._put(self._stream.end(reason, self._clock.wall_ms(), duration_ms))
        finally:
            self._state = "ended"
            self._scoring.forget(self.session_id)
            if self._observer is not None:
                self._observer.close()
            try:
                await self._sink.close()
            finally:
                self._over.set()

    def held(self, kind: Kind) -> int:
        """Return how much decoded media waits for its window: frames, or samples of sound."""
        return self._windower.held(kind)

    def statistics(self) -> Statistics:
        """Return the books as they stand."""
        return Statistics(
            state=self._state,
            cut=self._stream.cut_count,
            scored=self._stream.scored,
            skipped=dict(self._stream.skipped),
            in_flight=self._stream.in_flight,
            events=self._books.events,
            media_ticks=max(self._books.newest.values(), default=0),
            dropped=dict(self._windower.dropped),
        )

    def _take_in(self, items: Iterable[Item], arrived_s: float | None) -> list[Window | Gap]:
        heard = False
        for item in items:
            self.begin()
            heard = heard or not isinstance(item, Ended)
            self._accept(item)
        if heard:
            self._heard_s = self._clock.monotonic_s() if arrived_s is None else arrived_s
            self._silence_told = False
        return self._windower.take()

    def explain(self, words: Words) -> None:
        """Say what an explain model wrote, unless the session is over or must not be judged."""
        if self._state == "live" and self.gate.opens and self.gate.skips is None:
            self._put(self._stream.explained(words, self._clock.wall_ms()))

    @property
    def measured(self) -> tuple[Cue, ...]:
        """What was measured when something last stood out."""
        return self._stream.measured

    def _accept(self, item: Item) -> None:
        if isinstance(item, AudioChunk | VideoFrame):
            self._show(item)
        match item:
            case AudioChunk():
                self._windower.feed(item)
                self._note("audio", item.start + len(item.samples))
            case VideoFrame():
                self._windower.feed(item)
                self._note("video", item.at)
            case Reached():
                self._windower.reached(item.kind, item.tick)
                self._note(item.kind, item.tick)
            case Ended():
                self._windower.ended(item.kind)

    def _show(self, item: AudioChunk | VideoFrame) -> None:
        """Let the observer look on, but at nothing that must not be judged."""
        if self._observer is not None and self.gate.skips is None:
            self._observer.media(item)

    def _note(self, kind: Kind, tick: int) -> None:
        self._books.newest[kind] = max(self._books.newest.get(kind, 0), tick)
        self._books.end = max(self._books.end, tick)

    def _job(self, window: Window, treated: Treated | None = None) -> Job:
        self._stream.cut(window, treated.degraded if treated else ())
        seen = treated.window if treated else window
        return Job(self.session_id, seen, self._heard_s, self._clock.monotonic_s())

    def _dispatch(self, due: Window | Gap) -> None:
        if isinstance(due, Window):
            treated = treat(due, self._rung())
            job, reason = self._job(due, treated), self.gate.skips
            lost = self._all_lost(due)
            if reason is None and (treated is None or lost):
                age_ms = round((self._clock.monotonic_s() - job.arrived_s) * 1000)
                why: SkipReason = "decoder_crash" if lost else "overload"
                self._scored(job, why, Timing(age_ms=max(age_ms, 0)))
            elif reason is None:
                self._scoring.submit(job, self._scored)
            else:
                self._scored(job, reason, Timing())
        else:
            self._announce(due)

    def _all_lost(self, window: Window) -> bool:
        """Tell whether a window has no media because the decoder lost it."""
        if any(window.audio_coverage) or window.frames:
            return False
        spans = self._lost.values()
        return any(start < window.end and end > window.start for start, end in spans)

    async def _settle(self, due: Window | Gap) -> None:
        if isinstance(due, Window):
            job, reason = self._job(due), self.gate.skips
            if reason is None:
                self._scored(job, *await self._scoring.score(job))
            else:
                self._scored(job, reason, Timing())
        else:
            self._announce(due)

    def _announce(self, gap: Gap) -> None:
        self._books.end = max(self._books.end, gap.end)
        self._put(self._stream.gap(gap, self._clock.wall_ms()))

    async def _settle_rest(self) -> None:
        for due in self._windower.finish() if self.gate.opens else ():
            if self._live:
                self._dispatch(due)
            else:
                await self._settle(due)
        try:
            async with asyncio.timeout(ANSWER_PATIENCE_S):
                while self._stream.in_flight:
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            pass  # Stream.end skips what is left as unanswered

    def _scored(self, job: Job, result: Result, timing: Timing) -> None:
        if self._state == "ended":
            return
        result = self.gate.skips or result
        self._put(self._stream.resolve(job.window.index, result, timing, self._clock.wall_ms()))
        self._answered.set()

    def _duration_ms(self) -> int:
        """Return the length of the media; unseen media is as long as it took."""
        if self._stream.facts.scored:
            return self._books.end // TICKS_PER_MS
        return round((self._heard_s - self._began_s) * 1000) if self._heard_s > self._began_s else 0

    def _put(self, events: list[Event]) -> None:
        self._books.events += len(events)
        if events:
            self._sink.put(events)
            if self._observer is not None:
                self._observer.said(events)


def _gate_of(facts: Facts) -> Gate:
    return Gate(Decision(facts.scored, cast("WhyNot | None", facts.why_not), ""))
