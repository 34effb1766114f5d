"""Generated sentences held against what was measured, before anybody reads them.

A sentence that says the opposite of a measured cue is left out, and so is one about clothes or the
place unless that is switched on: such words are about a person, not about an expression. What is
left stays generated text and no evidence. What was left out is counted, not hidden.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.events import Cue

LONGEST: Final = 600
"""Characters of an explanation; models that repeat themselves are cut at a sentence."""
_SENTENCES = re.compile(r"(?<=[.!?\u3002])\s*")
_SURROUNDINGS = re.compile(
    r"\b(wear(s|ing)?|wore|dress(ed|es)?|shirt|t-shirt|jacket|suit|coat|hat|cap|tie|scarf|sweater|"
    r"hoodie|uniform|jewel(le)?ry|earrings?|necklace|glasses|tattoos?|cloth(es|ing)|outfit|hair|"
    r"beard(ed)?|background|room|office|wall|window|furniture|mural|street|outdoors?|indoors?|"
    r"kitchen|car|desk|sofa|curtains?)\b",
    re.IGNORECASE,
)
_PERSON = re.compile(
    r"\b(black|white|asian|african|european|hispanic|caucasian|old(er)?|young(er)?|elderly|"
    r"middle-aged|pregnant|disabled|overweight|muslim|christian|jewish)\s+"
    r"(man|woman|person|people|lady|gentleman|girl|boy|male|female)\b",
    re.IGNORECASE,
)
_BROWS = r"(his |her |their |the )?(eye)?brows?"
_CLAIMS: Final[dict[tuple[str, int], tuple[str, ...]]] = {
    ("loudness", 1): (
        "loud(er|ly)?",
        "shout(s|ing|ed)?",
        "yell(s|ing|ed)?",
        "rais(es|ed|ing) (his|her|their|the) voice",
        "raised voice",
        "high volume",
    ),
    ("loudness", -1): (
        "quiet(er|ly)?",
        "whisper(s|ing|ed)?",
        "soft(ly)?[- ]spoken",
        "low volume",
        "murmur(s|ing|ed)?",
    ),
    ("pitch", 1): ("high(er)?[- ]pitch(ed)?", "shrill", "pitch (rises|is high)"),
    ("pitch", -1): ("low(er)?[- ]pitch(ed)?", "deep voice", "pitch (falls|is low)"),
    ("speech_rate", 1): (
        "(speak|talk)(s|ing)? (fast(er)?|quick(ly|er)?|rapid(ly)?)",
        "rapid speech",
        "fast[- ]paced speech",
    ),
    ("speech_rate", -1): ("(speak|talk)(s|ing)? slow(ly|er)?", "slow speech"),
    ("brow_gap", -1): (f"(furrow|knitt?|lower)(s|ed|ing)? {_BROWS}", "frown(s|ed|ing)?"),
    ("brow_gap", 1): (f"rais(es|ed|ing) {_BROWS}",),
    ("mouth_open", 1): ("mouth (is )?(wide )?open(ed)?", "open mouth"),
}
"""Measured cue and direction, and the words that claim it."""
_PATTERNS = [
    (name, sign, re.compile(rf"\b({'|'.join(words)})\b", re.IGNORECASE))
    for (name, sign), words in _CLAIMS.items()
]


@dataclass(frozen=True, slots=True)
class Checked:
    """What is left of a generated text."""

    text: str
    cues: tuple[Cue, ...]
    """Measured cues that bear out something it says."""
    withheld: int
    """Sentences left out."""


def checked(text: str, measured: Iterable[Cue], *, surroundings: bool = False) -> Checked:
    """Return ``text`` without sentences that contradict ``measured`` or speak of other things."""
    cues = {cue.name: cue for cue in measured}
    kept: list[str] = []
    borne_out: dict[str, Cue] = {}
    withheld = 0
    for sentence in filter(None, (each.strip() for each in _SENTENCES.split(text))):
        proofs = _held(sentence, cues)
        elsewhere = not surroundings and _SURROUNDINGS.search(sentence)
        private = elsewhere or _PERSON.search(sentence)
        too_much = sentence in kept or sum(map(len, kept)) + len(sentence) > LONGEST
        if proofs is None or private or too_much:
            withheld += 1
            continue
        kept.append(sentence)
        borne_out.update({cue.name: cue for cue in proofs})
    return Checked(" ".join(kept), tuple(borne_out.values()), withheld)


def _held(sentence: str, cues: dict[str, Cue]) -> Sequence[Cue] | None:
    """Return the cues that bear a sentence out; None when one says the opposite."""
    proofs = []
    for name, sign, pattern in _PATTERNS:
        cue = cues.get(name)
        if cue is None or cue.baseline is None or not pattern.search(sentence):
            continue
        moved = cue.value - cue.baseline
        if moved * sign < 0:
            return None
        if moved * sign > 0:
            proofs.append(cue)
    return proofs
