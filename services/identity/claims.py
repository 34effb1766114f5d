"""What a checked token says, as a :class:`~services.auth.Principal`.

Claims: ``iss`` (when the server wants one), ``aud``, ``exp``, ``jti``, ``tenant``, ``scope``
(words apart by blanks) and, to publish, ``part_role``; further ``nbf``, ``sub``, ``policy``,
``context``, ``mixed``, ``takeover`` and ``consent``. Unknown claims are ignored, and so are scopes
of other services; a scope that is one of ours but malformed refuses the token, because its holder
would otherwise wonder why it does so little.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args

from pipeline.events import Role
from services.auth import DEV_TOKEN, EVERYTHING, Consent, Context, Principal, Unauthorised
from services.identity.names import NAME, like_a_person

LEEWAY_S: Final = 5
"""Clocks of issuer and server may differ by so much."""
MAX_LIFE_S: Final = 24 * 3600
"""A token must expire within this."""
_JTI: Final = re.compile(r"[A-Za-z0-9._:~-]{1,128}")
_SUBJECT: Final = re.compile(r"[\x21-\x7e]{1,128}")
_VERSION: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_RIGHTS: Final = frozenset({"alerts:ack", "explain", "admin"})
_ROLES: Final = frozenset(get_args(Role))
_CONTEXTS: Final = frozenset(get_args(Context))
_LARGEST: Final = 2**53
_Found = TypeVar("_Found")
Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Expected:
    """What this server wants of every token."""

    audience: str
    issuer: str | None
    """None: any."""


def principal(claims: Claims, expected: Expected, now_ms: int) -> Principal:
    """Return who the token stands for.

    Raises :class:`~services.auth.Unauthorised` with one sentence that says what the issuer should
    write; it never quotes what the token says.
    """
    expires_s = _in_time(claims, now_ms)
    _for_us(claims, expected)
    ingest, read, rights = _scopes(_text(claims, "scope"))
    token_id = _match(
        _text(claims, "jti"), _JTI, "jti", "1 to 128 characters A-Z a-z 0-9 . _ : ~ -"
    )
    if token_id == DEV_TOKEN:
        raise Unauthorised(
            f"'{DEV_TOKEN}' names another token here: issue this one with its own jti"
        )
    return Principal(
        tenant=_name(_text(claims, "tenant"), "tenant"),
        role=_role(claims, needed=bool(ingest)),
        token_id=token_id,
        subject=_subject(claims) or token_id,
        ingest=ingest,
        read=read,
        rights=rights,
        expires_s=expires_s,
        takeover=_flag(claims, "takeover"),
        context=_context(claims),
        mixed=_flag(claims, "mixed"),
        consent=_consent(claims),
        policy=_policy(claims),
    )


def check_time(expires_s: float | None, not_before_s: float | None, now_ms: int) -> None:
    """Raise :class:`~services.auth.Unauthorised` before and after a token's time."""
    if expires_s is not None and now_ms >= (expires_s + LEEWAY_S) * 1000:
        raise Unauthorised("this token has expired: get a new one")
    if not_before_s is not None and now_ms < (not_before_s - LEEWAY_S) * 1000:
        raise Unauthorised(
            "this token is not valid yet: wait, or set the clock of the machine that issued it"
        )


def not_before(claims: Claims) -> float | None:
    """Return claim ``nbf`` in unix seconds."""
    return _seconds(claims, "nbf") if "nbf" in claims else None


def _in_time(claims: Claims, now_ms: int) -> float:
    expires_s = _seconds(claims, "exp")
    check_time(expires_s, not_before(claims), now_ms)
    if expires_s * 1000 > now_ms + (MAX_LIFE_S + LEEWAY_S) * 1000:
        raise Unauthorised(
            f"this token lives too long: issue it for at most {MAX_LIFE_S // 3600} hours"
        )
    return expires_s


