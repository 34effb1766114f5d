"""The pages' files: unchanged copies of others, nothing from elsewhere, nothing missing."""

import hashlib
import re
from pathlib import Path

import pytest

import services.web
from services.gateway import pages

ROOT = Path(services.web.__file__).parent
OWN = [path for path in sorted(ROOT.iterdir()) if path.suffix in {".html", ".css", ".js", ".svg"}]
SCRIPTS = [path for path in OWN if path.suffix == ".js"]
PAGES = [path for path in OWN if path.suffix == ".html"]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_vendored_files_are_as_they_were_published() -> None:
    table = (ROOT / "vendor" / "VENDORED.md").read_text()
    listed = dict(re.findall(r"^\| ([\w.-]+) \|.*\| ([0-9a-f]{64}) \|$", table, re.MULTILINE))
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (ROOT / "vendor").iterdir()
        if path.suffix != ".md" and not path.name.startswith("LICENSE")
    }
    assert listed == found


def test_every_vendored_project_brings_its_licence() -> None:
    assert {path.suffix for path in (ROOT / "vendor").glob("LICENSE.*")} == {
        ".htm",
        ".preact",
        ".uplot",
    }


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_pages_hold_no_script_and_no_style_of_their_own(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"<style|<script(?![^>]*\ssrc=)|\son\w+=|\sstyle=|javascript:", text)


@pytest.mark.parametrize("file", OWN, ids=names(OWN))
def test_nothing_comes_from_elsewhere(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(https?|wss?)://|[\"'(]//\w", text)


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_scripts_make_no_code_and_no_markup_out_of_text(script: Path) -> None:
    banned = r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write"
    assert not re.search(banned, script.read_text())


@pytest.mark.parametrize("file", OWN, ids=names(OWN))
def test_what_is_named_is_served(file: Path) -> None:
    text = file.read_text()
    named = set(re.findall(r"(?:src|href)=\"([\w./-]+)\"|from \"\./([\w./-]+)\"", text))
    served = {*pages.files(), "asyncapi.json"}
    assert {one or other for one, other in named} <= served


def test_every_own_script_is_reached_from_the_page() -> None:
    reached, left = set(), ["app.js"]
    while left:
        name = left.pop()
        reached.add(name)
        wanted = re.findall(r"from \"\./(\w+\.js)\"", (ROOT / name).read_text())
        left += set(wanted) - reached
    assert reached == set(names(SCRIPTS))


def test_the_policy_lets_pages_talk_to_their_server_only() -> None:
    rules = dict(rule.split(" ", 1) for rule in pages.policy("ws://127.0.0.1:8081").split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == "'self'"
    assert rules["connect-src"] == "'self' ws://127.0.0.1:8081"
