"""One tiny exported model for all tests of the tier, and what to ask it."""

import numpy as np
import pytest

from services.explain.tier import Question
from services.explain.wire import Picture
from tests.pipeline.explain.conftest import write_model
from tests.services import leftovers

NOISE = np.random.default_rng(7)


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
async def nothing_is_left():
    async for _ in leftovers.watched():
        yield


def question(session="ses_1", trigger="alert", at_s=0.0, pictures=3, alert="alr_1"):
    rgb = [NOISE.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(pictures)]
    return Question(
        session_id=session,
        trigger=trigger,
        about_seq=3,
        alert_id=alert if trigger == "alert" else None,
        pictures=[Picture(f"{session}:{n}", 32, 24, each.tobytes()) for n, each in enumerate(rgb)],
        sound=NOISE.integers(-900, 900, 16_000).astype(np.int16).tobytes(),
        asked_s=at_s,
    )
