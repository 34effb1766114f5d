"""Ask an exported explain model about every labelled film, and sum up what it said.

Every answer is one line of JSON in ``--out``, so that a long run can go on where it stopped; the
report is made of those lines alone.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np

from pipeline.errors import MediaError, UsageError
from pipeline.explain.labels import OTHER, SETS
from services.evaluate import moments
from services.evaluate.clips import Clip, Labelled
from services.explain.model import Explainer

NAMES_LISTED: Final = 20
Progress = Callable[[int], None]


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What made the answers: two runs of one file must agree in all of it. Its first line."""

    weights: str
    """Name and digest."""
    precision: str
    prefix: str
    """Written for the model before ``<answer>`` when labels are scored."""
    labels: str
    aspect: str
    layout: str
    words: bool
    thinking: int


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the model said of one film; one line."""

    file: str
    truth: str
    damaged: str | None = None
    """Why it could not be judged; then nothing below counts."""
    scored: str = ""
    probability: float = 0.0
    margin: float = 0.0
    written: str | None = None
    """A label, or ``other``; None when words were not asked for."""
    raw: str = ""
    truncated: bool = False
    audio: str = "missing"
    took_ms: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Truth against one kind of answer."""

    truths: tuple[str, ...]
    """The labels that occur, in the set's order; rows of :attr:`confusion`."""
    answers: tuple[str, ...]
    """Columns: the set, and ``other`` last."""
    confusion: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def war(self) -> float:
        """Weighted average recall: the share of all films named right."""
        return float(self._right().sum() / self.confusion.sum())

    @property
    def uar(self) -> float:
        """Unweighted average recall: the mean recall of the labels that occur."""
        return float((self._right() / self.confusion.sum(axis=1)).mean())

    def _right(self) -> "np.ndarray[Any, np.dtype[np.int64]]":
        columns = [self.answers.index(label) for label in self.truths]
        right: np.ndarray[Any, np.dtype[np.int64]] = self.confusion[
            np.arange(len(columns)), columns
        ]
        return right

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, rounded to four places."""
        return {
            "war": round(self.war, 4),
            "uar": round(self.uar, 4),
            "truths": list(self.truths),
            "answers": list(self.answers),
            "confusion": self.confusion.tolist(),
        }


@dataclass(slots=True)
class Summary:
    """What a run found."""

    run: Run
    found: Labelled
    answers: list[Answer] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the command; ``scored`` is missing when nothing was judged."""
        judged = [answer for answer in self.answers if answer.damaged is None]
        damaged = [answer.file for answer in self.answers if answer.damaged is not None]
        made: dict[str, Any] = {
            "run": msgspec.to_builtins(self.run),
            "n": len(judged),
            "left_out": dict(self.found.left_out),
            "unknown_labels": dict(self.found.unknown),
            "damaged": len(damaged),
            "damaged_files": damaged[:NAMES_LISTED],
        }
        if not judged:
            return made
        took_s = np.array([answer.took_ms for answer in judged]) / 1000
        labels = SETS[self.run.labels]
        made |= {
            "scored": _table(judged, [each.scored for each in judged], labels).as_dict(),
            "without_sound": sum(answer.audio == "missing" for answer in judged),
            "seconds_per_clip": {
                "median": round(float(np.median(took_s)), 3),
                "longest": round(float(took_s.max()), 3),
            },
        }
        written = [(each, each.written) for each in judged if each.written is not None]
        if written:
            words = [word for _, word in written]
            made["written"] = _table([each for each, _ in written], words, labels).as_dict() | {
                "other": round(words.count(OTHER) / len(words), 4),
                "agreement": round(
                    sum(each.scored == word for each, word in written) / len(words), 4
                ),
                "cut_off": sum(each.truncated for each, _ in written),
            }
        return made


def _table(judged: Sequence[Answer], said: Sequence[str], labels: Sequence[str]) -> Table:
    truths = tuple(label for label in labels if any(each.truth == label for each in judged))
    answers = (*labels, OTHER)
    counts = Counter((each.truth, word) for each, word in zip(judged, said, strict=True))
    confusion = np.array([[counts[truth, word] for word in answers] for truth in truths], np.int64)
    return Table(truths, answers, confusion)


