"""The page of a server that wants a token: it asks, keeps it in memory, publishes its stream."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.pages import accessible, opened, publishing
from tests.e2e.scripted import Script
from tests.services.identity.tokens import Issuer

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture
def typed(tmp_path: Path) -> str:
    return str(Issuer(tmp_path).token(scope="read:* ingest:call1 explain"))


@pytest.fixture
def asking(typed: str) -> Iterator[Script]:
    script = Script(token=None)
    script.typed = typed
    yield script
    script.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_page_asks_for_a_token_and_publishes_its_stream(
    browser: Browser, asking: Script, typed: str, scheme: str
) -> None:
    with opened(browser, asking, may_say="401", color_scheme=scheme) as page:
        field = page.get_by_label("Token")
        expect(field).to_be_focused()
        expect(field).to_have_attribute("type", "password")
        accessible(page)
        for wrong, why in (
            ("two words", "A token is one word"),
            ("expired", "this token has expired: get a new one"),
        ):
            field.fill(wrong)
            field.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text(why)
            expect(field).to_be_focused()
            accessible(page)
        field.fill(f" {typed} ")
        page.get_by_role("button", name="Connect").click()
        publishing(page, asking)
        assert asking.wait("auth")["token"] == typed
        assert asking.wait("POST")["path"] == "/whip/call1"
        kept = "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
        assert typed not in page.evaluate(kept)
        assert typed not in page.content()
        page.reload()
        expect(page.get_by_label("Token")).to_have_value("")


def test_a_token_without_a_stream_gets_a_stream_of_any_name(
    browser: Browser, asking: Script
) -> None:
    asking.typed = "opaque"
    with opened(browser, asking) as page:
        page.get_by_label("Token").fill("opaque")
        page.get_by_role("button", name="Connect").click()
        publishing(page, asking)
        assert asking.wait("POST")["path"].startswith("/whip/page-")
