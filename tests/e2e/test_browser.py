"""A real headless Chromium: publishes a fake camera by WHIP and draws the events it becomes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from tests.e2e.harness import Server
from tests.e2e.pages import until

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(180)]
SCORED_MS = 30_000
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-loopback-in-peer-connection",
    "--autoplay-policy=no-user-gesture-required",
]


@contextmanager
def browser_page(chromium: str, url: str, *flags: str, scheme: str = "dark") -> Iterator[Page]:
    """Open the page; any console error fails the test."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *flags])
        context = browser.new_context(
            color_scheme=scheme,  # type: ignore[arg-type]
            viewport={"width": 1200, "height": 900},
        )
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        yield page
        browser.close()
    assert not complaints


def scored(page: Page) -> None:
    """Wait until the page shows a scored window."""
    expect(page.locator(".bars .fill").first).to_be_visible(timeout=SCORED_MS)


@pytest.fixture
def fake_camera(camera_files: tuple[Path, Path]) -> list[str]:
    picture, sound = camera_files
    return [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={picture}",
        f"--use-file-for-fake-audio-capture={sound}",
    ]


def test_camera_becomes_events_that_the_page_draws(
    server: Server, chromium: str, fake_camera: list[str]
) -> None:
    with browser_page(chromium, server.http, *fake_camera) as page:
        expect(page.get_by_role("status").first).to_contain_text("Live", timeout=SCORED_MS)
        page.get_by_role("button", name="Use my camera").click()
        page.get_by_role("button", name="I agree").click()
        expect(page.locator(".face")).to_have_count(1, timeout=SCORED_MS)
        scored(page)
        expect(page.locator(".log")).to_contain_text(re.compile("Comes across as|Not sure"))
        drawn = page.locator(".trace canvas").evaluate(
            "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)"
            ".data.some((value, index) => index % 4 === 3 && value > 0)"
        )
        assert drawn
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".log")).to_contain_text(
            "Session ended (publisher left)", timeout=SCORED_MS
        )


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_sample_plays_without_a_camera_and_axe_finds_nothing(
    server: Server, chromium: str, scheme: str
) -> None:
    # No permission, so every candidate of the browser is a `.local` name.
    with browser_page(chromium, server.http, scheme=scheme) as page:
        scored(page)
        page.get_by_role("button", name="Use my camera").click()
        page.get_by_role("button", name="I agree").click()
        expect(page.get_by_text("The sample call plays instead")).to_be_visible(timeout=SCORED_MS)
        scored(page)
        report = Axe().run(page)
        assert report.violations_count == 0, report.generate_report()


def test_page_says_disconnected_and_comes_back(
    own_server: Callable[..., Server], chromium: str, tmp_path: Path
) -> None:
    first = own_server()
    ports = [f"--http-port={urlsplit(first.http).port}", f"--ws-port={urlsplit(first.events).port}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.goto(first.http)
        scored(page)
        first.stop()
        expect(page.locator(".headline")).to_contain_text("Disconnected", timeout=SCORED_MS)
        own_server(*ports)
        expect(page.locator(".pill")).to_contain_text("Live", timeout=SCORED_MS)
        page.get_by_role("button", name="Start again").click(timeout=SCORED_MS)
        expect(page.locator(".headline")).to_contain_text("comes across as", timeout=SCORED_MS)
        browser.close()


def test_the_sample_starts_over_within_one_session(server: Server, chromium: str) -> None:
    with browser_page(chromium, server.http) as page:
        scored(page)
        page.locator("video").evaluate("video => { video.currentTime = video.duration - 1; }")
        until(page, "document.querySelector('video').currentTime < 20")
        newest = page.locator(".twin tbody tr").first
        page.get_by_text("Show as table").click()
        before = newest.inner_text()
        expect(newest).not_to_have_text(before, timeout=SCORED_MS)
        expect(page.locator(".log")).not_to_contain_text("Session ended")


def test_two_tabs_publish_side_by_side_and_a_reload_ends_one_session(
    server: Server, chromium: str
) -> None:
    status = """session => fetch(`v1/sessions/${session}`, {
      headers: { Authorization: "Bearer dev" },
    }).then((answer) => answer.json()).then((found) => found.status)"""
    with browser_page(chromium, server.http) as first:
        scored(first)
        second = first.context.new_page()
        with second.expect_response(lambda answer: answer.request.method == "POST") as published:
            second.goto(server.http)
        session = published.value.headers["link"].partition('session="')[2].rstrip('"')
        scored(second)
        assert second.evaluate(status, session) == "live"
        second.reload()
        scored(second)
        assert second.evaluate(status, session) == "ended"
        expect(first.locator(".log")).not_to_contain_text("Session ended")
        scored(first)
        second.close()
