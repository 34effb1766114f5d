"""Everything that can go wrong between a click and a session, and how the page says it."""

import io
import wave

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.e2e.pages import WAIT_MS, headline, opened, publishing, says, until
from tests.e2e.scripted import Refusal, Script
from tests.e2e.story import Story

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

REJECTS = """navigator.mediaDevices.getUserMedia = async () => {{
  throw new DOMException("", "{}");
}};"""
CANVAS_CAMERA = """
const canvas = document.createElement("canvas");
setInterval(() => canvas.getContext("2d").fillRect(0, 0, 1 + Math.random() * 99, 99), 40);
window.lent = canvas.captureStream();
navigator.mediaDevices.getUserMedia = () => new Promise((give) => {
  window.give = () => give(lent);
});
"""
"""A camera that comes when the test calls ``give()``."""


def click(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def beep(seconds: float) -> bytes:
    """A silent WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(2 * int(16_000 * seconds)))
    return out.getvalue()


def choose(page: Page, name: str, kind: str, data: bytes) -> None:
    file = FilePayload(name=name, mimeType=kind, buffer=data)
    page.get_by_label("Open a file").set_input_files(file)


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (
            Refusal(409, "the stream 'page-1' is live: end it or choose another name"),
            "The stream 'page-1' is live: end it or choose another name.",
        ),
        (
            Refusal(503, "all 8 streams are in use: try again later", {"Retry-After": "7"}),
            "All 8 streams are in use: try again later. It asks to wait 7 s.",
        ),
    ],
)
def test_a_refused_publication_says_why_and_can_be_tried_again(
    browser: Browser, script: Script, refusal: Refusal, sentence: str
) -> None:
    script.refusal = refusal
    with opened(browser, script, may_say=f"status of {refusal.status}") as page:
        says(page, sentence)
        assert page.locator("video").evaluate("video => video.paused && !video.srcObject")
        script.refusal = None
        click(page, "Start again")
        says(page, "The sample call plays")
        assert script.wait("resume")["subscribe"] == {"sessions": ["ses_1"]}


def test_a_lost_connection_is_said_cleaned_up_and_started_again(
    browser: Browser, script: Script
) -> None:
    with opened(browser, script) as page:
        publishing(page, script)
        page.evaluate("peers[0].become('disconnected')")
        says(page, "The connection to the server is interrupted…")
        page.evaluate("peers[0].become('connected')")
        says(page, "The sample call plays")
        page.evaluate("peers[0].become('failed')")
        says(page, "The connection to the server was lost.")
        assert script.wait("DELETE")["path"] == "/resource/ses_1"
        click(page, "Start again")
        publishing(page, script, "ses_2")


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (REJECTS.format("NotAllowedError"), "The browser was not allowed to use the camera."),
        (REJECTS.format("NotFoundError"), "No camera with a microphone was found."),
        (REJECTS.format("NotReadableError"), "The camera is in use by another program."),
        (REJECTS.format("Strange"), "The camera could not be opened."),
        (
            "Object.defineProperty(navigator, 'mediaDevices', { value: undefined });",
            "Browsers give the camera only to https pages and to localhost.",
        ),
    ],
)
def test_without_a_camera_the_sample_plays_and_says_why(
    browser: Browser, script: Script, before: str, why: str
) -> None:
    with opened(browser, script, before=before) as page:
        publishing(page, script)
        click(page, "Use my camera")
        click(page, "I agree")
        publishing(page, script, "ses_2")
        says(page, f"{why} The sample call plays instead.")


def test_the_camera_is_mirrored_and_its_loss_is_said(browser: Browser, script: Script) -> None:
    with opened(browser, script, before=CANVAS_CAMERA) as page:
        publishing(page, script)
        click(page, "Use my camera")
        click(page, "I agree")
        says(page, "The browser asks whether it may use your camera and microphone.")
        page.evaluate("lent.getTracks()[0].stop = () => { window.stopped = true; }; give()")
        publishing(page, script, "ses_2")
        says(page, "Your camera and microphone go to this machine only.")
        story = Story("ses_2")
        script.send(story.started(), story.scored())
        expect(page.locator(".face")).to_have_attribute(
            "style", "left: 60%; top: 20%; width: 20%; height: 40%;"
        )
        page.evaluate("lent.getTracks()[0].dispatchEvent(new Event('ended'))")
        says(page, "The camera went away.")
        assert page.evaluate("stopped")


def test_a_later_choice_wins_over_a_camera_that_comes_late(
    browser: Browser, script: Script
) -> None:
    with opened(browser, script, before=CANVAS_CAMERA) as page:
        publishing(page, script)
        click(page, "Use my camera")
        click(page, "I agree")
        until(page, "window.give")
        click(page, "Play the sample")
        publishing(page, script, "ses_2")
        page.evaluate("give()")
        until(page, "lent.getTracks()[0].readyState === 'ended'")
        says(page, "The sample call plays")
        assert not page.locator("video").evaluate("video => video.srcObject")


def test_a_file_that_is_no_media_is_refused_by_name(browser: Browser, script: Script) -> None:
    with opened(browser, script) as page:
        publishing(page, script)
        choose(page, "notes.mp4", "video/mp4", b"no film at all")
        says(page, "This browser cannot play notes.mp4. Choose an MP4, WebM, MP3 or WAV file.")
        expect(page.get_by_role("button", name="Start again")).to_have_count(0)
        click(page, "Play the sample")
        publishing(page, script, "ses_2")


def test_a_file_of_sound_alone_is_published_and_ends(browser: Browser, script: Script) -> None:
    with opened(browser, script) as page:
        publishing(page, script)
        choose(page, "call.wav", "audio/wav", beep(1))
        script.wait("resume", 2)
        says(page, "Your file has played to its end.")
        assert script.wait("DELETE", 2)["path"] == "/resource/ses_2"


def test_a_reload_ends_the_session(browser: Browser, script: Script) -> None:
    with opened(browser, script) as page:
        publishing(page, script)
        page.reload()
        assert script.wait("DELETE")["path"] == "/resource/ses_1"
        publishing(page, script, "ses_2")


def test_stop_ends_the_session_and_nothing_is_published(browser: Browser, script: Script) -> None:
    with opened(browser, script) as page:
        publishing(page, script)
        click(page, "Stop")
        says(page, "Nothing is published.")
        assert script.wait("DELETE")["path"] == "/resource/ses_1"
        headline(page, "… Waiting – nothing is published")
        expect(page.get_by_role("button", name="Stop")).to_be_disabled()


CONTROLS = "a[href], button:not(:disabled), input, summary, .log"
FOCUSED = """() => {
  const element = document.activeElement;
  const style = getComputedStyle(element.closest(".button") ?? element);
  const all = [...document.querySelectorAll(%r)];
  const ringed = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return [all.indexOf(element), ringed];
}"""


def test_every_control_is_reached_by_keyboard_with_visible_focus(
    browser: Browser, script: Script
) -> None:
    with opened(browser, script) as page:
        publishing(page, script)
        count = page.locator(CONTROLS).count()
        reached = []
        for _ in range(count):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(FOCUSED % CONTROLS))
        assert reached == [[number, True] for number in range(count)]
        page.get_by_role("button", name="Stop").press("Enter")
        says(page, "Nothing is published.")


def test_sound_is_off_until_it_is_asked_for(browser: Browser, script: Script) -> None:
    with opened(browser, script) as page:
        publishing(page, script)
        sound = page.get_by_role("button", name="Sound")
        expect(sound).to_have_attribute("aria-pressed", "false")
        sound.click()
        expect(sound).to_have_attribute("aria-pressed", "true")
        assert not page.locator("video").evaluate("video => video.muted")


def test_links_are_copied(browser: Browser, script: Script) -> None:
    grants = ["clipboard-read", "clipboard-write"]
    with opened(browser, script, permissions=grants) as page:
        click(page, "Copy WHIP URL")
        expect(page.get_by_role("button", name="Copied")).to_be_visible(timeout=WAIT_MS)
        assert page.evaluate("navigator.clipboard.readText()") == f"{script.url}/whip/me"
