"""A checkpoint folder to a filled model: strict about every tensor, explicit about every source.

The published loader leaves uninitialised memory where a tensor is missing and ignores towers inside
a checkpoint; this one fails and lists, and says which source it took.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from exporters.r1omni import config, towers
from exporters.r1omni.audio import Audio
from exporters.r1omni.decoder import Decoder, Head
from exporters.r1omni.gate import Gate
from exporters.r1omni.spec import AudioSpec, DecoderSpec, GateSpec, OmniSpec, VisionSpec
from exporters.r1omni.towers import Tower
from exporters.r1omni.vision import VisionFusion
from exporters.r1omni.weights import Renamed, Weights
from pipeline.errors import ModelRefused

SHOWN: Final = 12
"""Differences listed before the rest is only counted."""
HEAD: Final = 64
"""Width of a head in BERT-base, SigLIP-base and Whisper: where no config tells the number."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders named by options."""

    vision: Path | None = None
    audio: Path | None = None
    bert: Path | None = None


@dataclass(slots=True)
class Report:
    """What was taken from where."""

    used: int = 0
    ignored: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    """Part → folder of its weights."""
    warnings: list[str] = field(default_factory=list)
    files: tuple[Path, ...] = ()
    bert: Path | None = None
    """Folder with the gate's tokenizer."""


@dataclass(frozen=True, slots=True)
class Omni:
    """A filled model, fp32, in four parts and its embedding."""

    spec: OmniSpec
    vision: VisionFusion
    audio: Audio
    gate: Gate
    decoder: Decoder
    embedding: Tensor
    """``(vocab, hidden)``."""
    head: Head
    report: Report


def load(folder: Path, given: Folders = Folders()) -> Omni:
    """Read a checkpoint with its towers, in either layout.

    Raises :class:`ModelRefused` with every difference found.
    """
    if not (folder / "config.json").is_file():
        raise ModelRefused(
            f"{folder} has no config.json: name the folder of an R1-Omni checkpoint, which holds "
            "config.json, *.safetensors and a tokenizer"
        )
    main = config.read(folder / "config.json")
    config.check_omni(main, folder / "config.json")
    with ExitStack() as stack:
        weights = stack.enter_context(Weights(folder))
        return _Loader(folder, main, weights, given, stack).load()


