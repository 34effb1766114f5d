"""Who may be scored at all.

A participant's role comes in, a decision with a sentence for people goes out. The decision stands
before decoding: media of a participant who is not scored is never decoded. It does not know who is
on the line, and nothing in here is legal advice.

``eu-strict``, the default, scores customers and the person themselves. Inferring emotions of
people at work or in education is prohibited in the EU (Regulation (EU) 2024/1689, Article
5(1)(f)), and consent does not cure it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.errors import UsageError
from pipeline.events import Role

ROLES: tuple[Role, ...] = get_args(Role)
"""The roles a participant may have, as on the wire."""
EU_STRICT_ROLES: frozenset[Role] = frozenset({"customer", "self"})
NEVER_SCORED: frozenset[Role] = frozenset({"unknown", "bot"})
"""Nobody knows the one, and the other has no expression of its own; no jurisdiction scores them."""
JURISDICTIONS = ("eu-strict", "custom")
"""``custom`` scores whatever ``score_roles`` says: its operator answers for that."""

WhyNot = Literal["policy_role", "policy_unknown_role"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether one participant is scored."""

    scored: bool
    why_not: WhyNot | None
    """Code for the wire; None when scored."""
    sentence: str
    """The same for people: one sentence that names the role and says what to do."""


class Policy:
    """Decides by role. ``score_roles`` are the roles that are scored where the law allows it.

    Raises :class:`~pipeline.errors.UsageError` for an unknown jurisdiction or role, for a role
    that the jurisdiction forbids, and when no role is left.
    """

    def __init__(self, score_roles: Iterable[str], jurisdiction: str = "eu-strict") -> None:
        wanted = tuple(dict.fromkeys(score_roles))
        if jurisdiction not in JURISDICTIONS:
            raise UsageError(
                f"unknown jurisdiction '{jurisdiction}': choose one of {', '.join(JURISDICTIONS)}"
            )
        if not wanted:
            raise UsageError("score_roles names no role: name at least 'customer' or 'self'")
        for role in wanted:
            _check(role, jurisdiction)
        self.jurisdiction = jurisdiction
        self.score_roles = wanted

    @property
    def sentence(self) -> str:
        """The policy in one line, for the start-up screen."""
        return f"{self.jurisdiction}: scoring roles {', '.join(self.score_roles)}"

    def decide(self, role: str) -> Decision:
        """Decide about one participant; a role that is not in :data:`ROLES` is refused."""
        if role not in ROLES:
            return Decision(
                False, "policy_unknown_role", f"There is no such role: use one of {_list(ROLES)}."
            )
        if role in self.score_roles:
            return Decision(True, None, f"The role '{role}' is scored.")
        return Decision(
            False,
            "policy_role",
            f"The policy {self.jurisdiction} does not score the role '{role}': "
            f"it scores {_list(self.score_roles)} only, and the media was not decoded.",
        )


def _check(role: str, jurisdiction: str) -> None:
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


def _list(roles: Iterable[str]) -> str:
    return ", ".join(f"'{role}'" for role in roles)
