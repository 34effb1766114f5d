"""Proof of an export: torch in fp32, ONNX Runtime on the written files, golden arrays."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from exporters.r1omni import golden
from exporters.r1omni.admission import FP16_GAP, cosine
from exporters.r1omni.checkpoint import Omni
from exporters.r1omni.golden import Array, Golden
from exporters.r1omni.spec import OmniSpec
from exporters.verify import Comparison, compare
from pipeline.explain import manifest
from pipeline.session import Session

STEPS: Final = 4
RELATIVE: Final = 1e-4
"""Share of an array's largest value that torch and ONNX Runtime may differ by at full size, where
sums are long and values large; golden arrays of a file are held absolutely."""


class TorchParts:
    """The loaded model, fp32."""

    def __init__(self, model: Omni) -> None:
        self._model = model

    def gate(self, ids: Array) -> Array:
        """``(1, n)`` → ``(1, 3)``."""
        tensor = torch.from_numpy(ids)
        ones, zeros = torch.ones_like(tensor), torch.zeros_like(tensor)
        return self._run(self._model.gate, tensor, ones, zeros)

    def vision(self, pixels: Array, probs: Array) -> Array:
        """``(frames, 3, h, w)``, ``(3,)`` → ``(tokens, hidden)``."""
        return self._run(self._model.vision, torch.from_numpy(pixels), torch.from_numpy(probs))

    def audio(self, mel: Array) -> Array:
        """``(1, mels, frames)`` → ``(1, tokens, hidden)``."""
        return self._run(self._model.audio, torch.from_numpy(mel))

    def embed(self, ids: Array) -> Array:
        """``(n,)`` → ``(n, hidden)``."""
        rows: Array = self._model.embedding[torch.from_numpy(ids)].numpy()
        return rows

    def decode(self, rows: Array, chosen: Array, past: list[Array]) -> tuple[Array, list[Array]]:
        """One call of the decoder and its head."""
        before, new = past[0].shape[2], rows.shape[1]
        with torch.inference_mode():
            chosen_rows, *grown = self._model.decoder(
                torch.from_numpy(rows),
                torch.ones(1, before + new, dtype=torch.long),
                torch.arange(before, before + new)[None],
                torch.from_numpy(chosen),
                *map(torch.from_numpy, past),
            )
            logits = self._model.head(chosen_rows)
        return logits.numpy(), [each.numpy() for each in grown]

    def empty_cache(self) -> list[Array]:
        """Return a cache without positions."""
        return _empty(self._model.spec.decoder.layers, self._model.spec.decoder, np.float32)

    @staticmethod
    def _run(module: Any, *inputs: torch.Tensor) -> Array:
        with torch.inference_mode():
            answer: Array = module(*inputs).numpy()
        return answer


class OrtParts:
    """The written files in ONNX Runtime on the CPU; one graph is open at a time."""

    def __init__(self, folder: Path, made: manifest.Manifest, threads: int = 2) -> None:
        self._folder = folder
        self._made = made
        self._threads = threads
        self._opened: tuple[str, Session] | None = None
        shape = (made.decoder.vocab, made.decoder.hidden)
        self._dtype = np.dtype(made.embedding.dtype)
        self._embedding: Array = np.memmap(
            folder / made.embedding.file, self._dtype, "r", shape=shape
        )

    def gate(self, ids: Array) -> Array:
        """``(1, n)`` → ``(1, 3)``."""
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        return self._session("gate").run(None, feeds)[0]

    def vision(self, pixels: Array, probs: Array) -> Array:
        """``(frames, 3, h, w)``, ``(3,)`` → ``(tokens, hidden)``."""
        feeds = {"pixel_values": pixels, "branch_probs": probs}
        return self._wide("vision_fusion", feeds)

    def audio(self, mel: Array) -> Array:
        """``(1, mels, frames)`` → ``(1, tokens, hidden)``."""
        return self._wide("audio", {"mel": mel})

    def embed(self, ids: Array) -> Array:
        """``(n,)`` → ``(n, hidden)`` fp32."""
        return np.asarray(self._embedding[ids], np.float32)

    def decode(self, rows: Array, chosen: Array, past: list[Array]) -> tuple[Array, list[Array]]:
        """One call of the decoder."""
        before, new = past[0].shape[2], rows.shape[1]
        feeds = {
            "inputs_embeds": rows.astype(self._dtype),
            "attention_mask": np.ones((1, before + new), np.int64),
            "position_ids": np.arange(before, before + new)[None],
            "logits_index": chosen,
            **dict(zip(self._cache_names(), past, strict=True)),
        }
        logits, *grown = self._session("decoder").run(None, feeds)
        return logits, grown

    def empty_cache(self) -> list[Array]:
        """Return a cache without positions."""
        return _empty(self._made.decoder.layers, self._made.decoder, self._dtype)

    def _cache_names(self) -> list[str]:
        layers = range(self._made.decoder.layers)
        return [f"past_key_values.{i}.{part}" for i in layers for part in ("key", "value")]

    def _session(self, name: str) -> Session:
        if self._opened is None or self._opened[0] != name:
            self._opened = None  # its memory first: a full-size graph takes gigabytes
            graph = self._made.graphs[name]
            opened = Session(
                (self._folder / graph.file).read_bytes(),
                file=graph.file,
                threads=self._threads,
                weights=self._folder,
            )
            self._opened = (name, opened)
        return self._opened[1]

    def _wide(self, name: str, feeds: dict[str, Array]) -> Array:
        narrow = {key: value.astype(self._dtype) for key, value in feeds.items()}
        return np.asarray(self._session(name).run(None, narrow)[0], np.float32)


def against_golden(
    parts: golden.Parts, held: Golden, who: str, relative: float = 0.0
) -> Iterator[Comparison]:
    """Hold every array that the golden file knows.

    ``relative`` widens the absolute tolerance to that share of an array's largest value.
    """
    for name, wanted, got in golden.answers(parts, held):
        scaled = relative * float(np.abs(wanted).max(initial=0.0))
        yield compare(f"{who}  {name}", wanted, got, max(golden.TOLERANCE, scaled))


def reference(model: Omni, seed: int = 0) -> Golden:
    """Return golden arrays made by torch itself, on seeded noise: for users without the others."""
    spec = model.spec
    noise = np.random.default_rng(seed)
    parts = TorchParts(model)
    ids = noise.integers(0, spec.gate.vocab, (1, 12))
    pixels = noise.integers(0, 256, (spec.frames, 3, spec.vision.image, spec.vision.image))
    mel = (noise.standard_normal((1, spec.audio.mels, spec.audio.frames)) / 2).astype(np.float16)
    text = noise.integers(0, spec.decoder.vocab, 12)
    prompt = np.concatenate([text[:5], [golden.VIDEO], text[5:7], [golden.AUDIO], text[7:]])
    arrays: dict[str, Array] = {
        "bert_input_ids": ids,
        "pixels": pixels.astype(np.uint8),
        "mel": mel,
        "input_ids": prompt[None],
        "forced_ids": noise.integers(0, spec.decoder.vocab, STEPS),
    }
    nothing = np.zeros(0, np.float32)
    asked = Golden({**arrays, **dict.fromkeys(_ANSWERS, nothing)})
    for name, _, got in golden.answers(parts, asked):
        arrays[name.partition(" ")[0]] = got
    return Golden(arrays)


_ANSWERS: Final = ("branch_probs", "video_tokens", "audio_tokens", "teacher_forced_logits")


def by_direction(parts: golden.Parts, held: Golden) -> Iterator[Comparison]:
    """Hold fp16 against fp32: the cosine of every array."""
    for name, wanted, got in golden.answers(parts, held):
        gap = 1.0 - cosine(wanted, got)
        yield Comparison(f"onnx fp16  {name} (1 - cosine)", gap, FP16_GAP)


def _empty(layers: int, shape: Any, dtype: Any) -> list[Array]:
    empty = np.zeros((1, shape.kv_heads, 0, shape.head_dim), dtype)
    return [empty] * (2 * layers)


def dimensions(spec: OmniSpec) -> str:
    """Return the model's size in one line for people."""
    d = spec.decoder
    return (
        f"decoder {d.layers} layers × {d.hidden}, vision {spec.vision.used_layers} of "
        f"{spec.vision.layers} layers × {spec.vision.hidden}, audio {spec.audio.layers} layers × "
        f"{spec.audio.hidden}, {spec.frames} frames"
    )
