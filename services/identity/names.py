"""Names that stand in events, logs and addresses: short, plain, and no way to reach a person."""

import re
from typing import Final

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Tenants, streams and sessions."""
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PHONE: Final = re.compile(r"\+?[\d ()./-]+", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_PHONE_DIGITS: Final = range(7, 16)
"""Digits of a telephone number (ITU-T E.164: at most 15)."""


def like_a_person(name: str) -> bool:
    """Tell whether ``name`` looks like an e-mail address or a telephone number."""
    if _EMAIL.fullmatch(name):
        return True
    digits = sum(character.isdigit() for character in name)
    return (
        digits in _PHONE_DIGITS
        and _PHONE.fullmatch(name) is not None
        and _DATE.fullmatch(name) is None
    )
