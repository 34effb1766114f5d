"""What ``watch`` shows: lines, JSON, and a wall in terminals of several widths."""

import asyncio
import io
import json
from contextlib import suppress

import pytest
from msgspec import structs
from rich.console import Console
from typer.testing import CliRunner

from pipeline import events
from pipeline.events import decode
from services.bus.memory import MemoryBus
from services.cli import watch as verb
from services.cli.app import app
from services.cli.exits import Exit
from services.cli.wall import JsonLines, LiveWall, PlainLines, describe
from services.client import Link, Reader
from tests.services.events import KEY, ended, envelope, scored, started
from tests.services.explain.words import GENERATION
from tests.services.gateway.conftest import opened

SILENT = events.Evidence(used=False, quality=0.9, reason="no_speech")
USED = events.Evidence(used=True, quality=0.9, reason=None)


def skipped(seq: int) -> events.WindowSkipped:
    unread = events.Evidence(used=False, quality=None, reason="no_asr")
    return events.WindowSkipped(
        **envelope(seq),
        window=events.Span(seq, seq * 500, seq * 500 + 2000),
        reason="no_evidence",
        state="no_evidence",
        age_ms=5,
        evidence=events.EvidenceSet(SILENT, SILENT, unread),
    )


def raised(seq: int) -> events.AlertRaised:
    alert = events.Alert("alr_1", "frustration_high", "high", 0.7, 0.6, 0.8, 0.7, 8000, 0)
    return events.AlertRaised(
        **envelope(seq),
        alert=alert,
        reason=events.Reason("voice", "Louder than the first minute."),
        windows=[0, 15],
    )


def generated(seq: int, text: str) -> events.Explanation:
    return events.Explanation(
        **envelope(seq),
        about_seq=4,
        alert_id="alr_1",
        text=text,
        source="model",
        generated=True,
        cues=[],
        model=events.Model("R1-Omni-0.5B", "sha256:12ab"),
        took_ms=900,
        generation=GENERATION,
    )


def error(fatal: bool) -> events.Error:
    return events.Error(
        **(envelope(0) | {"session_id": None, "seq": None}),
        code="rate_limited",
        message="too many messages",
        fatal=fatal,
        retry_after_ms=None,
        ref=None,
        doc="/docs/errors#rate_limited",
    )


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (started(), "role self, scored"),
        (scored(3), "angry 0.80"),
        (skipped(3), "no_evidence (voice: no speech, face: no speech)"),
        (raised(4), "■ alert raised   Louder than the first minute."),
        (generated(5, "The voice\n is loud."), "✎ generated (angry): The voice is loud."),
        (generated(5, ""), "✎ generated (angry): nothing that may be shown"),
        (ended(5), "windows scored"),
        (error(fatal=False), "too many messages"),
    ],
)
def test_an_event_is_a_line(event: events.AnyEvent, words: str) -> None:
    assert words in (describe(event) or "")


def test_what_ends_the_connection_is_said_once_at_the_end() -> None:
    assert describe(error(fatal=True)) is None


def test_plain_lines_name_the_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainLines() as view:
        for item in (Link("live"), started(), scored(1), Link("lost", "gone", 1.5), ended(2)):
            view.show(item)
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["me", "me", "me"]
    assert err.splitlines() == ["connected", "disconnected (gone); next try in 1.5 s"]


def test_json_lines_are_the_events(capsys: pytest.CaptureFixture[str]) -> None:
    told = [started(), scored(1), skipped(2), ended(3)]
    with JsonLines() as view:
        view.show(Link("live"))
        for event in told:
            view.show(event)
    assert [decode(line) for line in capsys.readouterr().out.splitlines()] == told


def drawn(width: int, *items: events.AnyEvent | Link, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, no_color=not color)
    wall = LiveWall(console)
    for item in items:
        wall.show(item)
    console.print(wall.render())
    return out.getvalue()


def test_generated_words_stand_beside_the_reason_and_are_marked() -> None:
    shown = drawn(140, started(), scored(1), raised(2), generated(3, "The voice is loud."))
    assert "Louder than the first minute." in shown
    assert "generated (angry): The voice is loud." in shown
    assert shown.index("Louder") < shown.index("generated (angry)")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_wall_cuts_no_word_at_any_width(width: int) -> None:
    text = drawn(width, Link("live"), started(), scored(1), raised(2))
    assert max(map(len, text.splitlines())) <= width
    assert "1 live" in text
    assert "● CALM" in text
    assert "40 ±10" in text
    assert "…" not in text
    assert ("angry" in text) is (width >= 50)
    assert ("Louder" in text) is (width >= 80)


def test_the_wall_has_no_escape_codes_without_colour() -> None:
    assert "\x1b" not in drawn(80, started(), scored(1))
    assert "\x1b" in drawn(80, started(), scored(1), color=True)


def test_the_wall_never_shows_a_number_without_evidence() -> None:
    text = drawn(100, Link("live"), started(), scored(1), skipped(2))
    assert "◌ NO EVID" in text
    assert "1 no evidence" in text
    assert "±" not in text


def test_a_busy_server_says_so_and_keeps_the_last_number() -> None:
    left_out = structs.replace(skipped(2), reason="overload", state="calm")
    for last in (left_out, structs.replace(scored(3), degraded=["hop_doubled"])):
        text = drawn(140, Link("live"), started(), scored(1), left_out, last)
        assert "the server is busy" in text
        assert "±" in text
        assert "NO EVID" not in text


def test_names_are_never_taken_for_markup() -> None:
    assert "[bold]x[/bold]" in drawn(120, started(stream="[bold]x[/bold]"))


def test_the_wall_says_when_the_server_is_gone() -> None:
    text = drawn(100, Link("live"), started(), Link("lost", "nothing answers", 2.0))
    assert "⨯ disconnected (nothing answers)" in text


def test_the_wall_forgets_the_oldest_that_ended() -> None:
    told = []
    for number in range(30):
        told += [started(0, f"ses_{number}", f"call-{number}"), ended(1, f"ses_{number}")]
    text = drawn(100, *told, started(0, "ses_live", "now"))
    assert text.count("ENDED") == 20
    assert "call-0 " not in text
    assert "now" in text


@pytest.mark.parametrize(("form", "first"), [({"json": True}, "{"), ({"plain": True}, "me")])
async def test_a_real_server_is_followed(
    capsys: pytest.CaptureFixture[str], form: dict[str, bool], first: str
) -> None:
    async with opened(MemoryBus()) as bench:
        await bench.announce()
        following = asyncio.create_task(
            verb._follow(Reader(bench.url, "dev"), **({"json": False, "plain": False} | form))
        )
        out = err = ""
        async with asyncio.timeout(20):
            while "live" not in err and "connected" not in err:
                await asyncio.sleep(0)
                err += capsys.readouterr().err
            await bench.publish(started(0), scored(1), ended(2), key=KEY)
            while out.count("\n") < 3:
                await asyncio.sleep(0)
                out += capsys.readouterr().out
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
    assert all(line.startswith(first) for line in out.splitlines())
    if form.get("json"):
        kinds = [json.loads(line)["type"] for line in out.splitlines()]
        assert kinds == ["session.started", "window.scored", "session.ended"]


@pytest.mark.parametrize("url", ["ftp://x", "ws://x:99999", "ws://[::1", ""])
def test_a_wrong_address_is_wrong_use(url: str) -> None:
    result = CliRunner().invoke(app, ["watch", url])
    assert result.exit_code == Exit.USAGE
    assert "is no event address: write ws://HOST:PORT" in result.stderr