class _Loader:
    """One load; keeps what was taken so that what is left over can be told."""

    def __init__(
        self,
        folder: Path,
        main: config.Config,
        weights: Weights,
        given: Folders,
        stack: ExitStack,
    ) -> None:
        self._folder = folder
        self._main = main
        self._weights = weights
        self._given = given
        self._stack = stack
        self._report = Report(files=weights.files)
        self._taken: set[str] = set()
        self._problems: list[str] = []

    def load(self) -> Omni:
        self._refuse_seven_b()
        file = self._folder / "config.json"
        decoder_spec = config.decoder(self._main, file)
        vision_spec, vision_names = self._vision()
        audio_spec, audio_names = self._audio()
        gate_spec = self._gate()
        hidden = decoder_spec.hidden
        with torch.device("meta"):
            vision = VisionFusion(vision_spec, hidden)
            audio = Audio(audio_spec, hidden)
            gate = Gate(gate_spec)
            decoder = Decoder(decoder_spec)
            head = Head(decoder_spec)
        self._fill(vision.tower, vision_names, "vision")
        self._fill(vision.projector, self._own("model.mm_projector."), "projector")
        self._fill(audio.tower, audio_names, "audio")
        self._fill(audio.projector, self._own("model.audio_projector."), "audio projector")
        self._fill(gate.bert_model, self._inside("gate"), "gate")
        self._fill(gate.bert_gate, self._own("model.bert_gate."), "gate")
        self._fill(decoder, _DecoderNames(self._weights, decoder_spec, self._taken), "decoder")
        embedding = self._embedding(decoder_spec)
        self._fill_head(head, embedding, decoder_spec)
        self._leftovers()
        self._fail_if_wrong()
        self._report.used = len(self._taken)
        spec = OmniSpec(
            decoder=decoder_spec,
            vision=vision_spec,
            audio=audio_spec,
            gate=gate_spec,
            frames=config.frames(self._main),
        )
        return Omni(
            spec,
            vision.eval(),
            audio.eval(),
            gate.eval(),
            decoder.eval(),
            embedding,
            head.eval(),
            self._report,
        )

    def decoder_only(self) -> tuple[DecoderSpec, Decoder, Tensor, Head]:
        """Read a language model without eyes and ears."""
        spec = config.decoder(self._main, self._folder / "config.json")
        with torch.device("meta"):
            decoder, head = Decoder(spec), Head(spec)
        self._fill(decoder, _DecoderNames(self._weights, spec, self._taken), "decoder")
        embedding = self._embedding(spec)
        self._fill_head(head, embedding, spec)
        self._leftovers()
        self._fail_if_wrong()
        return spec, decoder.eval(), embedding, head.eval()

    def _refuse_seven_b(self) -> None:
        if any("feature_compressor." in name for name in self._weights):
            raise ModelRefused(f"{self._folder}: {config.SEVEN_B}")

    # where each part comes from

    def _vision(self) -> tuple[VisionSpec, Renamed]:
        names, file = self._tower("vision", self._given.vision)
        spec = (
            config.vision(config.read(file), file) if file is not None else self._vision_of(names)
        )
        last = f"encoder.layers.{spec.used_layers}."
        kept = {ours: name for ours, name in names.names.items() if not ours.startswith(last)}
        unused = [name for ours, name in names.names.items() if ours.startswith(last)]
        self._report.ignored += unused
        self._taken.update(unused)
        wanted = self._main.get("mm_hidden_size", spec.hidden)
        if wanted != spec.hidden:
            self._problems.append(f"the vision tower is {spec.hidden} wide, not {wanted}")
        return spec, names.only(kept)

    def _audio(self) -> tuple[AudioSpec, Renamed]:
        names, file = self._tower("audio", self._given.audio)
        spec = config.audio(config.read(file), file) if file is not None else self._audio_of(names)
        wanted = self._main.get("audio_hidden_size", spec.hidden)
        if wanted != spec.hidden:
            self._problems.append(f"the audio tower is {spec.hidden} wide, not {wanted}")
        return spec, names

    def _vision_of(self, names: Renamed) -> VisionSpec:
        """Read the shape of a tower inside the checkpoint off its tensors."""
        hidden, _, patch, _ = self._shape(names, "embeddings.patch_embedding.weight", 4)
        places, _ = self._shape(names, "embeddings.position_embedding.weight", 2)
        return VisionSpec(
            hidden=hidden,
            layers=_count(names.names, "encoder.layers."),
            heads=self._heads(hidden, "vision"),
            intermediate=self._shape(names, "encoder.layers.0.mlp.fc1.weight", 2)[0],
            image=round(places**0.5) * patch,
            patch=patch,
            eps=1e-6,
        )

    def _audio_of(self, names: Renamed) -> AudioSpec:
        """The same for the encoder of sound."""
        hidden, mels, _ = self._shape(names, "conv1.weight", 3)
        return AudioSpec(
            hidden=hidden,
            layers=_count(names.names, "layers."),
            heads=self._heads(hidden, "audio"),
            intermediate=self._shape(names, "layers.0.fc1.weight", 2)[0],
            mels=mels,
            positions=self._shape(names, "embed_positions.weight", 2)[0],
        )

    def _shape(self, names: Renamed, name: str, axes: int) -> tuple[int, ...]:
        shape = names.shape(name) if name in names else ()
        if len(shape) != axes:
            raise ModelRefused(f"{self._folder}: {name} of a tower is missing or misshapen")
        return shape

    def _heads(self, hidden: int, tower: Tower) -> int:
        if hidden % HEAD:
            raise ModelRefused(
                f"the {tower} tower is {hidden} wide and nothing tells its number of heads: give "
                f"the folder with its config.json by {towers.LAYOUTS[tower].option} DIR"
            )
        return hidden // HEAD

    def _tower(self, tower: Tower, given: Path | None) -> tuple[Renamed, Path | None]:
        """Return a tower's tensors and its config file, if it has one."""
        inner = towers.inside(tower, self._weights)
        folder = towers.find(tower, self._folder, self._main, given)
        if folder is None:
            if not inner:
                raise towers.missing(tower, self._folder, self._main)
            self._report.sources[tower] = f"{self._folder} (inside the checkpoint)"
            return Renamed(self._weights, inner), None
        outer = self._stack.enter_context(Weights(folder))
        self._report.files += outer.files
        names = Renamed(outer, towers.outside(tower, outer))
        self._report.ignored += [n for n in outer if towers.ignorable(tower, n)]
        self._report.sources[tower] = str(folder)
        if inner:
            self._compare(tower, names, Renamed(self._weights, inner))
        file = folder / "config.json"
        return names, file if file.is_file() else None

    def _compare(self, tower: Tower, outer: Renamed, inner: Renamed) -> None:
        """Both are there: the one outside counts, as in the reference; say how far they differ."""
        self._taken.update(inner.names.values())
        shared = [name for name in outer.names if name in inner]
        gaps = [
            (float((outer.read(name) - inner.read(name)).abs().max()), name)
            for name in shared
            if outer.shape(name) == inner.shape(name)
        ]
        worst, name = max(gaps, default=(0.0, ""))
        if worst > 0:
            self._report.warnings.append(
                f"the {tower} tower stands in the checkpoint and in {outer.folder}: they differ by "
                f"up to {worst:.3g} ({name}); the folder's is used"
            )

    def _gate(self) -> GateSpec:
        names = self._inside("gate")
        word = (
            names.shape("embeddings.word_embeddings.weight")
            if ("embeddings.word_embeddings.weight" in names)
            else None
        )
        if word is None:
            raise ModelRefused(
                f"{self._folder}: model.bert_model.* is missing. The gate's BERT must come from "
                "the checkpoint; a BERT folder only supplies the tokenizer"
            )
        folder = towers.find("gate", self._folder, self._main, self._given.bert)
        self._report.sources["gate"] = f"{self._folder} (inside the checkpoint)"
        self._report.bert = folder
        hidden = word[1]
        return GateSpec(
            hidden=hidden,
            layers=_count(names.names, "encoder.layer."),
            heads=self._bert_heads(folder, hidden),
            intermediate=_first(names, "encoder.layer.0.intermediate.dense.weight", 4 * hidden),
            vocab=word[0],
            positions=_first(names, "embeddings.position_embeddings.weight", 512),
            types=_first(names, "embeddings.token_type_embeddings.weight", 2),
        )

    def _bert_heads(self, folder: Path | None, hidden: int) -> int:
        file = folder / "config.json" if folder is not None else None
        if file is not None and file.is_file():
            told = config.read(file).get("num_attention_heads")
            if told:
                return int(told)
        return self._heads(hidden, "gate")

    def _inside(self, tower: Tower) -> Renamed:
        return Renamed(self._weights, towers.inside(tower, self._weights))

    def _own(self, prefix: str) -> Renamed:
        names = {n.removeprefix(prefix): n for n in self._weights if n.startswith(prefix)}
        return Renamed(self._weights, names)

    # filling

    def _fill(self, module: nn.Module, names: "Renamed | _DecoderNames", part: str) -> None:
        """Give every parameter of ``module`` its tensor; note what is missing or misshapen."""
        wanted = dict(module.named_parameters())
        for name, parameter in wanted.items():
            if name not in names:
                self._problems.append(f"missing   {part}: {name} {tuple(parameter.shape)}")
            elif names.shape(name) != tuple(parameter.shape):
                self._problems.append(
                    f"shape     {part}: {name} is {names.shape(name)}, "
                    f"expected {tuple(parameter.shape)}"
                )
            else:
                _put(module, name, names.read(name))
        for name, source in names.names.items():
            if name in wanted:
                self._taken.add(source)
            else:
                self._problems.append(f"unknown   {part}: {source}")
                self._taken.add(source)

    def _embedding(self, spec: DecoderSpec) -> Tensor:
        name = "model.embed_tokens.weight"
        wanted = (spec.vocab, spec.hidden)
        if name not in self._weights or self._weights.shape(name) != wanted:
            found = self._weights.shape(name) if name in self._weights else "missing"
            raise ModelRefused(f"{self._folder}: {name} is {found}, expected {wanted}")
        self._taken.add(name)
        return self._weights.read(name)

    def _fill_head(self, head: Head, embedding: Tensor, spec: DecoderSpec) -> None:
        name = "lm_head.weight"
        if spec.tied:
            _put(head, "weight", embedding)
            if name in self._weights:  # some savers write the tied matrix twice
                self._taken.add(name)
                if not torch.equal(self._weights.read(name), embedding):
                    self._problems.append(f"tied      {name} differs from model.embed_tokens")
            return
        self._fill(
            head, Renamed(self._weights, {"weight": name} if name in self._weights else {}), "head"
        )

    def _leftovers(self) -> None:
        for name in self._weights:
            if name in self._taken:
                continue
            if name.startswith((*towers.BESIDE_TOWERS, "model.bert_model.")):
                self._report.ignored.append(name)
            else:
                self._problems.append(f"unknown   {name}")

    def _fail_if_wrong(self) -> None:
        if not self._problems:
            return
        shown = "".join(f"\n  {problem}" for problem in self._problems[:SHOWN])
        more = len(self._problems) - SHOWN
        raise ModelRefused(
            f"{self._folder} does not fit its config.json ({len(self._problems)} differences):"
            f"{shown}{f'{chr(10)}  … and {more} more' if more > 0 else ''}\n"
            "fetch the checkpoint again, or name the towers that belong to it"
        )


