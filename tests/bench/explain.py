"""The explain tier's own ratios on a mid-size random model, all in one run.

    python -m tests.bench.explain                  # seven rounds, about a minute with the export
    python -m tests.bench.explain --rounds 11 --threads 2

Measures, round by round and in turn, so what else the machine does meets all of them: scoring the
labels against the prefill that it starts from; a second window against the first when half of its
frames were seen before; tokens a second with the cache in plain arrays and with bound memory.
Random weights: the figures are about time only.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from exporters.r1omni import checkpoint, export
from exporters.r1omni.spec import GateSpec
from pipeline.explain import answers
from pipeline.explain.decoder import PlainDecoder
from pipeline.explain.prompt import INSTRUCTION, Prompt
from pipeline.session import Session
from services.explain.model import Moment, open_explainer
from services.explain.options import Options
from tests.bench import checkpoints
from tests.bench.checkpoints import MAIN, SIGLIP, WHISPER, Size

SIZE = Size(
    main=MAIN
    | {
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 4000, "eos_token_id": 2,
        "mm_hidden_size": 192, "audio_hidden_size": 192,
    },
    siglip=SIGLIP
    | {
        "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3,
        "intermediate_size": 768,
    },
    whisper=WHISPER
    | {
        "d_model": 192, "encoder_layers": 4, "encoder_attention_heads": 3, "encoder_ffn_dim": 768,
    },
    bert=GateSpec(
        hidden=128, layers=2, heads=2, intermediate=256, vocab=5, positions=512, types=2
    ),
)  # fmt: skip
TOKENS = 48
SHIFTS = (4, 2)
"""Of eight frames, how many are new in the second window."""
Pictures = list[tuple[object, NDArray[np.uint8]]]


def tokenizer() -> Tokenizer:
    """Return a byte-level BPE whose pieces of the labels are few, as the published one's are."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "happy surprise neutral angry disgust sad fear contempt disappoint help anx"
    tags = " ".join(f"<answer>{word}</answer>" for word in words.split())
    made.train_from_iterator([INSTRUCTION, tags, "<think> </think>"] * 4, trainer)
    return made


def write(root: Path) -> Path:
    """Export the model below ``root``; return its folder."""
    source = checkpoints.checkpoint(root, SIZE)
    tokenizer().save(str(source / "tokenizer.json"))
    out = root / "exported"
    export.export(checkpoint.load(source), source, out, "fp32", lambda _: None)
    return out


@dataclass
class Times:
    """Seconds of each round."""

    prefill: list[float] = field(default_factory=list)
    scored: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    first_vision: list[float] = field(default_factory=list)
    second: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in SHIFTS})
    second_vision: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in SHIFTS})
    plain: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)


def timed(what: Callable[[], Any], into: list[float]) -> Any:
    """Call; note how long it took."""
    began_s = time.perf_counter()
    answer = what()
    into.append(time.perf_counter() - began_s)
    return answer


