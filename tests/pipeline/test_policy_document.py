"""policy.toml: every key counts, a misspelt one is named with what was meant, words match rules."""

import tomllib
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.policy import Policy
from pipeline.policy.document import explained, parse

FULL = """
version = "2026-11"
jurisdiction = "us-il"
score_roles = ["customer"]
contexts_denied = ["recruitment"]
consent = "required"
retention_s = 30

[notice]
version = "7"
text = "We look at faces."

[thresholds.high]
enter = 0.8
leave_ms = 5000
"""


def test_an_empty_file_is_the_default():
    assert parse("").tag == Policy().tag


def test_the_file_to_begin_with_is_the_default_with_every_key():
    text = (Path(__file__).parents[2] / "deploy" / "policy.toml").read_text()
    assert parse(text).tag == Policy().tag
    keys = {"version", "jurisdiction", "score_roles", "contexts_denied", "consent", "retention_s"}
    assert set(tomllib.loads(text)) == keys | {"notice", "thresholds"}


def test_every_key_counts():
    policy = parse(FULL)
    assert policy.version == "2026-11"
    assert policy.jurisdiction == "us-il"
    assert policy.score_roles == ("customer",)
    assert policy.contexts_denied == ("recruitment",)
    assert policy.retention_s == 30
    assert (policy.notice.version, policy.notice.text) == ("7", "We look at faces.")
    high, usual = policy.thresholds.high, Policy().thresholds.high
    assert (high.enter, high.leave_ms) == (0.8, 5000)
    assert (high.leave, high.enter_ms, high.cool_down_ms) == (
        usual.leave,
        usual.enter_ms,
        usual.cool_down_ms,
    )
    assert policy.thresholds.watch == Policy().thresholds.watch


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("score_role = ['self']", "'score_role' is no key.*did you mean 'score_roles'"),
        ("zebra = 1", "'zebra' is no key.*use version, jurisdiction"),
        ("[notice]\nversion='1'\ntxt='x'", r"'notice.txt'.*did you mean 'notice.text'"),
        ("[thresholds.hight]", r"'thresholds.hight'.*did you mean 'thresholds.high'"),
        ("[thresholds.high]\nentr = 0.5", r"'thresholds.high.entr'.*'thresholds.high.enter'"),
        ("retention_s = 121", "retention_s"),
        ("retention_s = 'long'", "retention_s"),
        ("consent = 'maybe'", "consent"),
        ("version = ''", "version"),
        ("[notice]\nversion = '1'", "notice"),
        ("[thresholds.high]\nenter = 0.2", "leave .* must be below enter"),
        ("score_roles = ['agent']", "eu-strict does not score the role 'agent'"),
        ("jurisdiction = 'moon'", "unknown jurisdiction"),
        ("version = ", "is not TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(text, words):
    with pytest.raises(UsageError, match=f"^p.toml.*{words}"):
        parse(text, "p.toml")


def test_it_says_what_it_means():
    text = "\n".join(explained(parse(FULL)))
    assert "policy us-il@" in text
    assert "Scored are people in the roles customer;" in text
    assert "Calls of the kind recruitment are refused" in text
    assert "signed release to notice 7" in text
    assert "30 seconds after" in text
    assert "above 0.80 for 8 s" in text
    assert "not legal advice" in text


def test_it_says_the_loose_ends_too():
    text = "\n".join(
        explained(parse("jurisdiction='custom'\nconsent='not_required'\nretention_s=0"))
    )
    assert "No kind of call is refused" in text
    assert "Several people may share a track" in text
    assert "Nobody is asked" in text
    assert "as soon as a stream ends" in text