class _DecoderNames:
    """The decoder's tensors under our names; experts of a mixture are stacked while read."""

    def __init__(self, weights: Weights, spec: DecoderSpec, taken: set[str]) -> None:
        self._weights = weights
        self._spec = spec
        self._taken = taken
        prefixes = ("model.layers.", "model.norm.")
        flat = {n.removeprefix("model."): n for n in weights if n.startswith(prefixes)}
        self._experts = {ours: n for ours, n in flat.items() if ".mlp.experts." in ours}
        self.names = {ours: n for ours, n in flat.items() if ours not in self._experts}

    def __contains__(self, name: str) -> bool:
        if ".mlp.experts." in name:
            return all(part in self._experts for part in self._parts(name))
        return name in self.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor."""
        if ".mlp.experts." not in name:
            return self._weights.shape(self.names[name])
        parts = self._parts(name)
        return (len(parts), *self._weights.shape(self._experts[parts[0]]))

    def read(self, name: str) -> Tensor:
        """Return one tensor in fp32."""
        if ".mlp.experts." not in name:
            return self._weights.read(self.names[name])
        sources = [self._experts[part] for part in self._parts(name)]
        self._taken.update(sources)
        return torch.stack([self._weights.read(source) for source in sources])

    def _parts(self, name: str) -> list[str]:
        head, _, matrix = name.partition(".mlp.experts.")
        count = self._spec.moe.experts if self._spec.moe else 0
        return [f"{head}.mlp.experts.{number}.{matrix}.weight" for number in range(count)]


def load_decoder(folder: Path) -> tuple[DecoderSpec, Decoder, Tensor, Head]:
    """Read a plain language model (Qwen2, Qwen3, Qwen3-MoE): decoder, embedding, head.

    Raises :class:`ModelRefused` as :func:`load` does.
    """
    main = config.read(folder / "config.json")
    with ExitStack() as stack:
        weights = stack.enter_context(Weights(folder))
        loader = _Loader(folder, main, weights, Folders(), stack)
        return loader.decoder_only()


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter that has no memory yet."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    parameter = nn.Parameter(tensor, requires_grad=False)
    if isinstance(owner, nn.ParameterDict):
        owner[leaf] = parameter
    else:
        owner._parameters[leaf] = parameter  # noqa: SLF001 - what setattr does, for a meta tensor


def _count(names: Iterable[str], prefix: str) -> int:
    """Return how many numbered layers there are below ``prefix``."""
    numbers = {
        name.removeprefix(prefix).split(".", 1)[0] for name in names if name.startswith(prefix)
    }
    return len(numbers)


def _first(names: Renamed, name: str, otherwise: int) -> int:
    """Return the first axis of a tensor, or what it usually is (its absence is told later)."""
    return names.shape(name)[0] if name in names else otherwise
