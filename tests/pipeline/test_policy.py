"""Only roles that the policy names are scored; everything else is refused with a sentence."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.policy import (
    CONTEXTS,
    JURISDICTIONS,
    NEVER_SCORED,
    ROLES,
    Case,
    Notice,
    Policy,
)
from pipeline.policy.rules import EU_STRICT_CONTEXTS, EU_STRICT_ROLES

DEFAULT = ("customer", "self")


@dataclass(frozen=True)
class Consent:
    notice_version: str = Notice().version
    notice_sha256: str = Notice().sha256
    release: bool = False


def case(role, **changes):
    return Case(role, **{"consent": Consent()} | changes)


@pytest.mark.parametrize("role", [role for role in ROLES if role != "unknown"])
def test_eu_strict_scores_customer_and_self_only(role):
    decision = Policy(DEFAULT).decide(case(role))
    assert decision.admitted
    assert decision.scored == (role in DEFAULT)
    assert decision.why_not == (None if role in DEFAULT else "policy_role")
    assert f"'{role}'" in decision.sentence


@given(st.text())
def test_a_role_nobody_knows_is_refused(role):
    if role not in ROLES:
        decision = Policy(ROLES[:2]).decide(case(role))
        assert not decision.scored
        assert not decision.admitted
        assert decision.why_not == "policy_unknown_role"
        assert "'customer'" in decision.sentence


def test_the_role_unknown_is_refused_too():
    decision = Policy().decide(case("unknown"))
    assert (decision.admitted, decision.why_not) == (False, "policy_unknown_role")
    assert "part_role" in decision.sentence


def test_a_narrower_list_scores_fewer():
    policy = Policy(["self"])
    assert policy.decide(case("self")).scored
    assert not policy.decide(case("customer")).scored
    assert "'self' only" in policy.decide(case("customer")).sentence


@pytest.mark.parametrize("role", sorted(set(ROLES) - EU_STRICT_ROLES))
def test_eu_strict_cannot_be_widened(role):
    with pytest.raises(UsageError, match=f"'{role}'.*remove it from score_roles"):
        Policy(["customer", role])


@pytest.mark.parametrize("role", sorted(set(ROLES) - NEVER_SCORED))
def test_custom_scores_what_its_operator_names(role):
    policy = Policy([role], "custom")
    assert policy.decide(case(role)).scored
    assert policy.sentence == f"custom: scoring roles {role}"


@pytest.mark.parametrize("role", sorted(NEVER_SCORED))
def test_no_jurisdiction_scores_bots_and_unknowns(role):
    with pytest.raises(UsageError, match="never scored"):
        Policy([role], "custom")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"score_roles": ["boss"]}, "unknown role 'boss'"),
        ({"score_roles": []}, "names no role"),
        ({"jurisdiction": "moon"}, "unknown jurisdiction 'moon'"),
        ({"contexts_denied": ["party"]}, "unknown context 'party'"),
        ({"contexts_denied": ["education"]}, "always denies 'workplace_peer', 'recruitment'"),
        ({"jurisdiction": "us-il", "consent": "not_required"}, "us-il wants a written release"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        Policy(**arguments)


def test_the_policy_says_itself_in_one_line():
    policy = Policy(["customer", "self", "customer"])
    assert policy.score_roles == DEFAULT
    assert policy.sentence == "eu-strict: scoring roles customer, self"


@pytest.mark.parametrize("context", CONTEXTS)
def test_eu_strict_refuses_colleagues_applicants_and_pupils(context):
    decision = Policy().decide(case("customer", context=context))
    assert decision.admitted == (context not in EU_STRICT_CONTEXTS)
    assert decision.scored == decision.admitted
    if not decision.admitted:
        assert decision.why_not == "policy_context"
        assert f"'{context}'" in decision.sentence


@pytest.mark.parametrize("jurisdiction", JURISDICTIONS)
def test_a_shared_track_is_the_operators_own_doing(jurisdiction):
    decision = Policy(jurisdiction=jurisdiction).decide(
        case("customer", mixed=True, consent=Consent(release=True))
    )
    assert decision.admitted == (jurisdiction == "custom")
    assert decision.why_not == (None if decision.admitted else "policy_mixed")


@pytest.mark.parametrize(
    ("named", "admitted"),
    [(None, True), ("eu-strict", True), (Policy().tag, True), ("us-il", False), ("eu", False)],
)
def test_a_token_for_another_policy_is_refused(named, admitted):
    decision = Policy().decide(case("customer", policy=named))
    assert decision.admitted == admitted
    assert decision.why_not == (None if admitted else "policy_other")


@pytest.mark.parametrize(
    "record", [None, Consent(notice_version="0"), Consent(notice_sha256="0" * 64)]
)
def test_without_consent_to_this_very_notice_it_waits(record):
    decision = Policy().decide(Case("customer", consent=record))
    assert (decision.admitted, decision.scored, decision.asks) == (True, False, True)
    assert decision.why_not == "policy_consent"


def test_where_nobody_is_asked_no_record_is_needed():
    assert Policy(jurisdiction="custom", consent="not_required").decide(Case("customer")).scored


def test_illinois_wants_a_release():
    policy = Policy(jurisdiction="us-il")
    waiting = policy.decide(case("customer"))
    assert (waiting.why_not, waiting.asks, waiting.scored) == ("policy_release", True, False)
    assert policy.decide(case("customer", consent=Consent(release=True))).scored


def test_the_person_at_their_own_machine_has_seen_the_notice():
    assert Policy().decide(Case("self", own=True)).scored
    assert not Policy().decide(Case("agent", own=True)).scored


@given(
    st.sampled_from(JURISDICTIONS),
    st.sampled_from([*ROLES, "boss"]),
    st.sampled_from([None, *CONTEXTS]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_every_decision_is_whole(jurisdiction, role, context, mixed, agreed, own):
    consent = Consent(release=True) if agreed else None
    decision = Policy(jurisdiction=jurisdiction).decide(
        Case(role, context=context, mixed=mixed, consent=consent, own=own)
    )
    assert decision.scored == (decision.why_not is None)
    assert decision.admitted or not decision.scored
    assert not (decision.asks and (decision.scored or not decision.admitted))
    assert decision.sentence.endswith(".")
    if decision.scored:
        assert role in DEFAULT
        assert agreed or own
        assert not mixed or jurisdiction == "custom"


def test_the_hash_changes_with_anything_that_matters_and_with_nothing_else():
    usual = Policy()
    assert usual.tag == f"eu-strict@{usual.sha256[:8]}"
    assert Policy(("self", "customer")).tag == usual.tag
    others = [
        Policy(["self"]),
        Policy(version="2"),
        Policy(retention_s=0),
        Policy(consent="not_required"),
        Policy(notice=Notice("2")),
        Policy(notice=Notice(text="Another text.")),
        Policy(contexts_denied=[*usual.contexts_denied, "chatbot"]),
    ]
    assert len({policy.sha256 for policy in [usual, *others]}) == len(others) + 1
