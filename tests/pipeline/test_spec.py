import msgspec
import pytest

from pipeline import spec
from pipeline.errors import SpecError

SPEC = spec.ModelSpec(
    name="n",
    version="1",
    kind="voice-emotion",
    inputs=(spec.Tensor("features", "float32", ("batch", "frames", 64)),),
    outputs=(spec.Tensor("probabilities", "float32", ("batch", 2)),),
    licence="MIT",
    source="a test",
    labels=("happy", "sad"),
)


def test_round_trip() -> None:
    assert spec.decode(spec.encode(SPEC), file="x.onnx") == SPEC


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "carries no 'demeanor.spec'"),
        ({spec.METADATA_KEY: "not json"}, "is not JSON"),
        ({spec.METADATA_KEY: '{"name": "n"}'}, "is malformed"),
        (
            {spec.METADATA_KEY: msgspec.json.encode(SPEC).decode().replace("sad", "bored")},
            "unknown labels bored",
        ),
    ],
)
def test_refusals_name_the_file(metadata: dict[str, str], words: str) -> None:
    with pytest.raises(SpecError, match=words) as refusal:
        spec.decode(metadata, file="x.onnx")
    assert "x.onnx" in str(refusal.value)
