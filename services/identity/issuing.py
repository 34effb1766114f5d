"""Makes keys and signs tokens: for an operator without an identity provider of their own.

A folder holds ``jwks.json``, which servers read, and one private key a ``kid`` beside it, readable
by its owner alone. The last key of the set signs. No server needs this folder's private keys.
"""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import api_jws
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from pipeline.errors import UsageError
from services.auth import Unauthorised
from services.identity.claims import Expected, principal
from services.identity.keys import Algorithm, Key, parse
from services.identity.verifier import MAX_TOKEN_BYTES

JWKS: Final = "jwks.json"
_RSA_BITS: Final = 3072
_Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def make(folder: Path, algorithm: Algorithm, *, add: bool) -> str:
    """Make a key and put its public part into the set, last; return its ``kid``.

    With ``add`` the set keeps the keys it has, so that their tokens go on. Raises
    :class:`~pipeline.errors.UsageError`, also without ``add`` when there is a set already.
    """
    there = (folder / JWKS).exists()
    if there and not add:
        raise UsageError(f"{folder} has keys already: --add puts another beside them")
    keys = _set(folder) if there else []
    kid = f"key-{secrets.token_hex(6)}"
    private, public = _pair(algorithm)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(folder / f"{kid}.pem", private, 0o600)
        _put(folder, [*keys, {**public, "kid": kid, "use": "sig", "alg": algorithm}])
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
    return kid


def drop(folder: Path, kid: str) -> None:
    """Take a key out of the set and delete its private part: its tokens end within seconds.

    Raises :class:`~pipeline.errors.UsageError`.
    """
    keys = _set(folder)
    left = [key for key in keys if key.get("kid") != kid]
    if len(left) == len(keys):
        raise UsageError(f"{folder} has no key '{kid}': it has {', '.join(_names(keys))}")
    if not left:
        raise UsageError(f"'{kid}' is the only key: make another first, with --add")
    try:
        _put(folder, left)
        (folder / f"{kid}.pem").unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None


def issue(folder: Path, claims: Mapping[str, Any], now_ms: int) -> str:
    """Return a token with ``claims``, signed by the newest key.

    Raises :class:`~pipeline.errors.UsageError` for a folder without keys and for claims that a
    server would refuse.
    """
    name = _names(_set(folder))[-1]
    key = _parsed(folder)[name]
    try:
        principal(claims, Expected(str(claims.get("aud")), None), now_ms)
    except Unauthorised as error:
        raise UsageError(f"a server would refuse it: {error}") from None
    token = api_jws.encode(
        json.dumps(claims, separators=(",", ":")).encode(),
        _private(folder / f"{name}.pem"),
        algorithm=key.algorithm,
        headers={"typ": "JWT", "kid": name},
    )
    if len(token) > MAX_TOKEN_BYTES:
        raise UsageError(f"the token would be longer than {MAX_TOKEN_BYTES} bytes: give it less")
    return token


def _pair(algorithm: Algorithm) -> tuple[bytes, dict[str, Any]]:
    """Return a fresh private key as PEM, and its public JWK."""
    private: _Private
    if algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
        public = OKPAlgorithm.to_jwk(private.public_key())
    elif algorithm == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
        public = ECAlgorithm.to_jwk(private.public_key())
    else:
        private = rsa.generate_private_key(65537, _RSA_BITS)
        public = RSAAlgorithm.to_jwk(private.public_key())
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem, json.loads(public)


def _set(folder: Path) -> list[dict[str, Any]]:
    """Return the public keys of a folder in their order."""
    _parsed(folder)
    keys: list[dict[str, Any]] = json.loads((folder / JWKS).read_bytes())["keys"]
    return keys


def _parsed(folder: Path) -> Mapping[str, Key]:
    path = folder / JWKS
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): make keys with 'demeanor token keys DIR'"
        ) from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _names(keys: list[dict[str, Any]]) -> list[str]:
    return [str(key.get("kid")) for key in keys]


def _private(path: Path) -> _Private:
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise UsageError(f"{path} is no private key without a password") from None
    if not isinstance(found, _Private):
        raise UsageError(f"{path} is a key of another kind: make one with 'demeanor token keys'")
    return found


def _put(folder: Path, keys: list[dict[str, Any]]) -> None:
    """Replace the set in one step: a server may read it at any moment."""
    draft = folder / f".{JWKS}.{secrets.token_hex(4)}"
    _write(draft, json.dumps({"keys": keys}, indent=2).encode() + b"\n", 0o644)
    draft.replace(folder / JWKS)


def _write(path: Path, data: bytes, mode: int) -> None:
    path.touch(mode, exist_ok=False)
    path.write_bytes(data)
