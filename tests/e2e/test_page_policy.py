"""What the page says and asks because of the policy: notice, badge, levels, misuse."""

import pytest
from playwright.sync_api import Browser, expect

from pipeline.policy import Notice
from pipeline.policy.document import parse
from tests.e2e.pages import WAIT_MS, accessible, headline, opened, publishing, says
from tests.e2e.scripted import Script
from tests.e2e.story import Story

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

CAMERA = """
const canvas = document.createElement("canvas");
setInterval(() => canvas.getContext("2d").fillRect(0, 0, 1 + Math.random() * 99, 99), 40);
window.asked = 0;
navigator.mediaDevices.getUserMedia = async () => {
  window.asked += 1;
  return canvas.captureStream();
};
"""
BADGE = "Analysis of expressed emotion is on"


def test_nobodys_camera_opens_before_they_agreed(browser: Browser, script: Script) -> None:
    with opened(browser, script, before=CAMERA) as page:
        publishing(page, script)
        page.get_by_role("button", name="Use my camera").click()
        dialog = page.get_by_role("dialog", name="Before your camera opens")
        expect(dialog).to_contain_text(Notice().text)
        accessible(page)
        page.get_by_role("button", name="Not now").click()
        expect(dialog).to_have_count(0)
        page.get_by_role("button", name="Use my camera").click()
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        assert page.evaluate("asked") == 0

        page.get_by_role("button", name="Use my camera").click()
        page.get_by_role("button", name="I agree").click()
        publishing(page, script, "ses_2")
        expect(page.locator(".badge")).to_contain_text(BADGE)
        page.get_by_role("button", name="Stop").click()
        says(page, "Nothing is published.")
        expect(page.locator(".badge")).to_have_count(0)
        page.get_by_role("button", name="Use my camera").click()
        publishing(page, script, "ses_3")
        assert page.evaluate("asked") == 2


def test_who_is_not_scored_reads_so_and_sees_no_badge(browser: Browser, script: Script) -> None:
    with opened(browser, script) as page:
        publishing(page, script)
        expect(page.locator(".badge")).to_contain_text(BADGE)
        story = Story()
        started = story.started()
        (participant,) = started["participants"]
        participant |= {"role": "agent", "scored": False, "why_not": "policy_role"}
        script.send(started)
        headline(page, "nothing is looked at: this role is not scored")
        expect(page.locator(".badge")).to_have_count(0)


def test_levels_and_roles_are_the_policys(browser: Browser, script: Script) -> None:
    script.policy = parse(
        "score_roles = ['self']\n[thresholds.high]\nenter = 0.8\nleave = 0.6\nenter_ms = 5000"
    )
    with opened(browser, script) as page:
        publishing(page, script)
        story = Story()
        script.send(story.started(), story.scored(state="high", frustration=0.85))
        expect(page.locator(".gauge")).to_contain_text(
            "Turns high above 80 for 5 s, back below 60 for 10 s.", timeout=WAIT_MS
        )
        expect(page.locator(".alert-level")).to_have_attribute("style", "left: 80%;")
        expect(page.locator("footer")).to_contain_text(
            f"roles self only (policy {script.policy.tag})"
        )


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_what_it_must_not_be_used_for_is_one_click_away(
    browser: Browser, script: Script, scheme: str
) -> None:
    with opened(browser, script, color_scheme=scheme) as page:
        page.get_by_role("link", name="What this must not be used for").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("What this must not be used for")
        for term in ("People at work and in education", "Hiring", "Finding lies", "Secret use"):
            expect(page.get_by_role("term").filter(has_text=term)).to_be_visible()
        accessible(page)
        page.get_by_role("link", name="Demeanor").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Demeanor")
