"""The rules of scopes, one by one: each door asks them, so each must hold by itself."""

import pytest

from services.auth import Principal
from services.gateway import access
from tests.services.events import session


def who(read="", *, ingest="", rights="", tenant="acme", role="customer"):
    return Principal(
        tenant,
        role,
        token_id="t",
        read=frozenset(read.split()),
        ingest=frozenset(ingest.split()),
        rights=frozenset(rights.split()),
        expires_s=1e12,
    )


A = session("ses_a", tenant="acme", stream="a")
B = session("ses_b", tenant="acme", stream="b")
RIVAL = session("ses_a", tenant="rival", stream="a")


@pytest.mark.parametrize(
    ("principal", "own", "foreign"),
    [
        (who("*"), True, False),
        (who("a"), True, False),
        (who("ses_a"), True, False),
        (who("b ses_b"), False, False),
        (who("A"), False, False),
        (who(""), False, False),
        (who("", ingest="a"), False, False),
        (who("", rights="admin"), True, False),
        (who("", rights="alerts:ack explain"), False, False),
    ],
)
def test_who_reads(principal, own, foreign):
    assert access.reads(principal, A) is own
    assert access.reads(principal, RIVAL) is foreign


@pytest.mark.parametrize(
    ("principal", "own", "foreign"),
    [
        (who("*"), False, False),
        (who("a ses_a"), False, False),
        (who("", ingest="a"), True, False),
        (who("", ingest="ses_a b"), False, False),
        (who("", rights="admin"), True, False),
        (who("", rights="alerts:ack explain"), False, False),
    ],
)
def test_who_erases(principal, own, foreign):
    assert access.erases(principal, A) is own
    assert access.erases(principal, RIVAL) is foreign


def test_who_may_learn_that_a_session_does_not_exist():
    assert access.may_name(who("*"), "ses_x")
    assert access.may_name(who("", rights="admin"), "ses_x")
    assert access.may_name(who("ses_x"), "ses_x")
    assert not access.may_name(who("ses_y a"), "ses_x")
    assert not access.may_name(who("", ingest="a"), "ses_x")


def test_a_ticket_stands_for_less_than_its_token():
    rich = who("a b", ingest="a", rights="admin explain")
    one = access.narrowed(rich, "ses_a")
    assert (one.read, one.ingest, one.rights) == ({"ses_a"}, set(), set())
    assert access.reads(one, A)
    assert not access.reads(one, B)
    assert access.narrowed(rich, "*").read == {"*"}, "an admin reads all"
    assert access.narrowed(who("a b", ingest="a"), "*").read == {"a", "b"}
    assert (one.tenant, one.token_id, one.expires_s) == ("acme", "t", 1e12)


@pytest.mark.parametrize(
    ("old", "new", "in_use", "follows_all", "fits"),
    [
        (who("*"), who("*"), [A, B], True, True),
        (who("*"), who("", rights="admin"), [A, B], True, True),
        (who("*"), who("a"), [A], False, True),
        (who("*"), who("a b"), [A, B], True, False),
        (who("a b new"), who("a b"), [A, B], True, False),
        (who("a b new"), who("a b"), [A, B], False, True),
        (who("a b"), who("a b new"), [A, B], True, True),
        (who("a b"), who("a"), [A, B], False, False),
        (who("a b"), who("ses_a"), [A], False, True),
        (who("a"), who(""), [], False, True),
        (who("*"), who("*", tenant="rival"), [], False, False),
        (who("*"), who("*", role="agent"), [], False, False),
    ],
)
def test_what_may_replace_a_token(old, new, in_use, follows_all, fits):
    fault = access.successor_fault(old, new, in_use, follows_all=follows_all)
    assert (fault is None) is fits
