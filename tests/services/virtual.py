"""An event loop whose time passes only where nothing is left to do: fast, and always the same."""

import asyncio
import selectors


class _Skipping(selectors.SelectSelector):
    """Looks at its files once; then the time the loop would have waited has passed."""

    loop: "VirtualLoop"

    def select(self, timeout=None):
        found = super().select(0)
        if not found:
            assert timeout is not None, "everything waits and no timer is set"
            self.loop.now_s += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """Both clocks of :mod:`services.clock` and an event loop, at once; ``now_s`` is its time."""

    def __init__(self, wall_ms=1_700_000_000_000):
        selector = _Skipping()
        selector.loop = self
        self.now_s = 0.0
        self._start_ms = wall_ms
        super().__init__(selector)

    def time(self):
        return self.now_s

    def wall_ms(self):
        return self._start_ms + round(self.now_s * 1000)

    def monotonic_s(self):
        return self.now_s

    def pass_time(self, seconds):
        """Let everything run for this long."""
        self.run_until_complete(asyncio.sleep(seconds))

    def end(self):
        """Close the loop; fails when a task is left."""
        left = asyncio.all_tasks(self)
        self.close()
        assert not left, f"tasks are left: {left}"
