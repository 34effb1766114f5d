"""The public weights that the explain tier is made of: where they are published and for what use.

Facts about other people's work, as far as they were known when this version was made. No digest is
known here, so none is claimed: whoever pulls brings the digests or accepts what comes first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pipeline.errors import UsageError

POLICY_R1_OMNI: Final = (
    "R1-Omni's usage policy: no inferring of emotions of natural persons at work or in education "
    "unless the law permits it; no biometric identification or surveillance without consent; no "
    "law enforcement unless explicitly permitted; no medical use without professionals; human "
    "review of high-risk decisions; users of age or with their parents' consent. The EU AI Act, "
    "Art. 5(1)(f), prohibits emotion inference at work and in education, save for medical and "
    "safety reasons."
)
POLICY_NONE: Final = "No usage policy beside the licence is known here; read the model card."
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
"""Present instead of :data:`WEIGHTS` where these are split; names the parts."""
_TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class Public:
    """One publication."""

    name: str
    """Name of the folder, which is how a checkpoint finds its towers beside it."""
    repository: str
    licence: str
    policy: str
    purpose: str
    needed: tuple[str, ...]
    wished: tuple[str, ...] = ()
    """Taken where they exist."""
    weights: bool = True
    """Whether :data:`WEIGHTS` is wanted, or the parts that :data:`INDEX` names."""
    revision: str | None = None
    """The commit that is meant, where one is known."""


def _checkpoint(name: str, repository: str, licence: str) -> Public:
    purpose = "a checkpoint for 'python -m exporters r1omni'"
    needed = ("config.json",)
    return Public(name, repository, licence, POLICY_R1_OMNI, purpose, needed, _TOKENIZER)


_UNCLEAR: Final = "no licence is stated; ask its authors before you use it"
_ALL: Final = (
    _checkpoint("R1-Omni-0.5B", "StarJiaxing/R1-Omni-0.5B", "Apache-2.0, by its model card"),
    _checkpoint(
        "HumanOmni-0.5B",
        "StarJiaxing/HumanOmni-0.5B",
        "unclear: a proposed model card says CC-BY-NC-4.0 (no commercial use)",
    ),
    _checkpoint("MAFW-DFEW-SFT", "StarJiaxing/MAFW-DFEW-0.5B", _UNCLEAR),
    Public(
        "siglip-base-patch16-224",
        "google/siglip-base-patch16-224",
        "Apache-2.0, by its model card",
        POLICY_NONE,
        "the vision tower of the checkpoints",
        ("config.json",),
    ),
    Public(
        "whisper-large-v3",
        "openai/whisper-large-v3",
        "Apache-2.0, by its model card",
        POLICY_NONE,
        "the audio tower of the checkpoints",
        ("config.json",),
    ),
    Public(
        "bert-base-uncased",
        "google-bert/bert-base-uncased",
        "Apache-2.0, by its model card",
        POLICY_NONE,
        "the tokenizer of the gate; its weights come with the checkpoint",
        ("config.json", "vocab.txt"),
        ("tokenizer.json", "tokenizer_config.json"),
        weights=False,
    ),
)
PUBLIC: Final[Mapping[str, Public]] = MappingProxyType({each.name: each for each in _ALL})


def public(name: str) -> Public:
    """Return the publication of that name. Raises :class:`UsageError` that lists them."""
    found = {known.lower(): each for known, each in PUBLIC.items()}.get(name.lower())
    if found is None:
        raise UsageError(f"'{name}' is not among the public weights: {', '.join(PUBLIC)}")
    return found