def _for_us(claims: Claims, expected: Expected) -> None:
    told = claims.get("aud")
    audiences = told if isinstance(told, list) else [told]
    if expected.audience not in audiences:
        raise Unauthorised(
            f"this token is for somebody else: issue it with 'aud' = '{expected.audience}'"
        )
    if expected.issuer is not None and claims.get("iss") != expected.issuer:
        raise Unauthorised(f"this token is not from '{expected.issuer}' (claim 'iss')")


def _scopes(text: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Return streams to publish, sessions to read, and rights."""
    ingest: set[str] = set()
    read: set[str] = set()
    rights: set[str] = set()
    for word in text.split(" "):
        verb, colon, target = word.partition(":")
        if word in _RIGHTS:
            rights.add(word)
        elif verb == "ingest" and colon:
            ingest.add(_name(target, "stream of a scope 'ingest:STREAM'"))
        elif verb == "read" and colon:
            every = target == EVERYTHING
            read.add(target if every else _name(target, "scope 'read:SESSION' or 'read:*'"))
    return frozenset(ingest), frozenset(read), frozenset(rights)


def _role(claims: Claims, *, needed: bool) -> Role:
    if "part_role" not in claims and not needed:
        return "unknown"
    return _one_of(claims.get("part_role"), _ROLES, "part_role")


def _subject(claims: Claims) -> str | None:
    if "sub" not in claims:
        return None
    subject = _match(_text(claims, "sub"), _SUBJECT, "sub", "1 to 128 printable characters")
    if like_a_person(subject):
        raise Unauthorised(
            "'sub' of this token looks like an e-mail address or a phone number: issue it with a "
            "pseudonym"
        )
    return subject


def _context(claims: Claims) -> Context | None:
    return _one_of(claims["context"], _CONTEXTS, "context") if "context" in claims else None


def _policy(claims: Claims) -> str | None:
    return _name(_text(claims, "policy"), "policy") if "policy" in claims else None


def _consent(claims: Claims) -> Consent | None:
    told = claims.get("consent")
    if told is None:
        return None
    if not isinstance(told, dict):
        raise Unauthorised("'consent' of this token must be an object")
    notice = _match(
        _text(told, "notice_version"), _VERSION, "notice_version", "1 to 64 of A-Z a-z 0-9 . _ -"
    )
    digest = _match(_text(told, "notice_sha256"), _SHA256, "notice_sha256", "64 hex digits")
    granted = told.get("granted_ms")
    if type(granted) is not int or not 0 < granted < _LARGEST:
        raise Unauthorised("'granted_ms' of this token's consent must be unix milliseconds")
    return Consent(notice, digest, granted, release=_flag(told, "release"))


def _text(claims: Claims, name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise Unauthorised(f"this token lacks the claim '{name}': issue it with one")
    return value


def _seconds(claims: Claims, name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST:
        raise Unauthorised(f"this token lacks the claim '{name}', in unix seconds")
    return float(value)


def _flag(claims: Claims, name: str) -> bool:
    value = claims.get(name, False)
    if not isinstance(value, bool):
        raise Unauthorised(f"the claim '{name}' of this token must be true or false")
    return value


def _match(text: str, pattern: re.Pattern[str], name: str, rule: str) -> str:
    if not pattern.fullmatch(text):
        raise Unauthorised(f"the claim '{name}' of this token must have {rule}")
    return text


def _name(text: str, what: str) -> str:
    if not NAME.fullmatch(text) or like_a_person(text):
        raise Unauthorised(
            f"the {what} in this token must have 1 to 64 characters A-Z a-z 0-9 _ - and be no "
            "phone number"
        )
    return text


def _one_of(value: object, known: frozenset[_Found], name: str) -> _Found:
    found = next((each for each in known if each == value), None)
    if found is None:
        allowed = ", ".join(sorted(map(str, known)))
        raise Unauthorised(f"the claim '{name}' of this token must be one of: {allowed}")
    return found
