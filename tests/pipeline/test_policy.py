"""Only roles that the policy names are scored; everything else is refused with a sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.policy import EU_STRICT_ROLES, NEVER_SCORED, ROLES, Policy

DEFAULT = ("customer", "self")


@pytest.mark.parametrize("role", ROLES)
def test_eu_strict_scores_customer_and_self_only(role):
    decision = Policy(DEFAULT).decide(role)
    assert decision.scored == (role in DEFAULT)
    assert decision.why_not == (None if role in DEFAULT else "policy_role")
    assert f"'{role}'" in decision.sentence


@given(st.text())
def test_a_role_nobody_knows_is_refused(role):
    if role not in ROLES:
        decision = Policy(ROLES[:2]).decide(role)
        assert not decision.scored
        assert decision.why_not == "policy_unknown_role"
        assert "'customer'" in decision.sentence


def test_a_narrower_list_scores_fewer():
    policy = Policy(["self"])
    assert policy.decide("self").scored
    assert not policy.decide("customer").scored
    assert "'self' only" in policy.decide("customer").sentence


@pytest.mark.parametrize("role", sorted(set(ROLES) - EU_STRICT_ROLES))
def test_eu_strict_cannot_be_widened(role):
    with pytest.raises(UsageError, match=f"'{role}'.*remove it from score_roles"):
        Policy(["customer", role])


@pytest.mark.parametrize("role", sorted(set(ROLES) - NEVER_SCORED))
def test_custom_scores_what_its_operator_names(role):
    policy = Policy([role], "custom")
    assert policy.decide(role).scored
    assert policy.sentence == f"custom: scoring roles {role}"


@pytest.mark.parametrize("role", sorted(NEVER_SCORED))
def test_no_jurisdiction_scores_bots_and_unknowns(role):
    with pytest.raises(UsageError, match="never scored"):
        Policy([role], "custom")


@pytest.mark.parametrize(
    ("roles", "jurisdiction", "words"),
    [
        (["boss"], "eu-strict", "unknown role 'boss'"),
        ([], "eu-strict", "names no role"),
        (DEFAULT, "moon", "unknown jurisdiction 'moon'"),
    ],
)
def test_settings_that_cannot_work_are_refused(roles, jurisdiction, words):
    with pytest.raises(UsageError, match=words):
        Policy(roles, jurisdiction)


def test_the_policy_says_itself_in_one_line():
    policy = Policy(["customer", "self", "customer"])
    assert policy.score_roles == DEFAULT
    assert policy.sentence == "eu-strict: scoring roles customer, self"
