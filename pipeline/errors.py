"""Every error the product raises on purpose.

::

    DemeanorError
    ├── SpecError                a model file contradicts its contract
    ├── ModelError               a model file cannot be used
    │   ├── ModelRefused         damaged, unknown, or not what the manifest names (exit 78)
    │   ├── ProviderMissing      asked for one execution provider, got another
    │   └── ScoreError           a model answered NaN, infinity or a wrong shape
    ├── MediaError               bytes that are not the media they claim to be
    ├── PolicyRefused            role or jurisdiction; never retried
    ├── BusError                 the result bus refused or is away (`retryable` tells which)
    ├── UsageError               a setting, argument or address that cannot work (exit 2)
    └── ParityError              exporters: output name, largest difference, tolerance

The base is never raised. Each class is named by what failed; the message is one sentence for the
person who can mend it and says what to do. Edges map classes, never message texts.
"""


class DemeanorError(Exception):
    """Base of all errors raised on purpose; never raised itself."""


class SpecError(DemeanorError):
    """A model file contradicts its own contract or lacks one."""


class ModelError(DemeanorError):
    """A model cannot be used."""


class ModelRefused(ModelError):
    """A model file is damaged, unknown, or not the one the manifest names."""


class ProviderMissing(ModelError):
    """One execution provider was asked for and another would have run."""

    def __init__(self, wanted: str, got: tuple[str, ...]) -> None:
        self.wanted = wanted
        self.got = got
        super().__init__(
            f"asked for {wanted}, but ONNX Runtime offers {', '.join(got) or 'nothing'}: "
            "install 'demeanor[gpu]' with a CUDA device present, or choose --device cpu"
        )


class ScoreError(ModelError):
    """A model answered with NaN, infinity or the wrong shape."""


class MediaError(DemeanorError):
    """Bytes are not the media they claim to be, or hold nothing that can be scored."""


class PolicyRefused(DemeanorError):
    """The policy forbids scoring this participant; a retry cannot help."""


class BusError(DemeanorError):
    """The result bus refused a write or cannot be reached."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        self.retryable = retryable
        super().__init__(message)


class UsageError(DemeanorError):
    """A setting, an argument or an address that cannot work."""


class ParityError(DemeanorError):
    """An exported graph does not compute what its source computes."""

    def __init__(self, output: str, difference: float, tolerance: float) -> None:
        self.output = output
        self.difference = difference
        self.tolerance = tolerance
        super().__init__(
            f"{output}: largest difference {difference:.3g} is above the tolerance {tolerance:.3g}"
        )
