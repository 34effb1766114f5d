"""Waiting times between attempts: full jitter, so that many peers do not knock together."""

import random


class Backoff:
    """Delays that grow from ``first_s`` to ``cap_s``, each drawn from [half, whole]."""

    def __init__(self, first_s: float = 0.05, cap_s: float = 1.0) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._failures = 0

    def reset(self) -> None:
        """Start again from ``first_s``: something worked."""
        self._failures = 0

    def next_s(self) -> float:
        """Return how long to wait before the next attempt."""
        whole = min(self._cap_s, self._first_s * 2.0**self._failures)
        self._failures = min(self._failures + 1, 30)
        return random.uniform(whole / 2, whole)  # noqa: S311 - spreads load, guards nothing
