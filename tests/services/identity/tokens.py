"""An issuer of tokens for tests: makes keys, writes the key set, signs any claims."""

import itertools
import json

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from pipeline.policy.rules import Notice
from services.clock import SystemClock

AUDIENCE = "demeanor"
CONSENT = {
    "notice_version": Notice().version,
    "notice_sha256": Notice().sha256,
    "granted_ms": 1_700_000_000_000,
}
"""Without this claim media waits at the gate of ``eu-strict``."""
_MAKERS = {
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
}


class ManualClock:
    """Both clocks, moved by hand; no media library comes with it."""

    def __init__(self, wall_ms=1_700_000_000_000):
        self.start_ms = wall_ms
        self.now_s = 0.0

    def wall_ms(self):
        return self.start_ms + round(self.now_s * 1000)

    def monotonic_s(self):
        return self.now_s


class Issuer:
    """Keys in ``folder/jwks.json`` (``.jwks``); ``.token(**claims)`` signs with the newest.

    A claim given as None is left out; the rest of a good token is filled in. ``clock`` says what
    time it is for ``exp``.
    """

    def __init__(self, folder, algorithm="EdDSA", *, clock=None):
        self.jwks = folder / "jwks.json"
        self.clock = clock or SystemClock()
        self.private = {}
        self.public = {}
        self.algorithms = {}
        self._numbers = itertools.count(1)
        self.add(algorithm)

    def add(self, algorithm="EdDSA", kid=None):
        """Make another key, sign with it from now on, and write the set; returns its ``kid``."""
        make, kind = _MAKERS[algorithm]
        kid = kid or f"key-{next(self._numbers)}"
        key = make()
        self.private[kid] = key
        self.algorithms[kid] = algorithm
        self.public[kid] = json.loads(kind.to_jwk(key.public_key())) | {"kid": kid}
        self.kid = kid
        self.write()
        return kid

    def remove(self, kid):
        """Take a key out of the set; it can still sign."""
        del self.public[kid]
        self.write()

    def write(self):
        """Write the key set."""
        self.jwks.write_text(json.dumps({"keys": list(self.public.values())}))

    def claims(self, **claims):
        """Return the claims of a good token, changed by what is given."""
        now_s = self.clock.wall_ms() / 1000
        given = {
            "iss": "tests",
            "aud": AUDIENCE,
            "exp": int(now_s) + 3600,
            "jti": f"jti_{next(self._numbers)}",
            "tenant": "acme",
            "scope": "ingest:cam read:* alerts:ack explain",
            "part_role": "customer",
        } | claims
        return {name: value for name, value in given.items() if value is not None}

    def token(self, *, header=None, kid=None, **claims):
        """Sign a token; ``header`` replaces members of its header."""
        kid = kid or self.kid
        return jwt.api_jws.encode(  # below jwt.encode, which would refuse bad claims
            json.dumps(self.claims(**claims)).encode(),
            self.private[kid],
            algorithm=self.algorithms[kid],
            headers={"typ": "JWT", "kid": kid} | (header or {}),
        )

    def bearer(self, **claims):
        """Return the header that carries such a token."""
        return {"Authorization": f"Bearer {self.token(**claims)}"}
