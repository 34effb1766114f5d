"""Generated words on the page: marked, asked for, refused, and never taken for evidence."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.events import Cue
from tests.e2e.pages import WAIT_MS, accessible, headline, logged, opened, publishing
from tests.e2e.scripted import Refusal, Script
from tests.e2e.story import Story

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]
BUTTON = "Explain this moment"


@pytest.fixture
def page(browser: Browser, script: Script) -> Iterator[Page]:
    script.explains = True
    with opened(browser, script, may_say="status of 4") as page:
        publishing(page, script)
        yield page


def reads(page: Page, text: str) -> None:
    expect(page.locator(".generated")).to_contain_text(text, timeout=WAIT_MS)


def says(page: Page, text: str) -> None:
    expect(page.locator(".generated [role=status]")).to_have_text(text, timeout=WAIT_MS)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_words_are_marked_with_all_that_is_known_of_them(
    browser: Browser, script: Script, scheme: str
) -> None:
    script.explains = True
    story = Story()
    with opened(browser, script, color_scheme=scheme) as page:
        publishing(page, script)
        loud = Cue("loudness", "audio", 71.0, 62.0, "dB")
        script.send(
            story.started(),
            story.scored(state="high", frustration=0.8),
            story.raised(),
            story.generated(
                "The voice is loud.",
                label="sad",
                agrees=False,
                truncated=True,
                withheld=2,
                audio="missing",
                cues=[loud],
            ),
        )
        reads(page, "Generated words, no evidence")
        reads(page, "About the alert, written by the model R1-Omni-0.5B sha256:12ab")
        expect(page.locator(".generated blockquote")).to_have_text("The voice is loud.")
        assert page.locator(".generated li").all_inner_texts() == [
            "Label it wrote: sad. By its own numbers angry is likelier.",
            "Its thinking was cut off.",
            "2 sentences withheld: against what was measured, repeated, or about other things.",
            "It heard no sound.",
            "Measured, and in line with it: loudness 71 dB, usually 62.",
        ]
        logged(page, "Generated text, may be wrong: The voice is loud.")
        accessible(page)


def test_a_moment_is_asked_for_and_its_words_come(page: Page, script: Script) -> None:
    story = Story()
    ask = page.get_by_role("button", name=BUTTON)
    expect(ask).to_be_disabled()
    script.send(story.started(), story.scored())
    expect(ask).to_be_enabled(timeout=WAIT_MS)
    ask.click()
    told = script.wait("explain")
    assert (told["session"], told["token"]) == ("ses_1", "Bearer dev")
    says(page, "Asked. The words come when the model is done.")
    expect(ask).to_be_disabled()
    accessible(page)
    script.send(story.generated("", alert=False, withheld=1))
    says(page, "The words have come.")
    reads(page, "About a moment of this call")
    reads(page, "It wrote nothing that may be shown.")
    reads(page, "Label it wrote: angry, which is also its own likeliest.")
    reads(page, "1 sentence withheld")
    logged(page, "Generated text: nothing that may be shown.")
    expect(ask).to_be_enabled()
    script.send(story.generated("<b>Frowning</b>", alert=False, label="other", raw="awe"))
    expect(page.locator(".generated blockquote")).to_have_text("<b>Frowning</b>")
    reads(page, "Label it wrote: other (“awe”)")
    accessible(page)


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (409, "the session is over: only what it shows now can be explained"),
        (429, "6 explanations a minute are all there are: ask again in 10 s"),
    ],
)
def test_a_refusal_is_said_and_may_be_tried_again(
    page: Page, script: Script, status: int, detail: str
) -> None:
    story = Story()
    script.explain_refusal = Refusal(status, detail)
    script.send(story.started(), story.scored())
    ask = page.get_by_role("button", name=BUTTON)
    ask.click()
    says(page, detail[0].upper() + detail[1:])
    accessible(page)
    script.explain_refusal = None
    ask.click()
    says(page, "Asked. The words come when the model is done.")
    script.wait("explain", 2)


def test_the_end_of_the_session_ends_the_wait(page: Page, script: Script) -> None:
    story = Story()
    script.send(story.started(), story.scored())
    page.get_by_role("button", name=BUTTON).click()
    says(page, "Asked. The words come when the model is done.")
    script.send(story.ended())
    headline(page, "◻ Ended")
    says(page, "")
    expect(page.get_by_role("button", name=BUTTON)).to_be_disabled()


def test_words_that_never_come_are_given_up(browser: Browser, script: Script) -> None:
    script.explains = True
    story = Story()
    # Only the page's own long wait is cut short; everything else keeps its time.
    hurry = (
        "window.later = setTimeout;"
        "window.setTimeout = (call, ms) => later(call, ms === 60000 ? 50 : ms);"
    )
    with opened(browser, script, before=hurry) as page:
        publishing(page, script)
        script.send(story.started(), story.scored())
        page.get_by_role("button", name=BUTTON).click()
        script.wait("explain")
        says(
            page,
            "No words came: the model is busy, or there was no picture to look at. Ask again.",
        )
        expect(page.get_by_role("button", name=BUTTON)).to_be_enabled()


def test_where_nobody_may_ask_nothing_is_offered_but_alerts_have_their_words(
    browser: Browser, script: Script
) -> None:
    story = Story()
    with opened(browser, script) as page:
        publishing(page, script)
        script.send(story.started(), story.scored())
        headline(page, "● Calm")
        expect(page.locator(".generated")).to_have_count(0)
        script.send(story.raised(), story.generated("The voice is loud."))
        reads(page, "The voice is loud.")
        expect(page.get_by_role("button", name=BUTTON)).to_have_count(0)
