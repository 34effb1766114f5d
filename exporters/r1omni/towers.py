"""Where the weights of a part come from, and under which names: layouts in, one naming out."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from exporters.r1omni import config
from pipeline.errors import ModelRefused

Tower = Literal["vision", "audio", "gate"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tensors of one tower are named in the wild."""

    option: str
    """Flag that names its folder."""
    config_key: str | None
    """Key of the checkpoint's config that names it."""
    usual: str
    """Base name of its public folder."""
    inside: tuple[str, ...]
    """Prefixes inside the main checkpoint, all removed."""
    outside: tuple[str, ...]
    """Prefixes in a folder of its own, the first that fits is removed."""
    ignored: tuple[str, ...]
    """Names that may stand beside and are not needed, after the prefix is removed."""
    renames: tuple[tuple[str, str], ...] = ()


LAYOUTS: Final[dict[Tower, Layout]] = {
    "vision": Layout(
        "--vision-tower",
        "mm_vision_tower",
        "siglip-base-patch16-224",
        ("model.vision_tower.vision_tower.vision_model.",),
        ("vision_model.", ""),
        (
            "post_layernorm.",
            "head.",
            "text_model.",
            "logit_scale",
            "logit_bias",
            "embeddings.position_ids",
        ),
    ),
    "audio": Layout(
        "--audio-tower",
        "mm_audio_tower",
        "whisper-large-v3",
        ("model.audio_tower.audio_tower.encoder.",),
        ("model.encoder.", "encoder.", ""),
        ("projector.", "classifier.", "decoder.", "model.decoder.", "proj_out.", "layer_weights"),
    ),
    "gate": Layout(
        "--bert",
        None,
        "bert-base-uncased",
        ("model.bert_model.",),
        ("bert.", ""),
        ("pooler.", "cls.", "embeddings.position_ids"),
        ((".gamma", ".weight"), (".beta", ".bias")),
    ),
}
BESIDE_TOWERS: Final = (
    "model.vision_tower.",
    "model.audio_tower.",
)
"""Everything below may be ignored once the towers are known."""


def find(tower: Tower, checkpoint: Path, main: config.Config, given: Path | None) -> Path | None:
    """Return the folder of a tower, or None when there is none.

    In order: the option; the config's path, relative to its own folder; a sibling of the usual
    name. Raises :class:`ModelRefused` when the option names no folder.
    """
    if given is not None:
        if not given.is_dir():
            raise ModelRefused(f"{LAYOUTS[tower].option} {given}: there is no such folder")
        return given
    return next((place for place in places(tower, checkpoint, main) if place.is_dir()), None)


def places(tower: Tower, checkpoint: Path, main: config.Config) -> list[Path]:
    """Return the folders that are looked at without an option, in order."""
    layout = LAYOUTS[tower]
    named = str(main.get(layout.config_key) or "") if layout.config_key else ""
    found = [checkpoint / named] if named else []
    base = Path(named).name if named else layout.usual
    found += [checkpoint.parent / base, checkpoint / base, checkpoint.parent / layout.usual]
    return list(dict.fromkeys(place.resolve() for place in found))


def missing(tower: Tower, checkpoint: Path, main: config.Config) -> ModelRefused:
    """Return the refusal that lists every place tried."""
    tried = "".join(f"\n  {place}" for place in places(tower, checkpoint, main))
    return ModelRefused(
        f"the {tower} tower is neither in the checkpoint nor in any of these folders:{tried}\n"
        f"fetch {LAYOUTS[tower].usual} and give its folder with {LAYOUTS[tower].option} DIR"
    )


def inside(tower: Tower, names: Iterable[str]) -> dict[str, str]:
    """Return our name → the file's for the tensors of a tower inside the main checkpoint."""
    return _map(names, LAYOUTS[tower].inside, LAYOUTS[tower])


def outside(tower: Tower, names: Iterable[str]) -> dict[str, str]:
    """The same for a folder of its own."""
    every = list(names)
    layout = LAYOUTS[tower]
    prefix = next(p for p in layout.outside if any(name.startswith(p) for name in every))
    return _map(every, (prefix,), layout)


def ignorable(tower: Tower, name: str) -> bool:
    """Tell whether a tensor may stand in a tower's files without being needed."""
    layout = LAYOUTS[tower]
    return any(
        name.removeprefix(prefix).startswith(layout.ignored) for prefix in (*layout.outside,)
    )


def _map(names: Iterable[str], prefixes: tuple[str, ...], layout: Layout) -> dict[str, str]:
    found = {}
    for name in names:
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        if prefix is None:
            continue
        ours = name.removeprefix(prefix)
        if ours.startswith(layout.ignored):
            continue
        for old, new in layout.renames:
            if ours.endswith(old):
                ours = ours.removesuffix(old) + new
        found[ours] = name
    return found
