"""The published model's size with random weights: written, exported, proven, timed and weighed.

    python -m tests.bench.explain_full /tmp/somewhere          # needs 16 GiB of RAM, 14 GB of disk
    python -m tests.bench.explain_full /tmp/somewhere --keep

Every tensor of the checkpoint (R1-Omni-0.5B, bf16, towers beside it) is random; one at a time is in
memory while it is written. Then the steps of ``python -m exporters r1omni --verify`` run one after
the other, fp32: each prints how long it took and the most memory that the process held meanwhile.
ONNX Runtime is held against torch by 1e-4 of each array's largest value. Says nothing about trained
weights.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from exporters.r1omni import checkpoint, config, export, verify
from exporters.r1omni.audio import Audio
from exporters.r1omni.decoder import Decoder
from exporters.r1omni.gate import Gate
from exporters.r1omni.spec import GateSpec
from exporters.r1omni.vision import VisionFusion

NEEDED_GIB = 15.5
DISK_GIB = 14
MAIN = {
    "model_type": "HumanOmni_qwen2", "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "vocab_size": 151936, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    "use_sliding_window": False, "sliding_window": 32768, "rope_scaling": None,
    "hidden_act": "silu", "eos_token_id": 151645, "mm_projector_type": "all_in_one_small",
    "mm_audio_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch", "mm_hidden_size": 768, "audio_hidden_size": 1280,
    "mm_vision_tower": "../siglip-base-patch16-224", "mm_audio_tower": "../whisper-large-v3",
    "num_frames": 8,
}  # fmt: skip
SIGLIP = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
WHISPER = {
    "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
    "num_mel_bins": 128, "max_source_positions": 1500, "activation_function": "gelu",
}  # fmt: skip
BERT = GateSpec(
    hidden=768, layers=12, heads=12, intermediate=3072, vocab=30522, positions=512, types=2
)
Shapes = dict[str, tuple[int, ...]]


def shapes(root: Path) -> tuple[Shapes, Shapes, Shapes]:
    """Return names and shapes of the checkpoint, of SigLIP and of Whisper."""
    decoder = config.decoder(MAIN, root)
    with torch.device("meta"):
        vision = VisionFusion(config.vision(SIGLIP, root), decoder.hidden)
        audio = Audio(config.audio(WHISPER, root), decoder.hidden)
        gate, language = Gate(BERT), Decoder(decoder)

    def named(module: torch.nn.Module, prefix: str) -> Shapes:
        return {prefix + name: tuple(each.shape) for name, each in module.named_parameters()}

    main = {
        "model.embed_tokens.weight": (decoder.vocab, decoder.hidden),
        **named(language, "model."),
        **named(vision.projector, "model.mm_projector."),
        **named(audio.projector, "model.audio_projector."),
        **named(gate, "model."),
        "model.bert_model.pooler.dense.weight": (768, 768),
        "model.bert_model.pooler.dense.bias": (768,),
    }
    siglip = named(vision.tower, "vision_model.")
    siglip |= {
        name.replace("layers.10.", "layers.11."): shape
        for name, shape in siglip.items()
        if ".layers.10." in name
    }
    siglip |= {f"vision_model.post_layernorm.{part}": (768,) for part in ("weight", "bias")}
    return main, siglip, named(audio.tower, "model.encoder.")


def write(folder: Path, settings: dict[str, object], tensors: Shapes, seed: int) -> None:
    """Write ``config.json`` and ``model.safetensors`` in bf16, tensor by tensor."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings))
    header, offset = {}, 0
    for name, shape in tensors.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = torch.Generator().manual_seed(seed)
    with (folder / "model.safetensors").open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors.items():
            values = random(name, shape, noise).to(torch.bfloat16)
            out.write(values.view(torch.int16).numpy().tobytes())


def random(name: str, shape: tuple[int, ...], noise: torch.Generator) -> torch.Tensor:
    """Return random values of a size that keeps signals alive through all layers."""
    values = torch.randn(shape, generator=noise)
    if len(shape) == 1:
        return values.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
    fan_in = math.prod(shape[1:])
    return values.mul_(0.02 if "embed" in name else 0.5 / fan_in**0.5)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print time and peak memory of what is inside."""
    Path("/proc/self/clear_refs").write_text("5")  # begin the peak anew
    began_s = time.perf_counter()
    yield
    took_s = time.perf_counter() - began_s
    print(f"{name:<28} {took_s:7.1f} s   peak {status_mib('VmHWM'):7.0f} MiB", flush=True)


def status_mib(name: str) -> float:
    """Return a field of this process' status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


class Steps:
    """Closes a step when the next one begins: the export tells beginnings only."""

    def __init__(self) -> None:
        self._open = step("nothing")
        self._running = False

    def begin(self, name: str) -> None:
        self.end()
        self._open = step(f"export: {name}")
        self._open.__enter__()
        self._running = True

    def end(self) -> None:
        if self._running:
            self._open.__exit__(None, None, None)
            self._running = False


def run(root: Path) -> bool:
    """Do everything below ``root``; tell whether every comparison passed."""
    source, out = root / "R1-Omni-0.5B", root / "exported"
    main, siglip, whisper = shapes(root)
    count = sum(math.prod(shape) for part in (main, siglip, whisper) for shape in part.values())
    print(f"{len(main) + len(siglip) + len(whisper)} tensors, {count / 1e6:.1f} M values")
    with step("write"):
        write(source, MAIN, main, 0)
        write(root / "siglip-base-patch16-224", SIGLIP, siglip, 1)
        write(root / "whisper-large-v3", WHISPER, whisper, 2)
    with step("load"):
        model = checkpoint.load(source)
    with step("torch answers"):
        golden = verify.reference(model)
    steps = Steps()
    made = export.export(model, source, out, "fp32", steps.begin)
    steps.end()
    del model
    passed = True
    with step("onnx answers"):
        parts = verify.OrtParts(out, made)
        for proof in verify.against_golden(parts, golden, "onnx fp32", verify.RELATIVE):
            print(f"  {proof}", flush=True)
            passed = passed and proof.passed
    print(f"graphs: {', '.join(made.graphs)}")
    for file in sorted(out.iterdir()):
        print(f"  {file.name:<24} {file.stat().st_size / 2**20:8.1f} MiB")
    for warning in made.warnings:
        print(f"! {warning}")
    return passed


def available_gib() -> float:
    """Return the memory that is free for us."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder, outside of any repository")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    if given.folder.exists():
        sys.exit(f"{given.folder} is there already: name a new folder")
    if available_gib() < NEEDED_GIB:
        sys.exit(f"{available_gib():.1f} GiB of memory are free, {NEEDED_GIB} are needed")
    given.folder.mkdir(parents=True)
    try:
        if shutil.disk_usage(given.folder).free < DISK_GIB << 30:
            sys.exit(f"{given.folder} has less than {DISK_GIB} GiB free")
        passed = run(given.folder)
    finally:
        if not given.keep:
            shutil.rmtree(given.folder)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
