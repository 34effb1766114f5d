"""A call of four portraits and actors' speech, then darkness, through the same path as `run`."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline import models
from pipeline.events import AnyEvent, WindowScored, WindowSkipped, decode
from pipeline.policy import Policy
from services.cli import running
from services.cli.exits import Exit
from tests.tools import make_call
from tests.tools.make_call import DURATION_S, PART_S, PARTS

DATA = Path(__file__).parents[3] / "shared" / "data"
EDGE_MS = 500
"""A window that reaches into the next part by more than this belongs to neither."""

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not make_call.available(DATA), reason="../shared/data has no faces and no RAVDESS clips"
    ),
    pytest.mark.skipif(
        not (Path(models.__file__).parent / "voice-emotion.onnx").exists(),
        reason="the built-in voice model is not there: python -m exporters voice",
    ),
]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("call") / "call.mp4"
    make_call.write(DATA, path)
    return path


async def scored(call: Path, out: Path) -> list[AnyEvent]:
    order = running.Order(
        source=str(call),
        out=out,
        role="customer",
        model=(),
        device="cpu",
        policy=Policy(["customer"]),
        shown="lines",
    )
    assert await running.score(order) is Exit.DONE
    lines = (out / "call.demeanor.jsonl").read_bytes().splitlines()
    return [decode(line) for line in lines]


def within(events: list[AnyEvent], part: int) -> list[WindowScored | WindowSkipped]:
    start, end = part * PART_S * 1000, (part + 1) * PART_S * 1000
    if part == len(PARTS):
        end = DURATION_S * 1000
    return [
        event
        for event in events
        if isinstance(event, WindowScored | WindowSkipped)
        and event.window.start_ms >= start - EDGE_MS
        and event.window.end_ms <= end + EDGE_MS
    ]


async def test_the_label_most_often_on_top_is_right_in_each_part(
    call: Path, tmp_path: Path
) -> None:
    events = await scored(call, tmp_path)
    found = {}
    for number, part in enumerate(PARTS):
        windows = within(events, number)
        assert len(windows) >= 12
        tops = Counter(event.top for event in windows if isinstance(event, WindowScored))
        found[part.label] = tops.most_common(1)[0][0]
    assert found == {part.label: part.label for part in PARTS}


async def test_the_dark_part_gives_no_evidence(call: Path, tmp_path: Path) -> None:
    dark = [
        event
        for event in within(await scored(call, tmp_path), len(PARTS))
        if event.window.start_ms >= len(PARTS) * PART_S * 1000
    ]
    assert len(dark) >= 8
    assert {type(event) for event in dark} == {WindowSkipped}
    assert {event.reason for event in dark} == {"no_evidence"}
