"""How much of something may come in a second. Pure: time is an argument."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """Takes ``per_s`` units a second, and up to ``burst`` at once after a pause."""

    per_s: float
    burst: float
    _left: float = field(init=False)
    _at_s: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._left = self.burst

    def take(self, now_s: float, amount: float = 1.0) -> bool:
        """Take ``amount`` units if they are there; otherwise nothing is taken."""
        self._refill(now_s)
        if self._left < amount:
            return False
        self._left -= amount
        return True

    def wait_s(self, now_s: float, amount: float = 1.0) -> float:
        """Return in how many seconds ``amount`` units will be there; 0 when they are."""
        self._refill(now_s)
        return max(0.0, amount - self._left) / self.per_s

    def full(self, now_s: float) -> bool:
        """Tell whether nothing was taken for so long that a new bucket would be the same."""
        self._refill(now_s)
        return self._left >= self.burst

    def _refill(self, now_s: float) -> None:
        if self._at_s is not None and now_s > self._at_s:
            self._left = min(self.burst, self._left + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s if self._at_s is None else max(self._at_s, now_s)