class Bench:
    """One model with both decoders."""

    def __init__(self, folder: Path, threads: int) -> None:
        options = Options(threads=threads)
        self.explainer = open_explainer(folder, options)
        self.explainer.warm()
        made = self.explainer.engine.manifest
        session = Session(
            (folder / "decoder.onnx").read_bytes(), file="decoder.onnx", threads=threads,
            weights=folder,
        )  # fmt: skip
        self.plain = PlainDecoder(session, made.decoder, made.embedding.dtype)
        self.noise = np.random.default_rng(0)
        self.times = Times()
        self._round = 0

    def round(self) -> None:
        """Measure everything once."""
        self._round += 1
        self._scoring()
        self._windows()
        self._tokens()

    def _scoring(self) -> None:
        """Prefill of a whole question; the same with the labels scored behind it."""
        explainer, engine = self.explainer, self.explainer.engine
        asked = explainer._prompts[True]
        made = engine.manifest
        video = self._rows(made.frames * made.tokens_per_frame)
        sound = self._rows(made.audio_tokens)
        timed(lambda: engine.read(asked, video, sound), self.times.prefill)
        timed(lambda: self._labels(asked, video, sound), self.times.scored)

    def _labels(self, asked: Prompt, video: NDArray[Any], sound: NDArray[Any]) -> None:
        trie, engine = self.explainer._scoring, self.explainer.engine
        _, _, first, behind = engine.read_on(asked, video, sound, trie.shared)
        answers.paths(engine, first, behind, trie)

    def _windows(self) -> None:
        """A window, and others that share most of its frames."""
        explainer = self.explainer
        count = explainer.engine.manifest.frames
        frames: Pictures = [
            ((self._round, number), self.noise.integers(0, 256, (180, 320, 3), dtype=np.uint8))
            for number in range(count + max(SHIFTS))
        ]
        sound = self.noise.integers(-3000, 3000, 32_000).astype(np.int16)
        self._window(frames[:count], [], sound, self.times.first_vision, self.times.first)
        for shift in SHIFTS:
            shown = frames[shift : shift + count]
            vision, whole = self.times.second_vision[shift], self.times.second[shift]
            self._window(shown, frames[:count], sound, vision, whole)

    def _window(
        self,
        shown: Pictures,
        before: Pictures,
        sound: NDArray[np.int16],
        vision: list[float],
        whole: list[float],
    ) -> None:
        """Time the pictures alone, then labels of the moment, each with ``before`` seen already."""
        for what, into in (
            (lambda: self.explainer._see(shown), vision),
            (lambda: self.explainer.ask(Moment(shown, sound), words=False), whole),
        ):
            self.explainer.engine._pairs.clear()
            if before:
                self.explainer._see(before)
            timed(what, into)

    def _tokens(self) -> None:
        """The same tokens written behind the same question by both decoders."""
        engine = self.explainer.engine
        rows = self._rows(960)
        for decoder, into in ((self.plain, self.times.plain), (engine.decoder, self.times.bound)):
            _, cache = decoder.step(decoder.empty(), rows, np.array([len(rows) - 1]))  # type: ignore[arg-type,var-annotated]  # each decoder gets its own cache back
            timed(lambda d=decoder, c=cache: self._written(d, c), into)
        engine._prefixes.clear()  # this has overwritten the start of the prompt

    def _written(self, decoder: Any, cache: Any) -> None:
        for number in range(TOKENS):
            _, cache = decoder.step(cache, self.explainer.engine.embed([number]), np.array([0]))

    def _rows(self, count: int) -> NDArray[np.float32]:
        hidden = self.explainer.engine.manifest.decoder.hidden
        return self.noise.standard_normal((count, hidden)).astype(np.float32) / 8


def against(ours: list[float], theirs: list[float]) -> str:
    """Return the median of the rounds' ratios, and their range."""
    each = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(each):.2f}  ({min(each):.2f}-{max(each):.2f})"


def row(what: str, seconds: list[float], by: str = "", base: list[float] | None = None) -> None:
    """Print the median, and the ratio to what it is held against."""
    beside = f"/ {by:<10} {against(seconds, base)}" if base else ""
    print(f"{what:<34}{statistics.median(seconds) * 1000:9.1f} ms   {beside}")


def report(bench: Bench) -> None:
    """Print medians and ratios."""
    times, trie = bench.times, bench.explainer._scoring
    print(
        f"rounds {len(times.prefill)}, load average {os.getloadavg()[0]:.1f}, decoder "
        f"{type(bench.explainer.engine.decoder).__name__}, {len(trie.labels)} labels, longest "
        f"path {trie.longest}, shared {len(trie.shared)}"
    )
    row("prefill", times.prefill)
    row("prefill and labels", times.scored, "prefill", times.prefill)
    row("pictures of a window", times.first_vision)
    row("window", times.first)
    for shift in SHIFTS:
        pictures, whole = times.second_vision[shift], times.second[shift]
        row(f"pictures, {shift} of 8 frames new", pictures, "pictures", times.first_vision)
        row(f"window, {shift} of 8 frames new", whole, "window", times.first)
    row(f"{TOKENS} tokens, arrays in and out", times.plain)
    row(f"{TOKENS} tokens, bound memory", times.bound, "arrays", times.plain)
    for what, seconds in (("arrays in and out", times.plain), ("bound memory", times.bound)):
        print(f"tokens/s, {what:<24}{TOKENS / statistics.median(seconds):9.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(write(Path(folder)), given.threads)
        for _ in range(given.rounds):
            bench.round()
        report(bench)


if __name__ == "__main__":
    main()
