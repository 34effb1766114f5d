import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.types import AudioChunk
from services.ingest.items import Ended, Reached
from services.ingest.merging import MAX_LEAD_TICKS, Merger, end_of, tick_of, track_of

lengths = st.lists(st.integers(1, 4000), min_size=1, max_size=40)


def sound(parts: list[int]) -> list[AudioChunk]:
    starts = np.cumsum([0, *parts])
    return [
        AudioChunk(int(start), np.zeros(part, np.int16))
        for start, part in zip(starts, parts, strict=False)
    ]


def marks(steps: list[int]) -> list[Reached]:
    return [Reached("video", int(tick)) for tick in np.cumsum(steps)]


@given(lengths, lengths, st.randoms(use_true_random=False))
def test_any_interleaving_leaves_in_order_of_time_and_complete(parts, steps, chance) -> None:
    tracks = [[*sound(parts), Ended("audio")], [*marks(steps), Ended("video")]]
    merger, out = Merger(("audio", "video")), []
    while any(tracks):
        out += merger.add(chance.choice([track for track in tracks if track]).pop(0))
    out += merger.rest()
    media = [item for item in out if not isinstance(item, Ended)]
    assert [tick_of(item) for item in media] == sorted(tick_of(item) for item in media)
    assert len(out) == len(parts) + len(steps) + 2
    for kind in ("audio", "video"):
        own = [item for item in out if track_of(item) == kind]
        assert isinstance(own[-1], Ended)
    assert merger.gave_way == 0


def test_a_track_that_stays_away_is_not_waited_for_without_end() -> None:
    merger = Merger(("audio", "video"))
    out = []
    for chunk in sound([16_000] * 40):
        out += merger.add(chunk)
    held = end_of(sound([16_000] * 40)[-1]) - end_of(out[-1])
    assert held <= MAX_LEAD_TICKS + 16_000
    assert merger.gave_way == len(out) - 1
    assert [tick_of(item) for item in out] == sorted(tick_of(item) for item in out)


def test_one_track_alone_passes_at_once() -> None:
    merger = Merger(("audio",))
    for chunk in sound([320] * 5):
        assert merger.add(chunk) == [chunk]
    assert merger.rest() == []