def evaluate(
    explainer: Explainer,
    found: Labelled,
    *,
    layout: str,
    words: bool,
    out: Path | None,
    limit: int | None,
    progress: Progress,
) -> Summary:
    """Ask about every film that ``out`` does not know yet; ``progress`` gets the number done.

    Raises :class:`UsageError` when ``out`` is of another run.
    """
    options = explainer.options
    run = Run(
        weights=explainer.identity,
        precision=explainer.engine.manifest.precision,
        prefix=options.prefix,
        labels=options.labels,
        aspect=options.aspect,
        layout=layout,
        words=words,
        thinking=options.thinking,
    )
    summary = Summary(run, found)
    clips = found.clips[:limit]
    with Lines(out, run) as lines:
        for number, clip in enumerate(clips, 1):
            answer = lines.known.get(clip.name)
            if answer is None or answer.truth != clip.label:
                answer = _ask(explainer, clip, words=words)
                lines.add(answer)
            summary.answers.append(answer)
            progress(number)
    return summary


def _ask(explainer: Explainer, clip: Clip, *, words: bool) -> Answer:
    try:
        moment = moments.read(clip.path, explainer.engine.manifest.frames)
    except (MediaError, UsageError) as error:
        return Answer(file=clip.name, truth=clip.label, damaged=str(error))
    opinion = explainer.ask(moment, words=words)
    scores, explained = opinion.scores, opinion.explained
    return Answer(
        file=clip.name,
        truth=clip.label,
        scored=scores.top,
        probability=round(max(scores.probabilities), 4),
        margin=round(scores.margin, 4),
        written=explained.label if explained else None,
        raw=explained.raw if explained else "",
        truncated=explained.truncated if explained else False,
        audio=opinion.audio,
        took_ms=opinion.took_ms,
    )


class Lines:
    """The file of a run; an open context. Without a path it keeps nothing."""

    def __init__(self, path: Path | None, run: Run) -> None:
        self._path = path
        self._run = run
        self._file = -1
        self.known: dict[str, Answer] = {}
        """What an earlier run has answered, by film."""

    def __enter__(self) -> Self:
        if self._path is None:
            return self
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            with self._path.open("rb") as opened:
                data = opened.read()
        except OSError as error:
            raise UsageError(f"{self._path} cannot be written: {error.strerror}") from None
        whole = data[: data.rfind(b"\n") + 1]  # a line that was cut off is asked again
        first, *rest = whole.splitlines() or [data]
        begun = msgspec.json.encode(self._run).startswith(first) and not whole
        if not begun:
            self._read(first, rest)
        os.ftruncate(self._file, len(whole))
        os.lseek(self._file, 0, os.SEEK_END)
        if begun:
            self._write(self._run)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file >= 0:
            os.close(self._file)

    def add(self, answer: Answer) -> None:
        """Write one line and see that it is on the disk."""
        if self._file >= 0:
            self._write(answer)

    def _read(self, first: bytes, rest: list[bytes]) -> None:
        try:
            run = msgspec.json.decode(first, type=Run)
            answers = [msgspec.json.decode(line, type=Answer) for line in rest]
        except msgspec.MsgspecError as error:
            raise UsageError(
                f"{self._path} is not a file of such a run ({error}): choose another --out"
            ) from None
        if run != self._run:
            raise UsageError(
                f"{self._path} was made by other weights or options ({_differs(run, self._run)}): "
                "choose another --out"
            )
        self.known = {answer.file: answer for answer in answers}

    def _write(self, line: Run | Answer) -> None:
        os.write(self._file, msgspec.json.encode(line) + b"\n")
        os.fsync(self._file)


def _differs(one: Run, other: Run) -> str:
    pairs = ((name, getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)
    return ", ".join(f"{name}: {was!r}, now {now!r}" for name, was, now in pairs if was != now)
