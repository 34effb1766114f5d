"""ULIDs: sortable 128-bit names, Crockford base 32 (github.com/ulid/spec).

Time and entropy are arguments, so the core stays free of clocks and of chance.
"""

from hashlib import blake2b

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ENTROPY_BYTES = 10


def ulid(wall_ms: int, entropy: bytes) -> str:
    """Return 26 characters: 48 bits of unix time in ms, then 80 bits of ``entropy``."""
    value = (wall_ms & (1 << 48) - 1) << 80 | int.from_bytes(entropy[:ENTROPY_BYTES], "big")
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def derived(prefix: str, wall_ms: int, *parts: str | int) -> str:
    """Return ``prefix`` + ULID whose entropy is a digest of ``parts``: the same on every replay."""
    digest = blake2b("\0".join(map(str, parts)).encode(), digest_size=ENTROPY_BYTES).digest()
    return prefix + ulid(wall_ms, digest)
