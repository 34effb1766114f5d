"""A made-up call with real books: windows are cut, answered in any order or given up, events come.

The same :class:`~pipeline.stream.Stream` as in production, fed with made-up measurements instead of
media, so a session costs next to nothing and its accounting is the product's own.
"""

import json
import random
from dataclasses import replace

from pipeline import events
from pipeline.stream import Stream, Timing
from pipeline.types import Outcome, SkipReason
from tests.chaos.ledger import Book, Counts, Seen, line_of
from tests.pipeline.readings import facts, outcome, window

SKIPS: tuple[SkipReason, ...] = ("stale", "overload", "superseded", "no_evidence", "bad_output")
ANSWERS = 16
"""Windows that may wait for their answer before the oldest is answered."""


class Call:
    """One session: :meth:`step` cuts a window and answers some that wait."""

    def __init__(self, session: str, stream: str, epoch: int, chance: random.Random) -> None:
        self.stream = Stream(replace(facts(), session_id=session, stream=stream, meta={}))
        self.book = Book(session, epoch)
        self.open: list[int] = []
        self._chance = chance
        self._next = 0

    def begin(self, wall_ms: int) -> list[events.Event]:
        return self._note(self.stream.start(wall_ms))

    def cut(self) -> int:
        """Cut the next window; returns its index."""
        index, self._next = self._next, self._next + 1
        self.stream.cut(window(index))
        self.open.append(index)
        return index

    def answer(
        self, index: int, wall_ms: int, skip: SkipReason | None = None
    ) -> list[events.Event]:
        """Answer a window that waits; returns what can leave now."""
        self.open.remove(index)
        result: Outcome | SkipReason = skip or outcome(index, *self._mood())
        return self._note(self.stream.resolve(index, result, Timing(80, 5, 20), wall_ms))

    def step(self, wall_ms: int) -> list[events.Event]:
        """Cut one window and answer as many as chance has it, in an order of its own."""
        self.cut()
        made: list[events.Event] = []
        while self.open and (len(self.open) > ANSWERS or self._chance.random() < 0.7):
            index = self._chance.choice(self.open[:3])
            skip = self._chance.choice(SKIPS) if self._chance.random() < 0.2 else None
            made += self.answer(index, wall_ms, skip)
        return made

    def end(self, wall_ms: int) -> list[events.Event]:
        """Close the books: what waits is given up, the end counts everything."""
        self.open.clear()
        made = self._note(self.stream.end("publisher_left", wall_ms))
        self.book.cut = self.stream.cut_count
        counts = self.stream.counts
        self.book.counts = Counts(counts.scored, sum(counts.skipped.values()))
        return made

    def _mood(self) -> tuple[str | None, str | None]:
        """Long stretches of anger, so that alerts come and go."""
        if self._next // 40 % 2:
            return "angry", "angry"
        return ("neutral", "happy") if self._chance.random() < 0.9 else (None, None)

    def _note(self, made: list[events.Event]) -> list[events.Event]:
        self.book.events += map(seen, made)
        return made


def seen(event: events.AnyEvent) -> Seen:
    """Return an event with a seq as the ledger knows it."""
    windows = (events.WindowScored, events.WindowSkipped)
    index = event.window.index if isinstance(event, windows) else None
    kind = str(type(event).__struct_config__.tag)
    return Seen(str(event.session_id), int(event.seq or 0), kind, index)


def begin_line(book: Book) -> str:
    return json.dumps(["begin", book.session, book.epoch])


def end_line(book: Book) -> str:
    assert book.counts is not None
    return json.dumps(["end", book.session, book.cut, book.counts.scored, book.counts.skipped])


def event_lines(made: list[events.Event]) -> list[str]:
    return [line_of(seen(event)) for event in made]
