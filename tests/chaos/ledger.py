"""The proof that nothing was lost: what an application saw against what the owner wrote down.

Knows nothing of the product but its promises (I1 to I3 of the delivery design): books add up, each
window has one event, an application sees rising seqs, and every seq it does not see lies in exactly
one announced gap.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WINDOWS = frozenset({"window.scored", "window.skipped"})
END = "session.ended"


@dataclass(frozen=True, slots=True)
class Seen:
    """One event, as an owner put it or an application got it."""

    session: str
    seq: int
    kind: str
    index: int | None = None
    """Index of its window, for events of windows."""


@dataclass(frozen=True, slots=True)
class Hole:
    """An announced delivery gap, both ends included."""

    session: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Counts:
    """The books of a session as its end carries them."""

    scored: int
    skipped: int
    """All reasons together."""


@dataclass(slots=True)
class Book:
    """One session as its owner wrote it down."""

    session: str
    epoch: int
    events: list[Seen] = field(default_factory=list)
    cut: int | None = None
    """Windows cut, as the owner counted them; None when it could not say."""
    counts: Counts | None = None
    """None when the owner was killed before the end."""


@dataclass(slots=True)
class Verdict:
    """What one application saw of one session."""

    events: int = 0
    lost: int = 0
    """Seqs that nobody delivered and nobody announced."""
    twice: int = 0
    gaps: int = 0
    gapped: int = 0
    """Seqs in announced gaps."""
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Verdict") -> None:
        self.events += other.events
        self.lost += other.lost
        self.twice += other.twice
        self.gaps += other.gaps
        self.gapped += other.gapped
        self.faults += other.faults


def audit(book: Book) -> list[str]:
    """Return what is wrong with an owner's own book: I1 and I2."""
    faults = []
    seqs = [event.seq for event in book.events]
    if seqs != list(range(len(seqs))):
        faults.append(f"{book.session}: seqs are not dense from 0")
    windows = [event for event in book.events if event.kind in WINDOWS]
    indices = [event.index for event in windows]
    if any(index is None for index in indices) or indices != sorted(set(indices)):
        faults.append(f"{book.session}: a window has no event of its own, or is out of order")
    faults += _sums(book.session, book.cut, book.counts, Counter(e.kind for e in windows))
    ends = [event.seq for event in book.events if event.kind == END]
    if ends not in ([], seqs[-1:]):
        faults.append(f"{book.session}: events after its end")
    return faults


def _sums(session: str, cut: int | None, counts: Counts | None, kinds: Counter[str]) -> list[str]:
    """I1: ``cut == scored + skipped`` once a session is over."""
    if counts is None:
        return []
    faults = []
    if (counts.scored, counts.skipped) != (kinds["window.scored"], kinds["window.skipped"]):
        faults.append(f"{session}: its end counts {counts}, its events are {dict(kinds)}")
    if cut is not None and cut != counts.scored + counts.skipped:
        faults.append(f"{session}: {cut} windows cut, {counts}")
    return faults


def judge(
    lines: Iterable[Seen | Hole], book: Book, *, first: int = 0, whole: bool = True
) -> Verdict:
    """Hold what an application got of one session, in its order, against the owner's book.

    ``first`` is the seq the application should have begun with. ``whole``: it had the time to get
    everything; else a missing end is no fault, a hole still is.
    """
    truth = {event.seq: event for event in book.events}
    verdict, at, covered = Verdict(), first - 1, set[int]()
    for line in lines:
        if isinstance(line, Hole):
            _hole(line, at, truth, covered, verdict)
            at = max(at, line.last)
            continue
        verdict.events += 1
        if line.seq <= at:
            verdict.twice += 1
            verdict.faults.append(f"{line.session}: {line.seq} came after {at}")
            continue
        _missing(line.session, range(at + 1, line.seq), covered, verdict)
        if truth.get(line.seq) != line:
            verdict.faults.append(f"{line.session}: {line} is not what its owner wrote")
        at = line.seq
    if whole:
        _missing(book.session, range(at + 1, len(book.events)), covered, verdict)
    return verdict


