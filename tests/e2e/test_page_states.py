"""What the page makes of events: every state, and nothing that was not measured."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.pages import WAIT_MS, accessible, headline, logged, opened, publishing, until
from tests.e2e.pages import log as feed
from tests.e2e.scripted import Script
from tests.e2e.story import FACELESS, HOP_MS, RAISED, Story

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]
AN_HOUR_MS = 3_600_000


@pytest.fixture
def page(browser: Browser, script: Script) -> Iterator[Page]:
    with opened(browser, script) as page:
        publishing(page, script)
        yield page


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_every_state_is_a_glyph_and_a_word_and_axe_finds_nothing(
    browser: Browser, script: Script, scheme: str
) -> None:
    story = Story()
    with opened(browser, script, color_scheme=scheme) as page:
        publishing(page, script)
        script.send(story.started())
        headline(page, "… Waiting")
        accessible(page)
        for event, text in (
            (story.scored(), "● Calm"),
            (story.scored(state="watch", frustration=0.5), "▲ Watch"),
            (story.scored(state="high", frustration=0.8), "■ High"),
            (story.skipped(), "◌ No evidence"),
        ):
            script.send(event)
            headline(page, text)
            accessible(page)

        page.get_by_role("button", name="Play the sample").click()
        publishing(page, script, "ses_2")
        hasty = Story("ses_2", hop_ms=10)
        script.send(hasty.started(), hasty.scored())
        headline(page, "◷ Stale")
        accessible(page)

        script.drop(pause_ms=AN_HOUR_MS)
        headline(page, "⨯ Disconnected")
        expect(page.locator(".pill")).to_contain_text("reconnecting in")
        accessible(page)


def test_a_held_alert_says_what_clears_it(page: Page, script: Script) -> None:
    story = Story()
    script.send(story.started(), story.scored(state="high", frustration=0.74), story.raised(0.74))
    expect(page.locator(".gauge")).to_contain_text("Turns high above 70 for 8 s")
    expect(page.get_by_role("log")).to_contain_text("Louder and faster than the first minute.")
    script.send(story.scored(state="high", frustration=0.61))
    expect(page.locator(".gauge")).to_contain_text(
        "Was 74, now 61 – clears at 50 for 10 s.", timeout=WAIT_MS
    )
    script.send(story.cleared(), story.scored(frustration=0.3))
    expect(page.get_by_role("log")).to_contain_text("Alert over (calmer again) after 42 s.")
    headline(page, "● Calm")
    expect(page.locator(".gauge")).not_to_contain_text("Was")


def test_an_alert_is_told_once_and_generated_words_are_marked(page: Page, script: Script) -> None:
    story = Story()
    script.send(
        story.started(),
        story.scored(state="high", frustration=0.74),
        story.raised(),
        story.explained(RAISED.text),
        story.explained("The voice is loud.", generated=True),
        story.explained("Speech is fast."),
        story.cleared(),
        story.scored(),
    )
    headline(page, "● Calm")
    assert feed(page) == [
        "● Alert over (calmer again) after 42 s.",
        "Measured: Speech is fast.",
        "Generated text, may be wrong: The voice is loud.",
        "■ Alert: expressed frustration is high. Louder and faster than the first minute.",
        "Comes across as happy (77 % sure).",
        "Session started.",
    ]


def test_what_was_not_measured_is_a_dash_and_never_a_zero(page: Page, script: Script) -> None:
    story = Story()
    script.send(story.started())
    event = story.scored(frustration=None, valence=None)
    del event["emotions"]["fear"]
    script.send(event)
    headline(page, "● Calm")
    expect(page.locator(".gauge strong")).to_have_text("—")
    expect(page.get_by_role("row", name="fear").locator(".number")).to_have_text("—")
    page.get_by_text("Show as table").click()
    expect(page.locator(".twin tbody td")).to_have_text(["00:02", "—", "0.30"])
    script.send(story.skipped())
    headline(page, "◌ No evidence")
    expect(page.locator(".bars .number")).to_have_text(["—"] * 7)
    expect(page.locator(".bars .fill")).to_have_count(0)


def test_bands_are_drawn_and_certainty_is_never_claimed(page: Page, script: Script) -> None:
    story = Story()
    sure = {"emotions": {"happy": 0.999, "sad": 0.001}, "bands": None, "confidence": 1.0}
    script.send(story.started(), story.scored())
    expect(page.get_by_role("row", name="happy").locator(".number")).to_have_text("70 ±10")
    expect(page.locator(".bars .band")).to_have_attribute("style", "left: 60%; width: 20%;")
    script.send(story.scored() | sure)
    expect(page.get_by_role("row", name="happy").locator(".number")).to_have_text(">99")
    expect(page.get_by_role("row", name="sad").locator(".number")).to_have_text("<1")
    headline(page, "comes across as happy, 99 % sure")


def test_a_busy_server_fades_the_last_numbers_and_keeps_the_state(
    page: Page, script: Script
) -> None:
    story = Story()
    script.send(story.started(), story.scored(), story.skipped("overload", "calm"))
    expect(page.locator(".reading.old")).to_have_count(1, timeout=WAIT_MS)
    headline(page, "● Calm")
    expect(page.get_by_role("row", name="happy").locator(".number")).to_have_text("70 ±10")


def test_readings_that_come_less_often_do_not_flicker(page: Page, script: Script) -> None:
    story = Story()
    started, less = story.started(), {**story.scored(), "degraded": ["hop_doubled"]}
    script.send(started, less, story.skipped("overload", "calm"))
    expect(page.locator(".why")).to_contain_text("readings come less often", timeout=WAIT_MS)
    expect(page.locator(".reading.old")).to_have_count(0)


def test_a_missing_face_is_said_with_its_time(page: Page, script: Script) -> None:
    story = Story()
    script.send(story.started(), story.scored(), *(story.scored(video=FACELESS) for _ in range(3)))
    expect(page.locator(".evidence")).to_contain_text(
        "No face seen for 3 s – voice only.", timeout=WAIT_MS
    )
    logged(page, "No face seen for 3 s – voice only.")
    script.send(story.scored())
    logged(page, "The face counts again.")


def test_the_feed_tells_changes_that_last_and_nothing_twice(page: Page, script: Script) -> None:
    story = Story()
    tops = ["happy", "angry", "happy", "angry", "happy", "happy", "sad", "sad", "sad", "sad"]
    script.send(story.started(), *(story.scored(top) for top in tops), story.ended())
    logged(page, "Session ended (nothing more arrived): 4 windows scored, 2 not.")
    assert feed(page)[1:] == [
        "Comes across as sad (77 % sure).",
        "Comes across as happy (77 % sure).",
        "Session started.",
    ]


def test_unknown_events_fields_and_foreign_sessions_are_ignored(page: Page, script: Script) -> None:
    story = Story()
    foreign = Story("ses_foreign")
    script.send(
        story.started() | {"news": [1, {"deep": None}]},
        foreign.started(),
        foreign.scored("angry"),
        *(story.scored("sad") | {"type": kind} for kind in ("window.revised", "constructor")),
        {"type": "notice"},
        story.scored(mood={"x": 1}),
    )
    headline(page, "comes across as happy")
    assert feed(page) == ["Comes across as happy (77 % sure).", "Session started."]


COLUMNS = """canvas => {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const line = [0x56, 0xb4, 0xe9];
  const off = (at) => line.reduce((sum, part, i) => sum + Math.abs(data[at + i] - part), 0);
  const rows = [...Array(height).keys()];
  return [...Array(width).keys()].map((x) => rows.some((y) => off((y * width + x) * 4) < 60));
}"""
"""Per pixel column of the trace: whether the valence line runs through it (its dark colour)."""


def runs(drawn: list[bool]) -> list[int]:
    """Lengths of the unbroken stretches of drawn columns."""
    text = "".join("x" if column else " " for column in drawn)
    return [len(run) for run in text.split() if len(run) > 2]


@pytest.mark.parametrize("hole", ["skipped", "never came"])
def test_a_gap_breaks_the_line(browser: Browser, script: Script, hole: str) -> None:
    story = Story(hop_ms=HOP_MS)
    with opened(browser, script, color_scheme="dark") as page:
        publishing(page, script)
        script.send(story.started(), *(story.scored() for _ in range(30)))
        if hole == "skipped":
            script.send(*(story.skipped() for _ in range(20)))
        else:
            story.skip_windows(20)
        script.send(*(story.scored("sad") for _ in range(40)))
        logged(page, "Comes across as sad")
        page.get_by_text("Show as table").click()
        expect(page.locator(".twin tbody tr").first).to_contain_text("00:46")
        before, after = runs(page.locator(".trace canvas").evaluate(COLUMNS))
        assert before / after == pytest.approx(29 / 39, rel=0.1)


def test_a_hidden_tab_paints_nothing_and_catches_up(page: Page, script: Script) -> None:
    story = Story()
    script.send(story.started(), story.scored())
    headline(page, "comes across as happy")
    page.evaluate(
        "() => { window.held = []; window.shown = requestAnimationFrame;"
        " window.requestAnimationFrame = (paint) => held.push(paint); }"
    )
    script.send(*(story.scored("angry", state="watch", frustration=0.5) for _ in range(9)))
    until(page, "held.length > 0")
    headline(page, "● Calm comes across as happy")
    page.evaluate(
        "() => { window.requestAnimationFrame = shown; held.forEach((paint) => paint()); }"
    )
    headline(page, "▲ Watch comes across as angry")
    assert feed(page)[0] == "Comes across as angry (77 % sure)."


def test_a_page_stays_small_over_a_long_call(page: Page, script: Script) -> None:
    story = Story()
    script.send(story.started())
    for _ in range(4):  # an hour, in bursts
        turns: list[tuple[str, Literal["calm", "watch"]]] = [
            ("happy", "calm"),
            ("sad", "watch"),
        ] * 75
        script.send(
            *(story.scored(top, state=state) for top, state in turns for _ in range(12)),
            remember=False,
        )
    script.send(story.ended())
    logged(page, "Session ended")
    expect(page.locator(".log li")).to_have_count(60)
    page.get_by_text("Show as table").click()
    expect(page.locator(".twin tbody tr")).to_have_count(20)


def test_faces_are_boxed_where_they_are_seen(page: Page, script: Script) -> None:
    story = Story()
    script.send(story.started(), story.scored())
    face = page.locator(".face")
    expect(face).to_have_attribute("style", "left: 20%; top: 20%; width: 20%; height: 40%;")
    expect(face).to_have_text("happy 80")


@pytest.fixture
def looks(browser: Browser, script: Script) -> Callable[..., None]:
    def check(**context: Any) -> None:
        story = Story()
        with opened(browser, script, **context) as page:
            publishing(page, script)
            script.send(story.started(), story.scored())
            headline(page, "● Calm")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            accessible(page)

    return check


@pytest.mark.parametrize("width", [320, 390, 820, 2560])
def test_nothing_is_cut_off_at_any_width(looks: Callable[..., None], width: int) -> None:
    looks(viewport={"width": width, "height": 800}, has_touch=width < 500)


def test_forced_colours_and_more_contrast(looks: Callable[..., None]) -> None:
    looks(forced_colors="active", contrast="more", reduced_motion="reduce")
