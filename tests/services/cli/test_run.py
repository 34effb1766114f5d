import asyncio
import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from pipeline.events import (
    AnyEvent,
    SessionEnded,
    SessionStarted,
    WindowScored,
    WindowSkipped,
    decode,
)
from pipeline.policy import Policy
from services.cli import run, running
from services.cli.exits import Exit
from services.cli.screens import Closing, Lines, Panel, Progress, Steps
from tests.pipeline import tiny_models
from tests.tools.clips import cut_short, make_clip

app = typer.Typer()
app.command()(run.run)


@app.command()
def other() -> None: ...


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    paths = tiny_models.write(tmp_path_factory.mktemp("models"))
    return [argument for path in paths for argument in ("--model", str(path))]


@pytest.fixture
def invoke(models: list[str], tmp_path: Path):
    def call(*arguments: str) -> Result:
        out = () if "--out" in arguments else ("--out", str(tmp_path / "out"))
        return CliRunner().invoke(app, ["run", *arguments, *out, *models])

    return call


def events_of(path: Path) -> list[AnyEvent]:
    return [decode(line) for line in path.read_bytes().splitlines()]


def talk(path: Path, **options) -> Path:
    return make_clip(path, **({"seconds": 8, "audio": "flac"} | options))


def test_a_file_becomes_one_event_a_line(tmp_path: Path, invoke) -> None:
    result = invoke("--source", str(talk(tmp_path / "my talk.mkv")), "--plain")
    assert result.exit_code == 0, result.output
    events = events_of(tmp_path / "out" / "my talk.demeanor.jsonl")
    assert [event.seq for event in events] == list(range(len(events)))
    first, last = events[0], events[-1]
    assert isinstance(first, SessionStarted)
    assert (first.stream, first.source.kind) == ("my-talk", "file")
    assert first.participants[0].role == "self"
    assert first.participants[0].tracks == ["audio", "video"]
    assert isinstance(last, SessionEnded)
    assert last.reason == "publisher_left"
    assert last.duration_ms == 8000
    windows = [event for event in events if isinstance(event, WindowScored | WindowSkipped)]
    assert [event.window.index for event in windows] == list(range(13))
    assert last.counts.scored + sum(last.counts.skipped.values()) == 13
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["my talk.demeanor.jsonl"]


def test_plain_output_says_how_far_and_what_came_of_it(tmp_path: Path, invoke) -> None:
    result = invoke("--source", str(talk(tmp_path / "talk.mkv")), "--plain")
    lines = result.stdout.splitlines()
    assert lines[0] == "talk.mkv"
    steps = [line for line in lines if "real time" in line and " / 00:08" in line]
    assert 5 <= len(steps) <= 20
    text = "\n".join(lines)
    for words in ("windows  scored", "on top", "coverage voice", "alerts", "talk.demeanor.jsonl"):
        assert words in text