def _hole(hole: Hole, at: int, truth: dict[int, Seen], covered: set[int], verdict: Verdict) -> None:
    verdict.gaps += 1
    seqs = range(hole.first, hole.last + 1)
    verdict.gapped += len(seqs)
    if not seqs:
        verdict.faults.append(f"{hole} is empty")
    if covered.intersection(seqs):
        verdict.faults.append(f"{hole} announces what was announced before")
    elif hole.first <= at:
        verdict.faults.append(f"{hole} announces as lost what was delivered ({at})")
    elif hole.first > at + 1:
        _missing(hole.session, range(at + 1, hole.first), covered, verdict)
    if truth and hole.last > max(truth):
        verdict.faults.append(f"{hole} goes past the newest event {max(truth)}")
    covered.update(seqs)


def _missing(session: str, seqs: range, covered: set[int], verdict: Verdict) -> None:
    missing = [seq for seq in seqs if seq not in covered]
    if missing:
        verdict.lost += len(missing)
        verdict.faults.append(f"{session}: {missing[0]}..{missing[-1]} never came, no gap says so")


def after_hole_is_next(lines: Sequence[Seen | Hole]) -> list[str]:
    """A gap is exact: what follows it is the event right behind it."""
    faults = []
    for hole, line in itertools.pairwise(lines):
        if isinstance(hole, Hole) and isinstance(line, Seen) and line.seq != hole.last + 1:
            faults.append(f"{hole} is followed by {line.seq}")
    return faults


def judge_all(
    lines: Sequence[Seen | Hole], books: Iterable[Book], *, whole: bool = True
) -> Verdict:
    """Judge everything that one application got of several sessions, and the books themselves."""
    total = Verdict()
    known = set()
    for book in books:
        known.add(book.session)
        mine = [line for line in lines if line.session == book.session]
        verdict = judge(mine, book, whole=whole and book.counts is not None)
        verdict.faults += audit(book) + after_hole_is_next(mine)
        total.add(verdict)
    strangers = {line.session for line in lines} - known
    total.faults += [f"{session}: nobody owns it" for session in sorted(strangers)]
    return total


def alone(lines: Sequence[Seen | Hole], counts: Counts) -> Verdict:
    """Judge a session without its owner's book: rising, no hole, and the sums of its end.

    For real media, where the owner is the product itself and its word is ``session.ended``.
    """
    events = [line for line in lines if isinstance(line, Seen)]
    book = Book(events[0].session if events else "?", 0)
    top = max((event.seq for event in events), default=-1)
    first = {event.seq: event for event in reversed(events)}
    book.events = [first.get(seq, Seen(book.session, seq, "unseen")) for seq in range(top + 1)]
    verdict = judge(lines, book)
    kinds = Counter(event.kind for event in first.values())
    if not any(isinstance(line, Hole) for line in lines):
        verdict.faults += _sums(book.session, None, counts, kinds)
    verdict.faults += after_hole_is_next(lines)
    return verdict


# files: one JSON array per line, so that a killed writer leaves whole lines


def line_of(item: Seen | Hole) -> str:
    if isinstance(item, Hole):
        return json.dumps(["gap", item.session, item.first, item.last])
    return json.dumps(["event", item.session, item.seq, item.kind, item.index])


def read_lines(path: Path) -> list[Seen | Hole]:
    """Return what an application wrote; other lines of the file are left out."""
    items: list[Seen | Hole] = []
    for row in rows(path):
        if row[0] == "event":
            items.append(Seen(*row[1:]))
        elif row[0] == "gap":
            items.append(Hole(*row[1:]))
    return items


def read_books(*paths: Path) -> list[Book]:
    """Return the books that owners wrote, sessions in the order of their begin."""
    books: dict[str, Book] = {}
    for path in paths:
        for row in rows(path):
            if row[0] == "begin":
                books[row[1]] = Book(row[1], row[2])
            elif row[0] == "event":
                books[row[1]].events.append(Seen(*row[1:]))
            elif row[0] == "end":
                books[row[1]].cut = row[2]
                books[row[1]].counts = Counts(row[3], row[4])
    return list(books.values())


def rows(path: Path) -> list[list[object]]:
    """Return the whole lines of a file that may still be written."""
    if not path.exists():
        return []
    text = path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
