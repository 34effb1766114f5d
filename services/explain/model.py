"""One exported model, opened and proven: media of a moment in, labels and words out.

Synchronous; used by one thread of one process. What is said about a person comes out of here only
as data for an event: nothing is logged.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelRefused
from pipeline.explain import answers, labels, manifest, mel, prompt
from pipeline.explain.answers import Explained, Explaining, LabelScores
from pipeline.explain.decoder import PlainDecoder, StaticDecoder
from pipeline.explain.engine import Engine, Frame
from pipeline.explain.frames import chosen, square
from pipeline.explain.manifest import Manifest
from pipeline.session import Session
from services.explain import tokens
from services.explain.options import Options

CAPACITY: Final = 1536
"""Positions of one question: about 984 of media and prompt, the rest for what is written."""
Audio = Literal["heard", "missing"]


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """Media of one stretch of a call."""

    frames: Sequence[tuple[object, NDArray[np.uint8]]]
    """Name and ``(height, width, 3)`` RGB of each sampled picture, oldest first; at least one."""
    sound: NDArray[np.int16] | None
    """16 kHz mono, at most thirty seconds are used; None when there is no sound track."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the model says of a moment."""

    scores: LabelScores
    explained: Explained | None
    """None when only labels were asked for, or when something newer cut in."""
    audio: Audio
    took_ms: int


class Explainer:
    """An opened model. Make it by :func:`open_explainer`."""

    def __init__(
        self,
        engine: Engine,
        text: tokens.TextTokenizer,
        gate_ids: Sequence[int],
        options: Options,
        system: str,
    ) -> None:
        self.engine = engine
        self.options = options
        self._text = text
        self._gate_ids = list(gate_ids)
        names = labels.SETS[options.labels]
        self._scoring = labels.trie(text, names, options.prefix)
        self._answering = labels.trie(text, names, answers.FORCED)
        self._prompts = {
            sound: prompt.build(text, system=system, instruction=prompt.INSTRUCTION, sound=sound)
            for sound in (True, False)
        }
        self._priors: dict[bool, NDArray[np.float64]] = {}

    @property
    def identity(self) -> str:
        """Name of exactly these weights."""
        return self.engine.manifest.identity

    def warm(self) -> None:
        """Run everything once on an empty moment; that also gives the prior."""
        self._prior(sound=True)

    def ask(
        self,
        moment: Moment,
        *,
        words: bool = True,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Opinion:
        """Score the labels of ``moment`` and, with ``words``, explain it.

        ``wanted`` is asked before every token: False lets something newer cut in.
        Raises :class:`ValueError` for a moment without pictures: the model was never trained on
        sound alone.
        """
        begun = time.perf_counter()
        heard = moment.sound is not None
        video = self._see(moment.frames)
        sound = self._hear(moment.sound) if moment.sound is not None else None
        asked = self._prompts[heard]
        prior = self._prior(sound=heard)
        logits, cache, first, behind = self.engine.read_on(
            asked, video, sound, self._scoring.shared
        )
        raw = answers.paths(self.engine, first, behind, self._scoring)
        scores = answers.scored(raw, self._scoring, self.options.prefix, prior)
        explained = None
        if words and wanted():
            making = Explaining(
                self.engine, self._text, self._answering, thinking=self.options.thinking
            )
            explained = making.run(logits, cache, wanted)
        took_ms = round((time.perf_counter() - begun) * 1000)
        return Opinion(scores, explained, "heard" if heard else "missing", took_ms)

    def _see(self, frames: Sequence[tuple[object, NDArray[np.uint8]]]) -> NDArray[Any]:
        if not frames:
            raise ValueError("there is no picture: this model does not judge sound alone")
        made = self.engine.manifest
        picked = [frames[index] for index in chosen(len(frames), made.frames)]
        views = [self._view(name, rgb) for name, rgb in picked]
        height, width, _ = picked[0][1].shape
        black = self._view("black", np.zeros((height, width, 3), np.uint8))
        views += [black] * (made.frames - len(views))
        return self.engine.see(views, self.engine.branch_probs(self._gate_ids))

    def _view(self, name: object, rgb: NDArray[np.uint8]) -> Frame:
        picture = square(rgb, self.engine.manifest.image_px, self.options.aspect)
        pixels = picture.transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - np.float32(1)
        return Frame(name, pixels)

    def _hear(self, sound: NDArray[np.int16]) -> NDArray[Any]:
        made = self.engine.manifest
        loud = sound.astype(np.float32) / np.float32(32768)
        return self.engine.hear(mel.log_mel(loud, made.mels, made.mel_frames))

    def _prior(self, *, sound: bool) -> NDArray[np.float64]:
        """Return the path scores of black pictures and silence: what the prompt alone suggests."""
        if sound not in self._priors:
            made = self.engine.manifest
            black = np.zeros((made.image_px, made.image_px, 3), np.uint8)
            video = self._see([("black", black)])
            silent = self._hear(np.zeros(16_000, np.int16)) if sound else None
            _, _, first, behind = self.engine.read_on(
                self._prompts[sound], video, silent, self._scoring.shared
            )
            self._priors[sound] = answers.paths(self.engine, first, behind, self._scoring)
        return self._priors[sound]


def open_explainer(folder: Path, options: Options) -> Explainer:
    """Open a folder written by ``python -m exporters r1omni``; every file is proven first.

    Raises :class:`ModelRefused` for a folder that is not whole, and
    :class:`~pipeline.errors.ProviderMissing` when the asked device would not run it.
    """
    made = manifest.read(folder)
    _prove(folder, made)
    text = tokens.text_tokenizer(folder)
    gate_ids = tokens.gate_tokenizer(folder).encode(prompt.INSTRUCTION)
    shape = (made.decoder.vocab, made.decoder.hidden)
    embedding = np.memmap(folder / made.embedding.file, made.embedding.dtype, "r", shape=shape)

    def session(name: str) -> Session:
        graph = made.graphs.get(name)
        if graph is None:
            raise ModelRefused(f"{folder} has no graph '{name}': export it again")
        return Session(
            (folder / graph.file).read_bytes(),
            file=graph.file,
            device=options.device,
            threads=options.threads,
            weights=folder,
        )

    dtype = made.embedding.dtype
    decoder = (
        StaticDecoder(session("decoder_static"), made.decoder, dtype, CAPACITY)
        if "decoder_static" in made.graphs
        else PlainDecoder(session("decoder"), made.decoder, dtype)
    )
    engine = Engine(
        made, session("vision_fusion"), session("audio"), session("gate"), decoder, embedding
    )
    system = prompt.system_of(tokens.chat_template(folder))
    return Explainer(engine, text, gate_ids, options, system)


def _prove(folder: Path, made: Manifest) -> None:
    """Hold every file against its digest."""
    for name, wanted in made.digests.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ModelRefused(f"{path} is missing or a link: export the checkpoint again")
        if manifest.digest(path) != wanted:
            raise ModelRefused(f"{path} is not the file that was exported: export it again")
    named = {file for graph in made.graphs.values() for file in (graph.file, *graph.weights)}
    unproven = sorted({*named, made.embedding.file} - set(made.digests))
    if unproven:
        raise ModelRefused(f"{folder}: no digest for {', '.join(unproven)}: export it again")
