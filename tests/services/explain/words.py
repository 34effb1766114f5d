"""What an explain model might have written, as a session gets it."""

from pipeline.events import Generation, Model
from pipeline.stream import Words

GENERATION = Generation(
    label="angry",
    raw="anger",
    labels={"angry": 0.6, "sad": 0.4},
    margin=0.2,
    entropy=0.67,
    prefix="",
    agrees=True,
    truncated=False,
    withheld=1,
    audio="heard",
)
WORDS = Words(
    about_seq=1,
    alert_id=None,
    text="The voice is loud.",
    cues=(),
    model=Model("tiny", "sha256:0"),
    took_ms=40,
    generation=GENERATION,
)
