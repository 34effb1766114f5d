"""The policy at the edge: its file, what a token says of a participant, who may decide what.

The rules themselves are pure and live in :mod:`pipeline.policy`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from pipeline.errors import UsageError
from pipeline.frustration import FrustrationSettings
from pipeline.person import PersonSettings
from pipeline.policy import Case, Policy
from pipeline.policy.document import explained, parse
from services.auth import DEV_TOKEN, Principal
from services.orders import Orders
from services.settings import Settings

OPERATOR: Final = "default"
"""The tenant whose administrators may switch scoring for everybody."""
EVERYBODY: Final = "*"
"""Name of the order that switches scoring for all tenants."""


def load(settings: Settings) -> Policy:
    """Return the policy of a process: from its file, else ``eu-strict`` with ``score_roles``.

    Raises :class:`~pipeline.errors.UsageError` when the file cannot be read or cannot be meant,
    and when roles are named in two places.
    """
    if settings.policy is None:
        return Policy(settings.score_roles)
    policy = read(settings.policy)
    if "score_roles" in settings.model_fields_set:
        raise UsageError(
            f"the roles stand in {settings.policy.name}: write score_roles there, "
            "and leave the flag or variable away"
        )
    return policy


def read(file: Path) -> Policy:
    """Return the policy of a file. Raises :class:`~pipeline.errors.UsageError`."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text: save it as UTF-8") from None
    return parse(text, file.name)


def case_of(principal: Principal) -> Case:
    """Return what a token says of the participant whose media comes with it.

    ``dev`` exists on loopback only, so its holder is the person at this machine: the page asks
    them to acknowledge the notice, and a command of their own is their own doing.
    """
    return Case(
        role=principal.role,
        context=principal.context,
        mixed=principal.mixed,
        consent=principal.consent,
        policy=principal.policy,
        own=principal.token_id == DEV_TOKEN and principal.role == "self",
    )


def scoring_on(orders: Orders, tenant: str) -> bool:
    """Tell whether the kill switch lets a tenant's windows be scored."""
    return all(orders.value("scoring", name) != "off" for name in (tenant, EVERYBODY))


def person_settings(policy: Policy) -> PersonSettings:
    """Return how people are judged, with the policy's thresholds."""
    return PersonSettings(
        frustration=FrustrationSettings(watch=policy.thresholds.watch, high=policy.thresholds.high)
    )


def described(policy: Policy) -> Mapping[str, Any]:
    """Return the policy as ``GET /v1/policy`` tells it."""
    frustration = asdict(person_settings(policy).frustration)
    thresholds = {name: frustration.pop(name) for name in ("watch", "high")}
    return {
        "policy": policy.tag,
        "version": policy.version,
        "sha256": policy.sha256,
        "jurisdiction": policy.jurisdiction,
        "score_roles": list(policy.score_roles),
        "contexts_denied": list(policy.contexts_denied),
        "consent": policy.consent,
        "release": policy.needs_release,
        "retention_s": policy.retention_s,
        "notice": {
            "version": policy.notice.version,
            "sha256": policy.notice.sha256,
            "text": policy.notice.text,
        },
        "thresholds": thresholds,
        "frustration": frustration,
        "text": policy.sentence,
        "sentences": list(explained(policy)),
    }
