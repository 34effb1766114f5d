"""Silero VAD: its authors' weights in a graph that hears a stretch of sound in one run.

The 16 kHz file is taken out of the wheel ``silero-vad`` by pinned version and digest; nothing of
the wheel is installed. The authors' graph answers one chunk a run and hands its memory back. Ours
takes the chunks of many stretches at once, each from an empty memory, and its convolutions, over
four positions a chunk, are matrix products over all of them: the same numbers within 1e-6, for an
eighth of the time.
"""

import argparse
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from exporters import fetch, manifest
from pipeline.session import Session
from pipeline.spec import ModelSpec, Tensor, encode

PACKAGE = "silero-vad"
VERSION = "6.2.3"
SHA256 = "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"
MEMBER = "silero_vad/data/silero_vad_16k_op15.onnx"
FILE = "vad.onnx"

RATE_HZ = 16000
CHUNK_SAMPLES = 512
CONTEXT_SAMPLES = 64
"""The end of the chunk before, put in front of the new one (``utils_vad.OnnxWrapper``)."""
OPSET = 17

SPEC = ModelSpec(
    name="silero-vad",
    version=VERSION,
    kind="vad",
    inputs=(Tensor("chunks", "float32", ("batch", "steps", CONTEXT_SAMPLES + CHUNK_SAMPLES)),),
    outputs=(Tensor("speech", "float32", ("batch", "steps")),),
    licence="MIT",
    source=f"PyPI {PACKAGE}=={VERSION}, {MEMBER}",
    sample_rate_hz=RATE_HZ,
    context_samples=CONTEXT_SAMPLES,
    window_ms=1000 * CHUNK_SAMPLES // RATE_HZ,
    hop_ms=1000 * CHUNK_SAMPLES // RATE_HZ,
)

_PROGRAM = """
vad (float[batch,steps,576] chunks) => (float[batch,steps] speech)
<int64[2] rows = {-1, 576}, int64[4] mirror = {0, 0, 0, 64}, int64[3] hops = {-1, 5, 128},
 int64[6] sides = {0, 1, 0, 0, 1, 0}, int64[2] halves = {129, 129}, int64[1] wide = {128},
 int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4},
 int64[1] five = {5}, int64[1] six = {6}, int64[1] last = {-1}> {
  each = Reshape (chunks, rows)
  padded = Pad <mode = "reflect"> (each, mirror)
  pieces = Reshape (padded, hops)
  early = Slice (pieces, zero, four, one)
  late = Slice (pieces, one, five, one)
  frames = Concat <axis = 2> (early, late)
  waves = MatMul (frames, basis)
  real, imaginary = Split <axis = 2> (waves, halves)
  real_power = Mul (real, real)
  imaginary_power = Mul (imaginary, imaginary)
  power = Add (real_power, imaginary_power)
  spectrum = Sqrt (power)

  around_0 = Pad (spectrum, sides)
  before_0 = Slice (around_0, zero, four, one)
  here_0 = Slice (around_0, one, five, one)
  after_0 = Slice (around_0, two, six, one)
  taps_0 = Concat <axis = 2> (before_0, here_0, after_0)
  product_0 = MatMul (taps_0, weight_0)
  sum_0 = Add (product_0, bias_0)
  layer_0 = Relu (sum_0)

  around_1 = Pad (layer_0, sides)
  before_1 = Slice (around_1, zero, four, one, two)
  here_1 = Slice (around_1, one, five, one, two)
  after_1 = Slice (around_1, two, six, one, two)
  taps_1 = Concat <axis = 2> (before_1, here_1, after_1)
  product_1 = MatMul (taps_1, weight_1)
  sum_1 = Add (product_1, bias_1)
  layer_1 = Relu (sum_1)

  here_2 = Slice (layer_1, zero, one, one)
  after_2 = Slice (layer_1, one, two, one)
  taps_2 = Concat <axis = 2> (here_2, after_2)
  product_2 = MatMul (taps_2, weight_2)
  sum_2 = Add (product_2, bias_2)
  layer_2 = Relu (sum_2)

  product_3 = MatMul (layer_2, weight_3)
  sum_3 = Add (product_3, bias_3)
  layer_3 = Relu (sum_3)

  extent = Shape (chunks)
  counts = Slice (extent, zero, two)
  shape = Concat <axis = 0> (counts, wide)
  features = Reshape (layer_3, shape)
  in_turn = Transpose <perm = [1, 0, 2]> (features)
  remembered = LSTM <hidden_size = 128> (in_turn, lstm_weight, lstm_recurrence, lstm_bias)
  memory = Squeeze (remembered, one)
  lit = Relu (memory)
  product = MatMul (lit, weight)
  logits = Add (product, bias)
  chances = Sigmoid (logits)
  thin = Squeeze (chances, last)
  speech = Transpose <perm = [1, 0]> (thin)
}"""
_TAPS: tuple[tuple[int, ...], ...] = ((0, 1, 2), (0, 1, 2), (1, 2), (1,))
"""Taps of each layer's kernel of three that ever meet sound: the others meet its padding."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``python -m exporters vad`` takes."""
    parser.add_argument("--package", type=Path, help="the wheel, if it lies here already")
    parser.add_argument("--out", type=Path, default=manifest.MODELS_DIR, help="folder to write to")


