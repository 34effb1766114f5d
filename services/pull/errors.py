"""Why something could not be pulled."""

from pipeline.errors import DemeanorError


class PullFailed(DemeanorError):
    """A file could not be fetched, or is not the one that was promised (exit 1)."""


class Missing(PullFailed):
    """The server has no such file."""


class Passing(PullFailed):
    """It may work in a moment."""
