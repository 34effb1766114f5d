"""Pictures and sound reach the model as the published preprocessing gives them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import WhisperFeatureExtractor

from pipeline.explain import frames, mel

NOISE = np.random.default_rng(0)


def picture(height, width):
    return NOISE.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(180, 320), (320, 180), (224, 224), (100, 90), (480, 640)])
def test_squashed_pictures_are_those_of_pillow(shape):
    """Width first, then height: newer Pillow may turn the order, which moves single levels."""
    source = picture(*shape)
    narrow = Image.fromarray(source).resize((224, shape[0]), Image.Resampling.BICUBIC)
    wanted = np.asarray(narrow.resize((224, 224), Image.Resampling.BICUBIC))
    got = frames.square(source, 224, "squash")
    assert np.abs(wanted.astype(int) - got).max() <= 1
    assert (wanted != got).mean() < 1e-3


def test_padding_keeps_the_aspect():
    white = np.full((50, 100, 3), 255, np.uint8)
    padded = frames.square(white, 64, "pad")
    assert (padded[:12] == frames.PAD_LEVEL).all()
    assert (padded[-12:] == frames.PAD_LEVEL).all()
    assert (padded[20:44] == 255).all()


def test_the_middles_of_eight_stretches_are_looked_at():
    assert frames.chosen(8, 8) == tuple(range(8))
    assert frames.chosen(9, 8) == (1, 2, 3, 4, 5, 6, 7, 8)
    assert frames.chosen(16, 8) == (1, 3, 5, 7, 8, 10, 12, 14)
    assert frames.chosen(3, 8) == (0, 1, 2)


@given(st.integers(9, 4000), st.integers(1, 16))
def test_chosen_frames_rise_and_exist(available, wanted):
    if available <= wanted:
        return
    picked = frames.chosen(available, wanted)
    assert len(picked) == wanted
    assert list(picked) == sorted(set(picked))
    assert picked[0] >= 0
    assert picked[-1] < available


def test_missing_frames_are_black_and_levels_run_from_minus_one_to_one():
    source = np.full((30, 40, 3), 255, np.uint8)
    pixels = frames.pixels([source] * 3, 8, 32)
    assert pixels.shape == (8, 3, 32, 32)
    assert pixels.dtype == np.float32
    assert (pixels[:3] == 1).all()
    assert (pixels[3:] == -1).all()
    with pytest.raises(ValueError, match="no frame"):
        frames.pixels([], 8, 32)


@pytest.mark.parametrize("seconds", [0.5, 4.3, 30.0, 31.0])
def test_the_spectrogram_is_whisper_s(seconds):
    extractor = WhisperFeatureExtractor(feature_size=128)
    time = np.arange(int(seconds * 16_000)) / 16_000
    sound = 0.3 * np.sin(2 * np.pi * 220 * time) + 0.05 * NOISE.standard_normal(len(time))
    sound = sound.astype(np.float32)
    wanted = extractor(sound, sampling_rate=16_000, return_tensors="np").input_features
    got = mel.log_mel(sound, 128, 3000)
    assert got.shape == wanted.shape == (1, 128, 3000)
    assert np.abs(wanted - got).max() < 1e-4  # theirs is computed in fp32, in decades / 4


def test_silence_and_broken_samples_give_numbers():
    silent = mel.log_mel(np.zeros(16_000, np.float32), 128, 3000)
    assert (silent == silent[0, 0, 0]).all()
    broken = mel.log_mel(np.full(16_000, np.nan, np.float32), 128, 3000)
    assert np.isfinite(broken).all()
    assert broken.max() > silent.max()


@pytest.mark.parametrize("mels", [80, 128])
def test_filters_have_equal_area(mels):
    made = mel.filters(mels)
    assert made.shape == (201, mels)
    assert (made >= 0).all()
    assert (made.sum(0) > 0).all()
