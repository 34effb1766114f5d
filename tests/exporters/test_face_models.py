"""The committed face models through the product's own session: what a caller may rely on."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import models
from pipeline.metrics import measure
from pipeline.session import open_session
from pipeline.spec import LABELS

FACES = Path(__file__).parents[3] / "shared/data/faces"
WHOLE = np.array([[0, 0, 1, 1]], np.float32)


@pytest.fixture(scope="module")
def sessions():
    names = ("face-detector", "face-expression", "face-landmarks")
    return {name: open_session(models.verified_bytes(name), file=name) for name in names}


def frames(count, height=180, width=320, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def test_a_batch_answers_as_its_frames_do_one_by_one(sessions):
    batch = frames(3)
    boxes, scores = sessions["face-detector"].run(["boxes", "scores"], {"frames": batch})
    for index in range(3):
        one = sessions["face-detector"].run(["boxes", "scores"], {"frames": batch[index, None]})
        np.testing.assert_allclose(one[0][0], boxes[index], atol=1e-4)
        np.testing.assert_allclose(one[1][0], scores[index], atol=1e-5)


@pytest.mark.parametrize(("height", "width", "anchors"), [(180, 320, 300), (240, 320, 400)])
def test_turning_the_frame_keeps_the_count_of_anchors(sessions, height, width, anchors):
    for shape in ((height, width), (width, height)):
        (scores,) = sessions["face-detector"].run(["scores"], {"frames": frames(1, *shape)})
        assert scores.shape == (1, anchors)


def test_no_face_in_a_black_frame(sessions):
    black = np.zeros((1, 180, 320, 3), np.uint8)
    (scores,) = sessions["face-detector"].run(["scores"], {"frames": black})
    assert scores.max() < 0.2


@pytest.mark.parametrize("name", ["face-expression", "face-landmarks"])
def test_each_face_is_read_from_its_own_frame(sessions, name):
    batch = frames(3)
    boxes = np.array([[0.1, 0.1, 0.3, 0.5], [0.4, 0.3, 0.2, 0.4], [0, 0, 1, 1]], np.float32)
    index = np.array([2, 0, 1])
    feeds = {"frames": batch, "boxes": boxes, "frame_index": index}
    (together,) = sessions[name].run(None, feeds)
    for row in range(3):
        alone = {
            "frames": batch[index[row], None],
            "boxes": boxes[row, None],
            "frame_index": np.zeros(1, np.int64),
        }
        np.testing.assert_allclose(sessions[name].run(None, alone)[0][0], together[row], atol=1e-4)


def test_probabilities_sum_to_one_in_wire_order(sessions):
    session = sessions["face-expression"]
    assert session.spec.labels == LABELS
    feeds = {"frames": frames(1, 48, 48), "boxes": WHOLE, "frame_index": np.zeros(1, np.int64)}
    (probabilities,) = session.run(["probabilities"], feeds)
    assert probabilities.shape == (1, 7)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_boxes_off_the_frame_are_survived(sessions):
    boxes = np.array([[1.5, 1.5, 0.2, 0.2], [-3, -3, 1, 1], [0.5, 0.5, 0, -1]], np.float32)
    feeds = {"frames": frames(1), "boxes": boxes, "frame_index": np.zeros(3, np.int64)}
    (probabilities,) = sessions["face-expression"].run(None, feeds)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.data
@pytest.mark.skipif(not FACES.is_dir(), reason="../shared/data/faces is not there")
def test_faces_in_the_wild_are_read_as_the_card_says(sessions):
    pytest.importorskip("torch")
    from exporters.face import calibrate

    labels, files = calibrate.table(FACES)
    labels, files = labels[1::12], files[1::12]
    figures = measure(labels, calibrate.predict(sessions["face-expression"], files))
    assert figures.n > 250
    assert figures.war > 0.55
    assert figures.ece < 0.12


@pytest.mark.data
@pytest.mark.skipif(not FACES.is_dir(), reason="../shared/data/faces is not there")
def test_a_face_on_a_frame_is_found_where_it_is(sessions):
    from PIL import Image

    found = 0
    files = sorted((FACES / "expressions").glob("happiness_*.jpg"))[:40:4]
    for file in files:
        frame = np.full((180, 320, 3), 128, np.uint8)
        with Image.open(file) as image:
            frame[20:160, 150:290] = np.asarray(image.convert("RGB").resize((140, 140)))
        boxes, scores = sessions["face-detector"].run(["boxes", "scores"], {"frames": frame[None]})
        x, y, width, height = boxes[0, scores[0].argmax()] * [320, 180, 320, 180]
        on_face = abs(x + width / 2 - 220) < 35 and abs(y + height / 2 - 90) < 35
        found += bool(on_face and scores.max() > 0.5)
    assert found >= 0.6 * len(files)
