"""The face exporter on made-up weights: reading, tracing, cropping, and that parity can fail."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.exporters import face_weights

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from exporters.face import export, graphs, parity, reading, weights  # noqa: E402
from exporters.face.crop import roi_align  # noqa: E402
from pipeline.errors import ModelRefused, ParityError  # noqa: E402


@pytest.fixture(scope="module")
def package():
    return face_weights.package()


@pytest.fixture(scope="module")
def exported(package):
    return {model.name: (model, model.onnx()) for model in export.face_models(package)}


def test_bytes_become_values_by_scale_and_minimum():
    coded = np.array([[0, 100, 255]], np.uint8)
    opened = weights.open_package(face_weights.archive({"net": {"w": coded}}))
    np.testing.assert_allclose(opened.weights("net")["w"], [[-1.0, 0.0, 1.55]], atol=1e-6)
    assert opened.licence == "MIT"


def test_a_binary_of_the_wrong_length_is_refused():
    opened = weights.open_package(face_weights.archive({"net": {"w": np.zeros(4, np.uint8)}}))
    opened.members["model/net_model.bin"] += b"\0"
    with pytest.raises(ModelRefused, match="holds 5 bytes, its manifest names 4"):
        opened.weights("net")


@pytest.mark.parametrize("name", ["face-detector", "face-expression", "face-landmarks"])
def test_runtime_torch_and_plain_reading_agree(exported, package, name, monkeypatch):
    landscape, _, tiny = parity.frames()
    monkeypatch.setattr(parity, "frames", lambda: [landscape, tiny])
    model, file = exported[name]
    parity.prove(model, file, package)


@pytest.mark.parametrize(
    ("height", "width"),
    [(180, 320), (64, 320), (186, 320), (224, 320), (225, 320), (240, 320), (320, 180), (320, 320)],
)
def test_black_left_out_changes_no_box(exported, height, width):
    """The whole square through the whole net, against the few rows the graph looks at."""
    graph = exported["face-detector"][0].graph
    rng = np.random.default_rng(height)
    frames = torch.from_numpy(rng.integers(0, 256, (1, height, width, 3), np.uint8))
    side = graphs.DETECTOR_PX
    square = torch.nn.functional.pad(graphs.planes(frames), (0, side - width, 0, side - height))
    rows, columns = -(-height // graphs.STRIDE_PX), -(-width // graphs.STRIDE_PX)
    whole = graph.net(square)[:, :, :rows, :columns]
    for got, expected in zip(
        graph(frames), graphs.decode(whole, graph.anchors, height, width), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_parity_fails_on_other_weights(exported, monkeypatch):
    tiny = parity.frames()[2]
    monkeypatch.setattr(parity, "frames", lambda: [tiny])
    model, file = exported["face-landmarks"]
    with pytest.raises(ParityError, match="face-landmarks"):
        parity.prove(model, file, face_weights.package(seed=4))


def test_the_same_weights_give_the_same_file(exported):
    model, file = exported["face-landmarks"]
    assert model.onnx() == file


def test_files_hold_no_path_of_the_machine_that_made_them(exported):
    for _, file in exported.values():
        assert b".py" not in file
        assert b"/exporters/" not in file


def test_a_square_image_is_resized_plainly():
    frame = torch.randint(0, 256, (1, 48, 48, 3), dtype=torch.uint8)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    crops, _ = graphs.crop(frame, whole, torch.tensor([0]))
    plain = torch.nn.functional.interpolate(
        graphs.planes(frame), (112, 112), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(crops, plain, atol=0.01, rtol=0)


def test_a_tall_box_is_centred_on_black_and_not_distorted():
    frame = torch.full((1, 100, 200, 3), 200, dtype=torch.uint8)
    crops, squares = graphs.crop(frame, torch.tensor([[0.4, 0.0, 0.2, 1.0]]), torch.tensor([0]))
    np.testing.assert_allclose(squares, [[50, 0, 150, 100]], atol=1e-4)
    lit = crops[0, 0, 56] > 100
    assert 44 <= int(lit.sum()) <= 46
    assert not lit[:30].any()
    assert not lit[-30:].any()


box = st.tuples(
    st.floats(-0.5, 1.2), st.floats(-0.5, 1.2), st.floats(-0.2, 1.5), st.floats(-0.2, 1.5)
)


@settings(deadline=None, max_examples=40)
@given(box, st.integers(8, 90), st.integers(8, 90))
def test_any_box_gives_the_crop_that_the_plain_reading_gives(fractions, height, width):
    frame = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    boxes = torch.tensor([fractions], dtype=torch.float32)
    got, squares = graphs.crop(torch.from_numpy(frame[None]), boxes, torch.tensor([0]))
    wanted, origin, side = reading.crop(frame, boxes[0].double().numpy())
    if abs(side / 112 - round(side / 112)) < 1e-4 and side > 56:
        return  # the number of samples hangs on the last bit
    np.testing.assert_allclose(squares[0, :2], origin, atol=1e-3)
    # A sample exactly one pixel outside may fall on either side; a few of 112 rows at most.
    off = np.abs(got[0].permute(1, 2, 0).numpy() - wanted).max(axis=2) > 0.5
    assert off.mean() <= 0.04


def test_enlarging_takes_one_sample_and_shrinking_averages():
    plane = torch.arange(16.0).view(1, 1, 4, 4)
    shrunk = roi_align(plane, torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([0]), 1)
    assert shrunk.item() == pytest.approx(7.5)
    cell = roi_align(plane, torch.tensor([[1.0, 2.0, 2.0, 3.0]]), torch.tensor([0]), 1)
    assert cell.item() == pytest.approx(9.0)
