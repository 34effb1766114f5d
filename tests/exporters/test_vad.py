"""Silero VAD: its authors' answers in one run, and it tells speech from silence."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from exporters import vad
from pipeline import models
from pipeline.session import open_session

AUTHORS_ANSWERS = [0.01351, 0.52586, 0.71707, 0.58078, 0.61917, 0.13153, 0.07798, 0.03476]
"""To every fourth chunk of :func:`vowel`, by the file in the wheel, chunk by chunk."""
VOICES = Path(__file__).parents[3] / "shared/data/voice/ravdess/actor_01"


@pytest.fixture(scope="module")
def session():
    return open_session(models.verified_bytes("vad"), file="vad.onnx")


def test_the_file_is_taken_out_of_the_wheel():
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(vad.MEMBER, b"model")
    assert vad.member(wheel.getvalue()) == b"model"


def test_silence_and_noise_are_no_speech(session):
    noise = np.random.default_rng(0).normal(0, 0.003, 16000).astype(np.float32)
    assert vad.probabilities(session, np.zeros(16000, np.float32)).max() < 0.1
    assert vad.probabilities(session, noise).max() < 0.3


def test_stretches_in_a_batch_do_not_touch_each_other(session):
    chunks = np.random.default_rng(1).normal(0, 0.1, (3, 20, 576)).astype(np.float32)
    (together,) = session.run(["speech"], {"chunks": chunks})
    for row in range(3):
        (one,) = session.run(["speech"], {"chunks": chunks[row, None]})
        np.testing.assert_allclose(one[0], together[row], atol=1e-5)


def test_what_comes_later_changes_nothing_before_it(session):
    heard = vad.probabilities(session, vowel())
    np.testing.assert_allclose(
        vad.probabilities(session, vowel()[: 20 * vad.CHUNK_SAMPLES]), heard[:20], atol=1e-5
    )


def test_it_answers_what_the_authors_file_answers(session):
    heard = vad.probabilities(session, vowel())
    np.testing.assert_allclose(heard[::4], AUTHORS_ANSWERS, atol=1e-4)


def vowel():
    """A second of a falling voice that says "a", swelling and fading four times."""
    time_s = np.arange(16000) / 16000
    phase = 2 * np.pi * np.cumsum(180 - 60 * time_s) / 16000
    formants = [(700, 1.0), (1200, 0.5), (2600, 0.2)]
    harmonics = sum(
        weight * np.exp(-(((150 * k - centre) / 150) ** 2)) * np.sin(k * phase)
        for k in range(1, 25)
        for centre, weight in formants
    )
    return (0.2 * harmonics * np.sin(4 * np.pi * time_s) ** 2).astype(np.float32)


@pytest.mark.data
@pytest.mark.skipif(not VOICES.is_dir(), reason="../shared/data/voice is not there")
def test_an_actor_speaking_is_speech(session):
    from exporters.media import read_audio

    for file in sorted(VOICES.glob("*.ogg"))[:3]:
        heard = vad.probabilities(session, read_audio(file))
        assert 0.2 < (heard > 0.5).mean() < 0.9
