"""The rules: what a token says of a participant comes in, a decision with a sentence goes out.

The decision stands before decoding: media of a participant who is not scored is never decoded. It
does not know who is on the line, and nothing in here is legal advice.

``eu-strict``, the default, scores customers and the person themselves. Inferring emotions of
people at work or in education is prohibited in the EU (Regulation (EU) 2024/1689, Article
5(1)(f)), and consent does not cure it. ``us-il`` asks for a written release before anything is
looked at (740 ILCS 14/15). What these laws say is taken from secondary sources.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol, get_args

from pipeline.errors import UsageError
from pipeline.events import Role
from pipeline.frustration import FrustrationSettings
from pipeline.latch import RuleSettings

Jurisdiction = Literal["eu-strict", "us-il", "custom"]
ConsentRule = Literal["required", "not_required"]
Context = Literal[
    "customer_call", "chatbot", "self_care", "workplace_peer", "recruitment", "education"
]

ROLES: tuple[Role, ...] = get_args(Role)
"""The roles a participant may have, as on the wire."""
CONTEXTS: tuple[Context, ...] = get_args(Context)
"""What a call may be, as the issuer of its token says."""
EU_STRICT_ROLES: frozenset[Role] = frozenset({"customer", "self"})
NEVER_SCORED: frozenset[Role] = frozenset({"unknown", "bot"})
"""Nobody knows the one, and the other has no expression of its own; no jurisdiction scores them."""
EU_STRICT_CONTEXTS: frozenset[Context] = frozenset({"workplace_peer", "recruitment", "education"})
JURISDICTIONS: tuple[Jurisdiction, ...] = get_args(Jurisdiction)
"""``custom`` scores whatever ``score_roles`` says: its operator answers for that."""
LONGEST_S = 120
"""Longest that scores may stay after the end of a stream."""

WhyNot = Literal[
    "policy_role",
    "policy_unknown_role",
    "policy_context",
    "policy_mixed",
    "policy_other",
    "policy_consent",
    "policy_release",
]


class Record(Protocol):
    """The signed record that a person agreed, as it stands in a token."""

    @property
    def notice_version(self) -> str:
        """Version of the notice the person saw."""

    @property
    def notice_sha256(self) -> str:
        """SHA-256 of its text, in hex."""

    @property
    def release(self) -> bool:
        """A written release was signed."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a token says of one participant. Nothing of it comes from the request."""

    role: str
    context: str | None = None
    mixed: bool = False
    """Several people share the track."""
    consent: Record | None = None
    policy: str | None = None
    """The only jurisdiction, or policy tag, under which its issuer allows it; None: any."""
    own: bool = False
    """The person holds the token on their own machine: that they acknowledged the notice there is
    the record."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether one participant is scored."""

    scored: bool
    why_not: WhyNot | None
    """Code for the wire; None when scored."""
    sentence: str
    """The same for people: one sentence that names what stands against it and what to do."""
    admitted: bool = True
    """False: the publisher is refused. True and not scored: the session is there, its media is
    dropped unseen."""
    asks: bool = False
    """Only consent is missing; it may still be given while the session lives."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a person is told before the first picture or sound is looked at."""

    version: str = "1"
    text: str = (
        "A computer guesses the emotions that your face and voice express, while you speak. It "
        "guesses expression, not feeling, and it can be wrong. No picture or sound is kept; the "
        "scores are gone two minutes after the call at the latest. You may stop it at any time."
    )

    @property
    def sha256(self) -> str:
        """SHA-256 of the text, in hex: what a consent record names."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When expressed frustration is worth a look, and when it is an alert."""

    watch: RuleSettings = field(default_factory=lambda: FrustrationSettings().watch)
    high: RuleSettings = field(default_factory=lambda: FrustrationSettings().high)


