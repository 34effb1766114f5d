"""Read label and speaker out of the file names of public emotion corpora.

Strings in, :class:`Take` out; no file is opened. ``exporters`` trains with it and ``evaluate``
tests with it, so both agree on what a clip is called.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "neutral": "neutral",
        "neutrality": "neutral",
        "calm": "neutral",
        "happy": "happy",
        "happiness": "happy",
        "joy": "happy",
        "joyful": "happy",
        "sad": "sad",
        "sadness": "sad",
        "angry": "angry",
        "anger": "angry",
        "fear": "fear",
        "fearful": "fear",
        "afraid": "fear",
        "disgust": "disgust",
        "disgusted": "disgust",
        "surprise": "surprise",
        "surprised": "surprise",
        "ps": "surprise",
    }
)
"""Words that corpora and people use, with the label on the wire. Calm counts as neutral."""


@dataclass(frozen=True, slots=True)
class Take:
    """What a file name says about its clip."""

    corpus: str
    label: str
    """One of :data:`pipeline.spec.LABELS`."""
    speaker: str
    """Unique within the corpus; splits go by it."""


def label_of(word: str) -> str | None:
    """Return the wire label that ``word`` means, or ``None`` when it is not known."""
    return SYNONYMS.get(word.strip().lower())


def ravdess(path: str) -> Take | None:
    """``03-01-06-01-02-01-12``: third field emotion, last actor (zenodo.org/record/1188976)."""
    found = re.fullmatch(r"\d\d-\d\d-(\d\d)-\d\d-\d\d-\d\d-(\d\d)", _stem(path))
    return found and _take("ravdess", _RAVDESS.get(found[1]), found[2])


def nemo(path: str) -> Take | None:
    """``SM0_anger_12``: speaker, emotion, sentence (nEMO, Polish)."""
    found = re.fullmatch(r"([A-Z]{2}\d)_([a-z]+)_\d+", _stem(path))
    return found and _take("nemo", label_of(found[2]), found[1])


def crema_d(path: str) -> Take | None:
    """``1001_DFA_ANG_XX``: actor, sentence, emotion, level (CREMA-D)."""
    found = re.fullmatch(r"(1\d{3})_[A-Z]{3}_([A-Z]{3})_[A-Z]{1,2}", _stem(path))
    return found and _take("crema-d", _CREMA_D.get(found[2]), found[1])


def emo_db(path: str) -> Take | None:
    """``03a01Fa``: speaker, text, emotion by its German initial; boredom has no label (EMO-DB)."""
    found = re.fullmatch(r"(\d\d)[ab]\d\d([A-Z])[a-z]?", _stem(path))
    return found and _take("emo-db", _EMO_DB.get(found[2]), found[1])


def tess(path: str) -> Take | None:
    """``OAF_back_angry``: speaker, word, emotion; ``ps`` is pleasant surprise (TESS)."""
    found = re.fullmatch(r"(OAF?|YAF)_\w+_([a-z]+)", _stem(path))
    return found and _take("tess", label_of(found[2]), found[1][0] + "AF")


def savee(path: str) -> Take | None:
    """``DC_a01`` or ``DC/a01``: speaker, emotion by its initials, sentence (SAVEE)."""
    found = re.fullmatch(r"(?:.*/)?(DC|JE|JK|KL)[_/]([a-z]{1,2})\d\d\.\w+", path)
    return found and _take("savee", _SAVEE.get(found[2]), found[1])


LAYOUTS: Mapping[str, Callable[[str], Take | None]] = MappingProxyType(
    {
        "ravdess": ravdess,
        "nemo": nemo,
        "crema-d": crema_d,
        "emo-db": emo_db,
        "tess": tess,
        "savee": savee,
    }
)


def parse(path: str) -> Take | None:
    """Return what the first layout that knows the name says; ``None`` when none does.

    ``path`` is relative and uses ``/``. The patterns exclude one another, so no layout need be
    named. A clip whose emotion has no wire label (boredom) gives ``None`` too.
    """
    return next((take for read in LAYOUTS.values() if (take := read(path))), None)


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _take(corpus: str, label: str | None, speaker: str) -> Take | None:
    return Take(corpus, label, speaker) if label else None


_RAVDESS = {
    "01": "neutral",
    "02": "neutral",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
_CREMA_D = {
    "NEU": "neutral",
    "HAP": "happy",
    "SAD": "sad",
    "ANG": "angry",
    "FEA": "fear",
    "DIS": "disgust",
}
_EMO_DB = {"N": "neutral", "F": "happy", "T": "sad", "W": "angry", "A": "fear", "E": "disgust"}
_SAVEE = {
    "n": "neutral",
    "h": "happy",
    "sa": "sad",
    "a": "angry",
    "f": "fear",
    "d": "disgust",
    "su": "surprise",
}
