"""Generated sentences against measured cues: contradictions and private matters stay out."""

import pytest

from pipeline.events import Cue
from pipeline.explain.check import LONGEST, checked

LOUD = Cue("loudness", "audio", -18.0, -26.0, "dBFS")
LOW_BROWS = Cue("brow_gap", "video", 0.2, 0.3, "eye distances")


def test_what_is_borne_out_names_its_cue():
    found = checked("He raises his voice. His brows are low; he frowns.", [LOUD, LOW_BROWS])
    assert found.text == "He raises his voice. His brows are low; he frowns."
    assert found.cues == (LOUD, LOW_BROWS)
    assert found.withheld == 0


@pytest.mark.parametrize(
    "sentence",
    ["She whispers.", "The speaker is very quiet.", "Her raised eyebrows show surprise.",
     "She murmured something."],
)  # fmt: skip
def test_what_contradicts_a_measure_is_left_out(sentence):
    found = checked(f"{sentence} Something is said.", [LOUD, LOW_BROWS])
    assert found.text == "Something is said."
    assert found.withheld == 1


def test_what_was_not_measured_is_neither_proof_nor_contradiction():
    found = checked("She speaks slowly and whispers.", [])
    assert (found.text, found.cues, found.withheld) == ("She speaks slowly and whispers.", (), 0)
    no_norm = Cue("loudness", "audio", -18.0, None, "dBFS")
    assert checked("She whispers.", [no_norm]).text == "She whispers."


@pytest.mark.parametrize(
    "sentence",
    ["A man in a brown jacket stands in front of a mural.", "She is wearing glasses.",
     "The room behind is dark.", "An elderly woman looks down.", "A young man speaks."],
)  # fmt: skip
def test_clothes_places_and_traits_stay_out(sentence):
    found = checked(f"{sentence} The voice trembles.", [])
    assert found.text == "The voice trembles."
    assert found.withheld == 1


def test_surroundings_come_when_switched_on_and_traits_never():
    text = "The room is dark. An elderly woman looks down."
    assert checked(text, [], surroundings=True).text == "The room is dark."


def test_repetition_and_length_are_bounded():
    found = checked("It goes on. " * 50, [])
    assert found.text == "It goes on."
    assert found.withheld == 49
    long = " ".join(f"Sentence number {n} says a little more." for n in range(100))
    found = checked(long, [])
    assert len(found.text) <= LONGEST + 40
    assert found.withheld > 50


def test_nothing_gives_nothing():
    assert checked("", []).text == ""
