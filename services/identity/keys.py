"""Public keys of tokens: a JWK Set (RFC 7517) becomes ``kid → key``, or is refused as a whole.

Each key verifies with exactly one algorithm, which follows from the key's own type, so a token
cannot choose how it is checked. Keys of other types are left out: an issuer's set often holds some.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from pipeline.errors import UsageError

Algorithm = Literal["EdDSA", "ES256", "RS256"]
MAX_BYTES: Final = 64 * 1024
MAX_KEYS: Final = 64
RSA_BITS: Final = (2048, 8192)
_KID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_ALGORITHMS: Final[dict[tuple[object, object], Algorithm]] = {
    ("OKP", "Ed25519"): "EdDSA",
    ("EC", "P-256"): "ES256",
    ("RSA", None): "RS256",
}


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One public key; equal to itself alone."""

    kid: str
    algorithm: Algorithm
    jwk: PyJWK
    thumbprint: tuple[str, ...]
    """The members that make the key what it is: the same after the set was read again."""


KeySet = Mapping[str, Key]
"""Keys by their ``kid``."""


def parse(data: bytes, known: KeySet | None = None) -> KeySet:
    """Read a JWK Set; a key that is in ``known`` already stays the same object.

    Raises :class:`~pipeline.errors.UsageError` for what is no set, holds a private or a weak key,
    or has no key to check tokens with.
    """
    if len(data) > MAX_BYTES:
        raise UsageError(f"the key set is longer than {MAX_BYTES} bytes")
    found: dict[str, Key] = {}
    for jwk in _members(data):
        key = _key(jwk)
        if key is None:
            continue
        if key.kid in found:
            raise UsageError(f"two keys of the set have the 'kid' {key.kid!r}: give each its own")
        old = (known or {}).get(key.kid)
        found[key.kid] = old if old is not None and old.thumbprint == key.thumbprint else key
    if not found:
        raise UsageError(
            "the key set has no key that can check tokens: Ed25519, P-256 or RSA of at least "
            f"{RSA_BITS[0]} bits, with a 'kid'; 'demeanor token keys DIR' makes one"
        )
    return found


def _members(data: bytes) -> list[dict[str, Any]]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError("the key set is not JSON: it must be a JWK Set (RFC 7517)") from None
    keys = told.get("keys") if isinstance(told, dict) else None
    if not isinstance(keys, list) or not all(isinstance(each, dict) for each in keys):
        raise UsageError("the key set must be a JWK Set (RFC 7517): an object with a list 'keys'")
    if len(keys) > MAX_KEYS:
        raise UsageError(f"the key set has more than {MAX_KEYS} keys")
    if any(_PRIVATE & each.keys() for each in keys):
        raise UsageError(
            "the key set holds a private or a secret key: give this server public keys only, "
            "and replace that key, for it may have been read"
        )
    return keys


def _key(jwk: dict[str, Any]) -> Key | None:
    """Return the key, or None for one that is not for checking tokens here."""
    kind = jwk.get("kty"), jwk.get("crv")
    algorithm = _ALGORITHMS.get(kind) if _plain(kind) else None
    if algorithm is None or jwk.get("use", "sig") != "sig":
        return None
    if jwk.get("alg", algorithm) != algorithm:
        return None
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not _KID.fullmatch(kid):
        raise UsageError("each key of the set needs a 'kid' of 1 to 128 printable characters")
    try:
        read = PyJWK(jwk, algorithm=algorithm)
    except (PyJWTError, ValueError, TypeError, KeyError):
        raise UsageError(f"the key {kid!r} of the set cannot be read") from None
    if isinstance(read.key, RSAPublicKey) and not _strong(read.key):
        raise UsageError(
            f"the key {kid!r} has {read.key.key_size} bits: an RSA key needs "
            f"{RSA_BITS[0]} to {RSA_BITS[1]}"
        )
    members = tuple(str(jwk.get(name)) for name in ("kty", "crv", "x", "y", "n", "e"))
    return Key(kid, algorithm, read, members)


def _plain(kind: tuple[object, object]) -> bool:
    return isinstance(kind[0], str) and isinstance(kind[1], str | None)


def _strong(key: RSAPublicKey) -> bool:
    return RSA_BITS[0] <= key.key_size <= RSA_BITS[1]