def test_json_output_is_one_object_a_line(tmp_path: Path, invoke) -> None:
    result = invoke("--source", str(talk(tmp_path / "talk.mkv")), "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [records[0]["type"], records[-1]["type"]] == ["begin", "summary"]
    shares = [record["share"] for record in records if record["type"] == "progress"]
    assert shares == sorted(shares)
    assert records[-1]["scored"] + sum(records[-1]["skipped"].values()) == 13
    assert records[-1]["coverage"]["audio"] is not None


def test_the_same_file_gives_the_same_events(tmp_path: Path, invoke) -> None:
    clip = str(talk(tmp_path / "talk.mkv"))
    found = []
    for name in ("one", "two"):
        invoke("--source", clip, "--out", str(tmp_path / name))
        events = events_of(tmp_path / name / "talk.demeanor.jsonl")
        found.append([(e.window, e.emotions) for e in events if isinstance(e, WindowScored)])
    assert found[0]
    assert found[0] == found[1]


def test_a_short_file_gives_one_window(tmp_path: Path, invoke) -> None:
    result = invoke("--source", str(talk(tmp_path / "short.mkv", seconds=1.5)))
    assert result.exit_code == 0
    events = events_of(tmp_path / "out" / "short.demeanor.jsonl")
    assert [type(event) for event in events] == [SessionStarted, WindowScored, SessionEnded]


def test_a_file_without_speech_or_face_is_no_evidence(tmp_path: Path, invoke) -> None:
    clip = make_clip(tmp_path / "dark.mkv", seconds=1.5, audio=None)
    result = invoke("--source", str(clip))
    assert result.exit_code == Exit.NO_EVIDENCE
    assert "no evidence" in result.stdout
    events = events_of(tmp_path / "out" / "dark.demeanor.jsonl")
    assert {e.reason for e in events if isinstance(e, WindowSkipped)} == {"no_evidence"}


def test_a_truncated_file_is_scored_as_far_as_it_goes(tmp_path: Path, invoke) -> None:
    whole = talk(tmp_path / "whole.mp4", audio="aac", container_options={"movflags": "faststart"})
    result = invoke("--source", str(cut_short(whole, tmp_path / "part.mp4", 0.6)))
    assert result.exit_code == 0
    assert "what could be read was used" in result.stderr
    ended = events_of(tmp_path / "out" / "part.demeanor.jsonl")[-1]
    assert isinstance(ended, SessionEnded)
    assert ended.reason == "bad_media"
    assert ended.counts.scored > 0


def letter(path: Path) -> Path:
    path.write_text("this is a letter, not a film\n" * 40)
    return path


@pytest.mark.parametrize(
    ("make", "arguments", "code", "words"),
    [
        (None, ["--source", "nowhere.mp4"], Exit.USAGE, "does not exist"),
        (None, ["--source", "ftp://host/x"], Exit.USAGE, "sources are files"),
        (letter, ["--source", "{}"], Exit.FAILED, "not media"),
        (talk, ["--source", "{}", "--role", "agent"], Exit.USAGE, "does not score the role"),
        (talk, ["--source", "{}", "--role", "king"], Exit.USAGE, "unknown role"),
        (talk, ["--source", "{}", "--out", "/proc/none"], Exit.USAGE, "cannot be made"),
        (talk, ["--source", "{}", "--model", "none.onnx"], Exit.MODEL_REFUSED, "none.onnx"),
        (talk, ["--source", "{}", "--device", "abacus"], Exit.USAGE, "device"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_a_code(
    tmp_path: Path, invoke, make, arguments: list[str], code: Exit, words: str
) -> None:
    clip = str(make(tmp_path / "talk.mkv")) if make else ""
    result = invoke(*(argument.format(clip) for argument in arguments))
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("out/*"))


def test_a_refused_role_is_never_decoded(
    tmp_path: Path, invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("the source was opened")

    monkeypatch.setattr(running, "Source", opened)
    result = invoke("--source", str(talk(tmp_path / "talk.mkv")), "--role", "employee")
    assert result.exit_code == Exit.USAGE
    assert isinstance(result.exception, SystemExit)


def test_a_folder_is_scored_file_by_file(tmp_path: Path, invoke) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    talk(folder / "a.mkv", seconds=3)
    letter(folder / "b.mp4")
    talk(folder / "c.mkv", seconds=3)
    result = invoke("--source", str(folder), "--plain")
    assert result.exit_code == Exit.FAILED
    assert "b.mp4 is not media" in result.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.demeanor.jsonl", "c.demeanor.jsonl"]
    ids = {events_of(tmp_path / "out" / name)[0].session_id for name in names}
    assert len(ids) == 2


def test_ctrl_c_keeps_what_there_is(
    tmp_path: Path, invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted: list[Progress] = []

    class Interrupted(Lines):
        def progress(self, progress: Progress) -> None:
            super().progress(progress)
            if progress.position_ticks > 4 * 16_000 and not interrupted:
                interrupted.append(progress)
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setitem(running._SCREENS, "lines", Interrupted)
    result = invoke("--source", str(talk(tmp_path / "talk.mkv", seconds=20)), "--plain")
    assert result.exit_code == 0, result.output
    assert "talk.mkv: stopped" in result.stdout
    events = events_of(tmp_path / "out" / "talk.demeanor.jsonl")
    ended = events[-1]
    assert isinstance(ended, SessionEnded)
    assert ended.reason == "drained"
    assert 4000 < ended.duration_ms < 20_000
    assert [event.seq for event in events] == list(range(len(events)))


def test_a_full_disk_is_named(tmp_path: Path, invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(running.JsonlSink):
        def put(self, events) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(running, "JsonlSink", Full)
    result = invoke("--source", str(talk(tmp_path / "talk.mkv")))
    assert result.exit_code == Exit.USAGE
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([Exit.DONE, Exit.FAILED, Exit.NO_EVIDENCE], Exit.FAILED),
        ([Exit.DONE, Exit.NO_EVIDENCE], Exit.DONE),
        ([Exit.NO_EVIDENCE, Exit.NO_EVIDENCE], Exit.NO_EVIDENCE),
        ([], Exit.DONE),
    ],
)
def test_the_worst_source_decides(codes: list[Exit], code: Exit) -> None:
    assert running.worst(codes) is code


def recorded(tmp_path: Path, invoke) -> Iterator[AnyEvent]:
    invoke("--source", str(talk(tmp_path / "talk.mkv")))
    yield from events_of(tmp_path / "out" / "talk.demeanor.jsonl")


def test_the_panel_shows_what_was_scored(tmp_path: Path, invoke) -> None:
    console = Console(width=140, record=True, force_terminal=True, file=io.StringIO())
    with Panel(console) as panel:
        panel.begin("talk.mkv")
        for event in recorded(tmp_path, invoke):
            panel.event(event)
            if isinstance(event, WindowScored):
                break
        panel.progress(Progress(64_000, 128_000, 6.13, 31.0, 52.4))
        console.print(panel.render())
        panel.close(Closing("talk.mkv", tmp_path / "x", None, 6.1))
    text = console.export_text()
    for words in (
        "00:04 / 00:08",
        "6.1x real time",
        "p50 31 ms",
        "valence",
        "frustration",
        "voice",
    ):
        assert words in text
    assert "±" in text


def test_steps_are_due_once_each() -> None:
    steps = Steps()
    due = [steps.due(Progress(tick, 100, 1.0, None, None)) for tick in range(101)]
    assert sum(due) == 20
    live = Steps()
    seconds = np.arange(0, 60, 0.5)
    due = [live.due(Progress(int(s * 16_000), None, 1.0, None, None)) for s in seconds]
    assert sum(due) == 5


def test_the_loop_is_left_clean(tmp_path: Path, models: list[str]) -> None:
    order = running.Order(
        source=str(talk(tmp_path / "talk.mkv", seconds=3)),
        out=tmp_path / "out",
        role="customer",
        model=tuple(Path(path) for path in models[1::2]),
        device="cpu",
        policy=Policy(["customer"]),
        shown="lines",
    )

    async def scored() -> set[asyncio.Task[object]]:
        assert await running.score(order) is Exit.DONE
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(scored()) == set()
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"type":"unheard"}')
