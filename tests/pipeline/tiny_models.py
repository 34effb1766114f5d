"""Six tiny graphs with the ports of the real ones, whose answers a test can work out by hand.

A frame shows two faces when its mean brightness is above 100; the left one is larger. A frame
brighter than 250 makes the detector answer NaN. Sound is speech when its mean level is above 0.01.
"""

from dataclasses import dataclass

import onnx
from onnx import helper, parser

from pipeline.spec import LABELS, ModelSpec, Tensor, encode

FRAME_SAMPLES = 160
CONTEXT = 2 * FRAME_SAMPLES


def _list(numbers):
    return ", ".join(map(str, numbers))


DETECTOR = """
detector (uint8[batch,height,width,3] frames) => (float[batch,n,4] boxes, float[batch,n] scores)
<float[1,3,4] faces = {0.5, 0.25, 0.25, 0.5, 0.125, 0.125, 0.375, 0.75, 0.51, 0.25, 0.25, 0.5},
 float[1,3] shares = {1.0, 0.9, 0.95}, float[1] full = {255}, float[1] limit = {250},
 int64[1] none = {1}> {
  pixels = Cast <to = 1> (frames)
  means = ReduceMean <axes = [1, 2, 3], keepdims = 0> (pixels)
  column = Unsqueeze (means, none)
  room = Sub (limit, column)
  root = Sqrt (room)
  nothing = Sub (root, root)
  share = Div (column, full)
  sound = Add (share, nothing)
  scores = Mul (sound, shares)
  wide = Unsqueeze (nothing, none)
  boxes = Add (wide, faces)
}"""

_CROP = """
  pixels = Cast <to = 1> (frames)
  means = ReduceMean <axes = [1, 2, 3], keepdims = 0> (pixels)
  own = Gather (means, frame_index)
  column = Unsqueeze (own, one)
"""

EXPRESSION = f"""
expression (uint8[batch,height,width,3] frames, float[faces,4] boxes, int64[faces] frame_index)
  => (float[faces,7] probabilities)
<int64[1] one = {{1}}, float[4,7] weights = {{
  {", ".join(str(round(0.37 * ((5 * k) % 7) - 1, 2)) for k in range(28))}}},
 float[1,7] light = {{0.01, -0.01, 0.02, 0, 0.005, 0, 0}}> {{
  {_CROP}
  lit = Mul (column, light)
  placed = MatMul (boxes, weights)
  logits = Add (lit, placed)
  probabilities = Softmax <axis = 1> (logits)
}}"""

LANDMARKS = f"""
landmarks (uint8[batch,height,width,3] frames, float[faces,4] boxes, int64[faces] frame_index)
  => (float[faces,68,2] points)
<int64[1] one = {{1}}, int64[1] zero = {{0}}, int64[1] two = {{2}}, int64[1] four = {{4}},
 float[1,68,2] template = {{
  {", ".join(str(round(((7 * k) % 136) / 136, 3)) for k in range(136))}}}> {{
  {_CROP}
  origin = Slice (boxes, zero, two, one)
  size = Slice (boxes, two, four, one)
  shift = Unsqueeze (origin, one)
  scale = Unsqueeze (size, one)
  inside = Mul (template, scale)
  points = Add (inside, shift)
}}"""

VAD = f"""
vad (float[batch,steps,576] chunks) => (float[batch,steps] speech)
<float[1] floor = {{0.01}}, float[1] steep = {{1000}}, float[20,20] halving = {{
  {_list(0.5 ** (now - then + 1) * (then <= now) for then in range(20) for now in range(20))}}}> {{
  size = Abs (chunks)
  level = ReduceMean <axes = [2], keepdims = 0> (size)
  memory = MatMul (level, halving)
  over = Sub (memory, floor)
  sharp = Mul (over, steep)
  speech = Sigmoid (sharp)
}}"""

FEATURES = f"""
features (float[batch,samples] pcm) => (float[batch,frames,three] features)
<int64[3] shape = {{0, -1, {FRAME_SAMPLES}}}, int64[1] one = {{1}}, int64[1] two = {{2}},
 int64[1] end = {{9999}}, int64[1] last = {{-1}}, int64[1] before = {{-2}},
 int64[1] zero = {{0}}> {{
  hops = Reshape (pcm, shape)
  size = Abs (hops)
  level = ReduceMean <axes = [2], keepdims = 1> (size)
  now = Slice (level, two, end, one)
  ago = Slice (level, one, last, one)
  longer = Slice (level, zero, before, one)
  features = Concat <axis = 2> (now, ago, longer)
}}"""

EMOTION = f"""
emotion (float[batch,frames,3] features, float[batch,frames] mask)
  => (float[batch,7] probabilities)
<int64[1] two = {{2}}, int64[1] axis = {{1}}, float[1] least = {{1}}, float[3,7] weights = {{
  {", ".join(str(round(3.1 * ((4 * k) % 7) - 6, 2)) for k in range(21))}}}> {{
  column = Unsqueeze (mask, two)
  heard = Mul (features, column)
  sum = ReduceSum <keepdims = 0> (heard, axis)
  count = ReduceSum <keepdims = 1> (mask, axis)
  some = Max (count, least)
  mean = Div (sum, some)
  logits = MatMul (mean, weights)
  probabilities = Softmax <axis = 1> (logits)
}}"""

PROGRAMS = {
    "face-detector": DETECTOR,
    "face-expression": EXPRESSION,
    "face-landmarks": LANDMARKS,
    "vad": VAD,
    "voice-features": FEATURES,
    "voice-emotion": EMOTION,
}
_DTYPES = {1: "float32", 2: "uint8", 7: "int64"}


@dataclass(frozen=True)
class Given:
    """What a test changes about a model."""

    program: str | None = None
    kind: str | None = None
    labels: tuple[str, ...] | None = None
    context: int | None = CONTEXT
    rate: int | None = 16_000
    spec: bool = True


def model(kind, given=None):
    """Return the bytes of the tiny model of ``kind``, changed as ``given`` says."""
    given = given or Given()
    graph = parser.parse_graph(given.program or PROGRAMS[kind])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    labels = given.labels or (LABELS if kind in ("face-expression", "voice-emotion") else ())
    spec = ModelSpec(
        name=f"tiny/{kind}",
        version="1",
        kind=given.kind or kind,
        inputs=tuple(map(_tensor, graph.input)),
        outputs=tuple(map(_tensor, graph.output)),
        licence="MIT",
        source="the tests",
        labels=labels,
        context_samples=given.context if kind == "voice-features" else None,
        sample_rate_hz=given.rate if kind.startswith("v") else None,
    )
    if given.spec:
        helper.set_model_props(proto, encode(spec))
    return proto.SerializeToString()


def write(folder, **changed):
    """Write all six models and return their paths; ``vad=Given(…)`` changes one (``_`` for -)."""
    changes = {kind.replace("_", "-"): given for kind, given in changed.items()}
    paths = []
    for kind in PROGRAMS:
        path = folder / f"{kind}.onnx"
        path.write_bytes(model(kind, changes.get(kind)))
        paths.append(path)
    return paths


def _tensor(value):
    kind = value.type.tensor_type
    shape = tuple(axis.dim_param or axis.dim_value for axis in kind.shape.dim)
    return Tensor(value.name, _DTYPES[kind.elem_type], shape)
