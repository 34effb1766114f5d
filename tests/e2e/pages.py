"""Opening the pages in one Chromium; whatever a page complains about fails the test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from tests.e2e.scripted import PEER, Script

WAIT_MS = 30_000


@contextmanager
def opened(
    browser: Browser,
    script: Script,
    *,
    before: str = "",
    may_say: str | None = None,
    **context: Any,
) -> Iterator[Page]:
    """Open ``/`` with WebRTC replaced; ``may_say``: part of a console error that is expected."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and (may_say is None or may_say not in message.text):
            complaints.append(message.text)

    with browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **context}) as made:
        page = made.new_page()
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(PEER + before)
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(script.url)
        yield page
    assert not complaints


def publishing(page: Page, script: Script, session: str = "ses_1") -> None:
    """Wait until the page follows the session that it publishes."""
    count = int(session.removeprefix("ses_"))
    assert script.wait("resume", count)["subscribe"] == {"sessions": [session]}
    expect(page.get_by_role("button", name="Stop")).to_be_enabled(timeout=WAIT_MS)


def headline(page: Page, text: str) -> None:
    expect(page.locator(".headline")).to_contain_text(text, timeout=WAIT_MS)


def says(page: Page, text: str) -> None:
    """Expect the sentence under the picture."""
    expect(page.locator(".says")).to_contain_text(text, timeout=WAIT_MS)


def log(page: Page) -> list[str]:
    """Return the event feed, newest first."""
    return page.locator(".log li span").all_inner_texts()


def logged(page: Page, text: str) -> None:
    expect(page.locator(".log")).to_contain_text(text, timeout=WAIT_MS)


def until(page: Page, condition: str) -> None:
    """Wait until ``condition`` holds in the page. ``wait_for_function`` would break its policy."""
    page.evaluate(
        f"""() => new Promise((done, fail) => {{
          const late = performance.now() + {WAIT_MS};
          const look = () => {condition} ? done() : performance.now() > late
            ? fail(new Error("never: " + {condition!r})) : setTimeout(look, 20);
          look();
        }})"""
    )


def accessible(page: Page) -> None:
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
