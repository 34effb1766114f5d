"""Corpus file names by table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import layouts
from pipeline.layouts import Take, label_of, parse
from pipeline.spec import LABELS

KNOWN = [
    ("ravdess/actor_12/03-01-02-01-02-01-12.ogg", Take("ravdess", "neutral", "12")),
    ("03-01-03-01-02-01-01.wav", Take("ravdess", "happy", "01")),
    ("03-01-06-02-02-01-07.wav", Take("ravdess", "fear", "07")),
    ("03-01-07-02-02-01-07.wav", Take("ravdess", "disgust", "07")),
    ("03-01-08-02-02-01-24.mp4", Take("ravdess", "surprise", "24")),
    ("nemo/SM0/SM0_sadness_24.ogg", Take("nemo", "sad", "SM0")),
    ("IC0_surprised_1.wav", Take("nemo", "surprise", "IC0")),
    ("1001_DFA_ANG_XX.wav", Take("crema-d", "angry", "1001")),
    ("AudioWAV/1091_WSI_HAP_HI.wav", Take("crema-d", "happy", "1091")),
    ("wav/03a01Fa.wav", Take("emo-db", "happy", "03")),
    ("16b10Wb.wav", Take("emo-db", "angry", "16")),
    ("OAF_angry/OAF_back_angry.wav", Take("tess", "angry", "OAF")),
    ("OA_bite_neutral.wav", Take("tess", "neutral", "OAF")),
    ("YAF_young_ps.wav", Take("tess", "surprise", "YAF")),
    ("DC_sa07.wav", Take("savee", "sad", "DC")),
    ("AudioData/KL/su15.wav", Take("savee", "surprise", "KL")),
]
UNKNOWN = [
    "03a01La.wav",  # EMO-DB: boredom has no label
    "03-01-09-01-02-01-12.ogg",
    "03-01-06-01-02-01.ogg",
    "SM0_boredom_1.ogg",
    "1001_DFA_XXX_XX.wav",
    "README.md",
    "",
]


@pytest.mark.parametrize(("path", "take"), KNOWN)
def test_known_names(path: str, take: Take) -> None:
    assert parse(path) == take


@pytest.mark.parametrize("path", UNKNOWN)
def test_unknown_names(path: str) -> None:
    assert parse(path) is None


@pytest.mark.parametrize("path", [path for path, _ in KNOWN])
def test_one_layout_alone_knows_each_name(path: str) -> None:
    assert sum(read(path) is not None for read in layouts.LAYOUTS.values()) == 1


@given(st.text(max_size=40))
def test_any_text_is_refused_or_labelled(path: str) -> None:
    take = parse(path)
    assert take is None or (take.label in LABELS and take.speaker)


@pytest.mark.parametrize(
    ("word", "label"),
    [(" Anger", "angry"), ("fearful", "fear"), ("calm", "neutral"), ("boredom", None)],
)
def test_words(word: str, label: str | None) -> None:
    assert label_of(word) == label


def test_every_synonym_is_a_wire_label() -> None:
    assert set(layouts.SYNONYMS.values()) == set(LABELS)
