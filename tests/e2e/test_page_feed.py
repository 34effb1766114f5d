"""The page's event socket: lost, resumed, refused."""

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.pages import WAIT_MS, headline, log, logged, opened, publishing, says
from tests.e2e.scripted import Script
from tests.e2e.story import Story

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


def test_a_lost_socket_is_resumed_without_loss_or_repetition(
    browser: Browser, script: Script
) -> None:
    story = Story()
    with opened(browser, script) as page:
        publishing(page, script)
        script.send(story.started(), story.scored(), story.scored())
        logged(page, "Comes across as happy")
        page.get_by_text("Show as table").click()
        expect(page.locator(".twin tbody tr")).to_have_count(2)
        script.miss(*(story.scored("sad") for _ in range(4)))
        script.drop()
        assert script.wait("resume", 2)["since"] == {"ses_1": 2}
        logged(page, "Comes across as sad")
        again = story.scored("sad")
        script.send(again, again)
        expect(page.locator(".twin tbody tr")).to_have_count(7)
        expect(page.locator(".pill")).to_contain_text("● Live")
        assert log(page) == [
            "Comes across as sad (77 % sure).",
            "Comes across as happy (77 % sure).",
            "Session started.",
        ]


def test_a_refused_token_is_said_and_not_tried_again(browser: Browser, script: Script) -> None:
    script.close_code = 4401
    with opened(browser, script) as page:
        expect(page.locator(".pill")).to_contain_text("⨯ Refused – the token is unknown")
        headline(page, "⨯ Disconnected")
        page.evaluate("() => { window.WebSocket = class { constructor() { window.tried = 1; } }; }")
        page.evaluate("dispatchEvent(new Event('online'))")
        assert not page.evaluate("Boolean(window.tried)")
        says(page, "Nothing is published.")


def test_a_session_that_the_server_lost_can_be_started_again(
    browser: Browser, script: Script
) -> None:
    story = Story()
    with opened(browser, script) as page:
        publishing(page, script)
        script.send(story.started(), story.scored())
        headline(page, "● Calm")
        script.drop(4404)
        says(page, "The server ended the session: it does not know it any more.")
        headline(page, "◻ Ended")
        expect(page.locator(".pill")).to_contain_text("● Live", timeout=WAIT_MS)
        page.get_by_role("button", name="Start again").click()
        publishing(page, script, "ses_2")
        says(page, "The sample call plays")


def test_a_session_that_the_server_ended_says_why(browser: Browser, script: Script) -> None:
    story = Story()
    with opened(browser, script) as page:
        publishing(page, script)
        script.send(story.started(), story.scored(), story.ended("bad_media"))
        says(page, "The server ended the session: the media could not be read.")
        expect(page.get_by_role("button", name="Start again")).to_be_visible()
        headline(page, "◻ Ended")


def test_a_page_without_a_server_is_not_blank(browser: Browser, script: Script) -> None:
    fail = "window.fetch = async () => { throw new TypeError('Failed to fetch'); };"
    with opened(browser, script, before=fail) as page:
        expect(page.get_by_role("alert")).to_contain_text("See whether demeanor up still runs")
