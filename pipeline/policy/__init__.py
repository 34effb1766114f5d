"""Who may be scored at all: rules, consent, and the gate in front of every participant's media.

``rules`` decide from what a token says, ``document`` reads and explains ``policy.toml``, ``gate``
keeps consent and the kill switch while a session lives. All pure; nothing in here is legal advice.
"""

from pipeline.policy.gate import Consent, Gate
from pipeline.policy.rules import (
    CONTEXTS,
    JURISDICTIONS,
    NEVER_SCORED,
    ROLES,
    Case,
    Decision,
    Notice,
    Policy,
    Record,
    Thresholds,
    WhyNot,
)

__all__ = [
    "CONTEXTS",
    "JURISDICTIONS",
    "NEVER_SCORED",
    "ROLES",
    "Case",
    "Consent",
    "Decision",
    "Gate",
    "Notice",
    "Policy",
    "Record",
    "Thresholds",
    "WhyNot",
]
