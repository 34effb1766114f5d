"""The committed voice files: contract, digest, size, streaming, and a check on real clips."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import models
from pipeline.layouts import parse
from pipeline.session import Session
from pipeline.spec import LABELS

DATA = Path(__file__).parents[3] / "shared" / "data" / "voice"


def opened(name: str) -> Session:
    return Session(models.verified_bytes(name), file=models.entry(name).file)


@pytest.fixture(scope="module")
def features() -> Session:
    return opened("voice-features")


@pytest.fixture(scope="module")
def emotion() -> Session:
    return opened("voice-emotion")


@pytest.mark.parametrize("name", ["voice-features", "voice-emotion"])
def test_the_manifest_tells_the_truth(name: str) -> None:
    entry = models.entry(name)
    content = models.path(entry.file).read_bytes()
    assert (entry.sha256, entry.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    spec = opened(name).spec
    assert (entry.kind, entry.licence, entry.version) == (name, spec.licence, spec.version)


def test_both_files_stay_small() -> None:
    assert models.entry("voice-features").bytes + models.entry("voice-emotion").bytes <= 3_000_000


def test_the_two_graphs_fit_each_other(features: Session, emotion: Session) -> None:
    assert features.spec.outputs[0].shape[-1] == emotion.spec.inputs[0].shape[-1]
    assert emotion.spec.labels == LABELS
    assert emotion.spec.temperature is not None
    assert "RAVDESS" in emotion.spec.source
    assert emotion.spec.licence == "CC-BY-NC-SA-4.0"


def probabilities(
    features: Session, emotion: Session, pcm: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Answer for a whole clip, silence before it; shape (7,)."""
    context = features.spec.context_samples or 0
    whole = np.concatenate([np.zeros(context, np.float32), pcm[: pcm.size // 160 * 160]])
    (rows,) = features.run(None, {"pcm": whole[None]})
    mask = np.ones(rows.shape[:2], np.float32)
    return emotion.run(None, {"features": rows, "mask": mask})[0][0]


def test_silence_gets_a_distribution(features: Session, emotion: Session) -> None:
    answer = probabilities(features, emotion, np.zeros(32_000, np.float32))
    assert answer.sum() == pytest.approx(1.0, abs=1e-5)


def test_a_window_from_slots_equals_the_whole(features: Session, emotion: Session) -> None:
    context = features.spec.context_samples or 0
    rng = np.random.default_rng(2)
    pcm = rng.normal(0, 0.05, context + 32_000).astype(np.float32)
    slots = [
        features.run(None, {"pcm": pcm[None, start : start + context + 8000]})[0]
        for start in range(0, 32_000, 8000)
    ]
    (whole,) = features.run(None, {"pcm": pcm[None]})
    assert np.abs(np.concatenate(slots, axis=1) - whole).max() <= 1e-5
    assert whole.shape[1] == 200


@pytest.mark.data
def test_actors_of_the_training_data_are_understood(features: Session, emotion: Session) -> None:
    """In sample, so a check of the files and no figure to quote: the card has the held-out ones."""
    if not DATA.is_dir():
        pytest.skip("../shared/data/voice is absent")
    pytest.importorskip("av", reason="PyAV is not installed")
    from exporters.media import read_audio

    paths = sorted((DATA / "ravdess").rglob("*.ogg"))[::17] + sorted(DATA.rglob("*/SM0*.ogg"))[::17]
    right = 0
    for path in paths:
        take = parse(path.name)
        assert take is not None
        answer = probabilities(features, emotion, read_audio(path))
        right += LABELS[int(answer.argmax())] == take.label
    assert right / len(paths) > 0.6
