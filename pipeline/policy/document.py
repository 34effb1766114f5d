"""``policy.toml``: strictly read, and told again in plain sentences.

Every key is optional; what is left out is the jurisdiction's default::

    version = "2026-11"
    jurisdiction = "eu-strict"            # us-il, custom
    score_roles = ["customer", "self"]
    contexts_denied = ["workplace_peer", "recruitment", "education"]
    consent = "required"                  # not_required
    retention_s = 120                     # 0..120

    [notice]
    version = "1"
    text = "What people are told before …"

    [thresholds.high]                     # and thresholds.watch
    enter = 0.70
    enter_ms = 8000
    leave = 0.50
    leave_ms = 10000
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from pipeline.errors import UsageError
from pipeline.latch import RuleSettings
from pipeline.policy.rules import (
    LONGEST_S,
    ConsentRule,
    Notice,
    Policy,
    Thresholds,
)

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Ms = Annotated[int, msgspec.Meta(ge=0, le=600_000)]
_ALIKE = 0.6


class _Rule(msgspec.Struct, frozen=True):
    enter: _Share | None = None
    enter_ms: _Ms | None = None
    leave: _Share | None = None
    leave_ms: _Ms | None = None


class _Thresholds(msgspec.Struct, frozen=True):
    watch: _Rule = _Rule()
    high: _Rule = _Rule()


class _Notice(msgspec.Struct, frozen=True):
    version: _Name
    text: _Text


class _Document(msgspec.Struct, frozen=True):
    version: _Name = "1"
    jurisdiction: str = "eu-strict"
    score_roles: list[str] = msgspec.field(default_factory=lambda: ["customer", "self"])
    contexts_denied: list[str] | None = None
    consent: ConsentRule = "required"
    retention_s: Annotated[int, msgspec.Meta(ge=0, le=LONGEST_S)] = LONGEST_S
    notice: _Notice | None = None
    thresholds: _Thresholds = _Thresholds()


def parse(text: str, name: str = "policy.toml") -> Policy:
    """Read a policy. Raises :class:`~pipeline.errors.UsageError` naming file, key and remedy."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is not TOML: {error}") from None
    _check_keys(raw, name)
    try:
        found = msgspec.convert(raw, _Document)
        return _policy(found)
    except (msgspec.ValidationError, UsageError) as error:
        raise UsageError(f"{name}: {error}") from None


def _policy(found: _Document) -> Policy:
    usual = Thresholds()
    return Policy(
        found.score_roles,
        found.jurisdiction,
        version=found.version,
        contexts_denied=found.contexts_denied,
        consent=found.consent,
        retention_s=found.retention_s,
        notice=None if found.notice is None else Notice(found.notice.version, found.notice.text),
        thresholds=Thresholds(
            _rule(usual.watch, found.thresholds.watch), _rule(usual.high, found.thresholds.high)
        ),
    )


def _rule(usual: RuleSettings, found: _Rule) -> RuleSettings:
    given = {
        key: value for key, value in msgspec.structs.asdict(found).items() if value is not None
    }
    return replace(usual, **given)


def _check_keys(raw: Mapping[str, Any], name: str) -> None:
    """Refuse a key that nobody knows: a misspelt rule must not be a rule that does not hold."""
    _known(raw, _Document, name, "")
    thresholds = raw.get("thresholds")
    if isinstance(raw.get("notice"), dict):
        _known(raw["notice"], _Notice, name, "notice.")
    if isinstance(thresholds, dict):
        _known(thresholds, _Thresholds, name, "thresholds.")
        for key, rule in thresholds.items():
            if isinstance(rule, dict):
                _known(rule, _Rule, name, f"thresholds.{key}.")


def _known(raw: Mapping[str, Any], kind: type[msgspec.Struct], name: str, at: str) -> None:
    known = kind.__struct_fields__
    for key in raw:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=_ALIKE)
            meant = f"did you mean '{at}{close[0]}'?" if close else f"use {', '.join(known)}"
            raise UsageError(f"{name}: '{at}{key}' is no key of a policy: {meant}")


def explained(policy: Policy) -> tuple[str, ...]:
    """Return what a policy means, one plain sentence after the other."""
    roles = _and(policy.score_roles)
    return (
        f"This is policy {policy.tag}, version {policy.version}.",
        f"Scored are people in the roles {roles}; media of anybody else is dropped undecoded.",
        "A participant whose role is unknown is refused.",
        f"Calls of the kind {_and(policy.contexts_denied)} are refused."
        if policy.contexts_denied
        else "No kind of call is refused for what it is.",
        "Several people may share a track: the operator answers for that."
        if policy.jurisdiction == "custom"
        else "A track that several people share is refused.",
        _consent(policy),
        f"Scores are gone {policy.retention_s} seconds after the end of a stream."
        if policy.retention_s
        else "Scores are gone as soon as a stream ends.",
        _alert(policy.thresholds.high),
        "This is how the program behaves; it is not legal advice.",
    )


def _consent(policy: Policy) -> str:
    if policy.consent == "not_required":
        return (
            "Nobody is asked here: whoever publishes must have informed the person. "
            "An objection ends the session and erases it."
        )
    kind = "a signed release" if policy.needs_release else "consent"
    return (
        f"Nothing is looked at before there is {kind} to notice {policy.notice.version}; when it "
        "is withdrawn, scoring stops within a second and the session's scores are erased."
    )


def _alert(rule: RuleSettings) -> str:
    return (
        f"An alert is raised when expressed frustration stays at or above {rule.enter:.2f} for "
        f"{rule.enter_ms / 1000:g} s, and cleared at or below {rule.leave:.2f} for "
        f"{rule.leave_ms / 1000:g} s."
    )


def _and(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
