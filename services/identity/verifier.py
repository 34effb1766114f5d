"""Checks JSON Web Tokens: bounded before they are parsed, checked once, remembered for a while.

What is remembered is what a token said, by its SHA-256; time, revocation and the key it was signed
with are looked at each time, so nothing outlives them. Only good tokens are remembered: a bad one
costs one signature check at most, and most cost less.
"""

import binascii
import hashlib
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import jwt
from jwt.exceptions import PyJWTError
from jwt.types import Options

from services.auth import Principal, Unauthorised
from services.clock import Clock
from services.identity.claims import Expected, check_time, not_before, principal
from services.identity.keys import Key
from services.identity.revocation import Revocations

MAX_TOKEN_BYTES: Final = 3000
"""FFmpeg's WHIP muxer sends no longer one either."""
REMEMBERED: Final = 1024
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_NO_TOKEN: Final = "this is no token of this server: get one from whoever runs it"  # noqa: S105 - a sentence, no secret
_SIGNATURE_ONLY: Final[Options] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
"""The rest is for :mod:`services.identity.claims`, which is given the time."""


class Keys(Protocol):
    """Where public keys come from (:mod:`services.identity.following`)."""

    def find(self, kid: str) -> Key | None:
        """Return the key of that name as of now; without I/O."""

    def missed(self) -> None:
        """Somebody named a key that is not there: perhaps the set changed."""

    def statistics(self) -> dict[str, float]:
        """Return gauges and counters."""


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    key: Key
    not_before_s: float | None


@dataclass(slots=True)
class _Counters:
    accepted: int = 0
    refused: int = 0
    hits: int = 0
    evicted: int = 0


@dataclass(slots=True)
class JwtVerifier:
    """A :class:`~services.auth.Verifier` for signed tokens."""

    keys: Keys
    expected: Expected
    clock: Clock
    revocations: Revocations | None = None
    """None: this process knows of no revocations."""
    _known: OrderedDict[bytes, _Known] = field(default_factory=OrderedDict)
    _counters: _Counters = field(default_factory=_Counters)

    def verify(self, token: str) -> Principal:
        """Return who ``token`` stands for. Raises :class:`Unauthorised` with one sentence."""
        try:
            found = self._verify(token)
        except Unauthorised:
            self._counters.refused += 1
            raise
        self._counters.accepted += 1
        return found

    def revoked(self, principal: Principal) -> bool:
        """Tell whether the token was revoked since it was checked."""
        return self.revocations is not None and self.revocations.stands(
            principal.tenant, principal.token_id
        )

    def statistics(self) -> dict[str, float]:
        """Return gauges and counters."""
        return {
            "accepted_tokens_total": self._counters.accepted,
            "refused_tokens_total": self._counters.refused,
            "remembered_tokens": len(self._known),
            "remembered_hits_total": self._counters.hits,
            "remembered_evicted_total": self._counters.evicted,
            **self.keys.statistics(),
        }

    def _verify(self, token: str) -> Principal:
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorised(f"this token is longer than {MAX_TOKEN_BYTES} bytes")
        if not _SHAPE.fullmatch(token):
            raise Unauthorised(_NO_TOKEN)
        name = hashlib.sha256(token.encode()).digest()
        known = self._remembered(name)
        if known is None:
            known = self._checked(token)
            self._remember(name, known)
        if self.revoked(known.principal):
            raise Unauthorised("this token was revoked: get a new one")
        return known.principal

    def _remembered(self, name: bytes) -> _Known | None:
        known = self._known.get(name)
        if known is None:
            return None
        try:
            check_time(known.principal.expires_s, known.not_before_s, self.clock.wall_ms())
        except Unauthorised:
            del self._known[name]
            raise
        if self.keys.find(known.key.kid) is not known.key:
            del self._known[name]
            return None
        self._known.move_to_end(name)
        self._counters.hits += 1
        return known

    def _remember(self, name: bytes, known: _Known) -> None:
        self._known[name] = known
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
            self._counters.evicted += 1

    def _checked(self, token: str) -> _Known:
        header = _header(token)
        key = self._key(header)
        try:
            claims = jwt.decode(token, key.jwk, algorithms=[key.algorithm], options=_SIGNATURE_ONLY)
        except (PyJWTError, ValueError, RecursionError):
            raise Unauthorised(
                "the signature of this token is not right: get a new one from whoever issued it"
            ) from None
        found = principal(claims, self.expected, self.clock.wall_ms())
        return _Known(found, key, not_before(claims))

    def _key(self, header: dict[str, Any]) -> Key:
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise Unauthorised("this token names no key: issue it with 'kid' in its header")
        key = self.keys.find(kid)
        if key is None:
            self.keys.missed()
            raise Unauthorised(
                "this token was signed with a key that is not known here, or no longer: "
                "get a new one"
            )
        if header.get("alg") != key.algorithm:
            raise Unauthorised(f"a token of this key must be signed with {key.algorithm}")
        return key


def _header(token: str) -> dict[str, Any]:
    """Return a token's header; each part must be base64url in its one canonical form."""
    parts = [_decoded(part) for part in token.split(".")]
    try:
        header = json.loads(parts[0])
    except (ValueError, RecursionError):
        raise Unauthorised(_NO_TOKEN) from None
    if not isinstance(header, dict):
        raise Unauthorised(_NO_TOKEN)
    if "crit" in header or "b64" in header:
        raise Unauthorised("this token demands an extension of JWT: issue one without 'crit'")
    return header


def _decoded(part: str) -> bytes:
    try:
        data = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise Unauthorised(_NO_TOKEN) from None
    if urlsafe_b64encode(data).rstrip(b"=") != part.encode():
        raise Unauthorised(_NO_TOKEN)  # two spellings of one token would be two tokens
    return data
