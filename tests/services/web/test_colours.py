"""The palettes in style.css hold the distances and contrasts that they were chosen for."""

import re
from pathlib import Path

import numpy as np
import pytest

import services.web
from tests.services.web.colour import EYES, ciede2000, contrast, least_distance

STYLE = (Path(services.web.__file__).parent / "style.css").read_text()
STATES = ["calm", "watch", "high"]
EMOTIONS = ["angry", "happy", "sad", "fear", "disgust", "surprise", "contempt", "neutral"]
# Of a set: smallest distance for normal, protan, deutan, tritan eyes; smallest contrast on page and
# card. The distances are rounded, hence ROUNDED.
ROUNDED = 0.6
CHOSEN = [
    ("dark", STATES, (42, 30, 21, 31), 4.5),
    ("light", STATES, (32, 21, 16, 20), 4.5),
    ("dark", EMOTIONS, (18, 18, 14, 17), 3.0),
    ("light", EMOTIONS, (21, 14, 14, 15), 3.0),
    ("dark", ["valence", "arousal"], (57, 53, 56, 39), 4.5),
    ("light", ["valence", "arousal"], (46, 47, 49, 52), 4.5),
]


def palette(theme: str) -> dict[str, str]:
    """Return the colours that a theme declares."""
    blocks = re.findall(r":root\s*{([^}]*)}", STYLE)
    block = blocks[["dark", "light"].index(theme)]
    return dict(re.findall(r"--([a-z]+):\s*(#[0-9a-f]{6})", block))


def test_the_distance_agrees_with_published_pairs() -> None:
    # Sharma, Wu and Dalal 2005, table 1, pairs 1, 7, 13, 17 and 25.
    pairs = [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
        ((50.0, -0.0010, 2.4900), (50.0, 0.0009, -2.4900), 4.8045),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ]
    for one, other, distance in pairs:
        assert ciede2000(np.array(one), np.array(other)) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize(("theme", "names", "distances", "least"), CHOSEN)
def test_colours_can_be_told_apart_by_all_eyes_and_from_their_ground(
    theme: str, names: list[str], distances: tuple[int, ...], least: float
) -> None:
    known = palette(theme)
    colours = [known[name] for name in names]
    for eyes, distance in zip(EYES, distances, strict=True):
        assert least_distance(colours, eyes) >= distance - ROUNDED, eyes
    for ground in ("page", "card"):
        assert min(contrast(colour, known[ground]) for colour in colours) >= least


@pytest.mark.parametrize(("theme", "text", "muted"), [("dark", 13.8, 8.2), ("light", 16.6, 7.1)])
def test_text_stands_out(theme: str, text: float, muted: float) -> None:
    known = palette(theme)
    for ground in ("page", "card"):
        assert contrast(known["text"], known[ground]) >= text - 0.05
        assert contrast(known["muted"], known[ground]) >= muted - 0.05


def test_every_emotion_and_state_has_its_colour() -> None:
    for name in EMOTIONS:
        assert f".emotion-{name} {{ background: var(--{name}); }}" in STYLE
    for name in STATES:
        assert f".fill-{name} {{ background: var(--{name}); }}" in STYLE
        assert f".state-{name} {{ color: var(--{name}); }}" in STYLE