class Policy:
    """Decides about participants. ``score_roles`` are the roles scored where the law allows it.

    Raises :class:`~pipeline.errors.UsageError` for an unknown jurisdiction, role or context, for
    what the jurisdiction forbids, and when no role is left.
    """

    def __init__(
        self,
        score_roles: Iterable[str] = ("customer", "self"),
        jurisdiction: str = "eu-strict",
        *,
        version: str = "1",
        contexts_denied: Iterable[str] | None = None,
        consent: ConsentRule = "required",
        retention_s: int = LONGEST_S,
        notice: Notice | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.jurisdiction = _jurisdiction(jurisdiction)
        self.version = version
        self.score_roles = _roles(score_roles, self.jurisdiction)
        self.contexts_denied = _contexts(contexts_denied, self.jurisdiction)
        self.consent = _consent(consent, self.jurisdiction)
        self.retention_s = retention_s
        """How long scores may stay after the end of a stream."""
        self.notice = notice or Notice()
        self.thresholds = thresholds or Thresholds()
        self.sha256 = hashlib.sha256(_canonical(self)).hexdigest()
        """Of the canonical form: two policies with the same hash decide alike."""
        self.tag = f"{self.jurisdiction}@{self.sha256[:8]}"
        """The policy in every event and audit row: jurisdiction and the hash's first 8 digits."""

    @property
    def sentence(self) -> str:
        """The policy in one line, for the start-up screen."""
        return f"{self.jurisdiction}: scoring roles {', '.join(self.score_roles)}"

    @property
    def needs_release(self) -> bool:
        """Whether consent must be a written release."""
        return self.jurisdiction == "us-il"

    def decide(self, case: Case) -> Decision:
        """Decide about one participant; whoever is not known is refused."""
        return self._refused(case) or self._unscored(case) or self._unasked(case)

    def _refused(self, case: Case) -> Decision | None:
        """Tell what no session may come of."""
        if case.role not in ROLES:
            why: WhyNot = "policy_unknown_role"
            text = f"There is no such role: use one of {_list(ROLES)}."
        elif case.role == "unknown":
            why = "policy_unknown_role"
            text = "The token names no role of the participant: have it issued with 'part_role'."
        elif case.context is not None and case.context in self.contexts_denied:
            why = "policy_context"
            text = (
                f"The policy {self.jurisdiction} denies the context '{case.context}': calls of "
                "this kind may not be analysed here."
            )
        elif case.mixed and self.jurisdiction != "custom":
            why = "policy_mixed"
            text = (
                f"The policy {self.jurisdiction} takes one person per track: "
                "publish each person as a stream of their own."
            )
        elif case.policy not in (None, self.jurisdiction, self.tag):
            why = "policy_other"
            text = (
                f"The token holds under another policy than {self.tag}, which is in force here: "
                "have one issued for it."
            )
        else:
            return None
        return Decision(False, why, text, admitted=False)

    def _unscored(self, case: Case) -> Decision | None:
        if case.role in self.score_roles:
            return None
        return Decision(
            False,
            "policy_role",
            f"The policy {self.jurisdiction} does not score the role '{case.role}': "
            f"it scores {_list(self.score_roles)} only, and the media was not decoded.",
        )

    def _unasked(self, case: Case) -> Decision:
        if self.consent == "not_required" or case.own:
            return Decision(True, None, f"The role '{case.role}' is scored.")
        record = case.consent
        current = record is not None and (
            (record.notice_version, record.notice_sha256)
            == (self.notice.version, self.notice.sha256)
        )
        if record is None or not current:
            return Decision(
                False,
                "policy_consent",
                f"Nothing is looked at before the person agrees to notice {self.notice.version}: "
                "put the record into the token, or PUT /v1/sessions/{id}/consent.",
                asks=True,
            )
        if self.needs_release and not record.release:
            return Decision(
                False,
                "policy_release",
                f"The policy {self.jurisdiction} wants a written release before collection: put it "
                "into the token's consent record, or PUT /v1/sessions/{id}/consent with it.",
                asks=True,
            )
        return Decision(True, None, f"The role '{case.role}' is scored; consent is on record.")


def _jurisdiction(name: str) -> Jurisdiction:
    for known in JURISDICTIONS:
        if known == name:
            return known
    raise UsageError(f"unknown jurisdiction '{name}': choose one of {', '.join(JURISDICTIONS)}")


def _roles(wanted: Iterable[str], jurisdiction: Jurisdiction) -> tuple[str, ...]:
    roles = tuple(dict.fromkeys(wanted))
    if not roles:
        raise UsageError("score_roles names no role: name at least 'customer' or 'self'")
    for role in roles:
        if role not in ROLES:
            raise UsageError(f"unknown role '{role}' in score_roles: the roles are {_list(ROLES)}")
        if role in NEVER_SCORED:
            raise UsageError(f"the role '{role}' is never scored: remove it from score_roles")
        if jurisdiction == "eu-strict" and role not in EU_STRICT_ROLES:
            raise UsageError(
                f"eu-strict does not score the role '{role}' (inferring emotions at work or in "
                "education is prohibited by the EU AI Act, Article 5(1)(f)): remove it from "
                "score_roles"
            )
    return roles


def _contexts(wanted: Iterable[str] | None, jurisdiction: Jurisdiction) -> tuple[str, ...]:
    least = EU_STRICT_CONTEXTS if jurisdiction == "eu-strict" else frozenset[Context]()
    if wanted is None:
        return tuple(context for context in CONTEXTS if context in least)
    contexts = tuple(dict.fromkeys(wanted))
    for context in contexts:
        if context not in CONTEXTS:
            raise UsageError(
                f"unknown context '{context}' in contexts_denied: "
                f"the contexts are {_list(CONTEXTS)}"
            )
    if missing := [context for context in CONTEXTS if context in least - set(contexts)]:
        raise UsageError(
            f"eu-strict always denies {_list(missing)}: add what is missing to contexts_denied"
        )
    return contexts


def _consent(rule: ConsentRule, jurisdiction: Jurisdiction) -> ConsentRule:
    if jurisdiction == "us-il" and rule == "not_required":
        raise UsageError(
            "us-il wants a written release before collection: write consent = 'required'"
        )
    return rule


def _canonical(policy: Policy) -> bytes:
    """Return everything that matters to a decision in one spelling."""
    document = {
        "version": policy.version,
        "jurisdiction": policy.jurisdiction,
        "score_roles": sorted(policy.score_roles),
        "contexts_denied": sorted(policy.contexts_denied),
        "consent": policy.consent,
        "retention_s": policy.retention_s,
        "notice": asdict(policy.notice),
        "thresholds": asdict(policy.thresholds),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