def main(args: argparse.Namespace) -> None:
    """Write ``vad.onnx`` and the manifest, and print what the file says to silence."""
    wheel = (
        fetch.read(args.package, SHA256) if args.package else fetch.wheel(PACKAGE, VERSION, SHA256)
    )
    model = rebuilt(member(wheel))
    session = Session(model, file=FILE)
    quiet = probabilities(session, np.zeros(RATE_HZ, np.float32))
    (args.out / FILE).write_bytes(model)
    manifest.write(args.out)
    print(f"{FILE}: {len(model)} bytes, speech in silence {quiet.max():.3f} at most")


def member(wheel: bytes) -> bytes:
    """Return the model file inside the wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        return archive.read(MEMBER)


def rebuilt(authors: bytes) -> bytes:
    """Return the weights of the authors' file in our graph, with the contract as metadata."""
    theirs = {
        tensor.name.removeprefix("model."): numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(authors).graph.initializer
    }
    graph = parser.parse_graph(_PROGRAM)
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array), name)
        for name, array in _weights(theirs).items()
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    helper.set_model_props(model, encode(SPEC))
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def _weights(theirs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Turn kernels (out, in, 3) into matrices (taps * in, out) and gates i f g o into i o f g."""
    layers: dict[str, NDArray[np.float32]] = {}
    for number, taps in enumerate(_TAPS):
        kernel = theirs[f"encoder.{number}.reparam_conv.weight"]
        layers[f"weight_{number}"] = np.concatenate([kernel[:, :, tap].T for tap in taps])
        layers[f"bias_{number}"] = theirs[f"encoder.{number}.reparam_conv.bias"]
    biases = [_gates(theirs[f"decoder.rnn.bias_{side}"]) for side in ("ih", "hh")]
    return layers | {
        "basis": theirs["stft.forward_basis_buffer"][:, 0].T,
        "lstm_weight": _gates(theirs["decoder.rnn.weight_ih"])[None],
        "lstm_recurrence": _gates(theirs["decoder.rnn.weight_hh"])[None],
        "lstm_bias": np.concatenate(biases)[None],
        "weight": theirs["decoder.decoder.2.weight"][0],
        "bias": theirs["decoder.decoder.2.bias"],
    }


def _gates(torchs: NDArray[np.float32]) -> NDArray[np.float32]:
    entry, forget, cell, out = np.split(torchs, 4)
    return np.concatenate([entry, out, forget, cell])


def chunked(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the chunks (steps, 576) of ``pcm``, each with the end of the one before it."""
    padded = np.concatenate((np.zeros(CONTEXT_SAMPLES, np.float32), pcm))
    return sliding_window_view(padded, CONTEXT_SAMPLES + CHUNK_SAMPLES)[::CHUNK_SAMPLES]


def probabilities(session: Session, pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how likely speech is in each whole chunk of ``pcm``, mono at 16 kHz in [-1, 1]."""
    (answers,) = session.run(["speech"], {"chunks": np.ascontiguousarray(chunked(pcm)[None])})
    heard: NDArray[np.float32] = answers[0]
    return heard
