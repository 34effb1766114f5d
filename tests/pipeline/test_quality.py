"""Light, sharpness, motion and level, and the gates that stand on them."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from pipeline import quality
from pipeline.types import FrameReading, SlotReading

FACES = Path(__file__).parents[3] / "shared" / "data" / "faces"


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def reading(luma=100.0, sharpness=100.0, motion=1.0):
    return FrameReading(0, luma, sharpness, motion, ())


def slot(loudness):
    return SlotReading(0, 1.0, 0.0, loudness, None, None)


def measured(rgb):
    plane = quality.luma_plane(rgb)
    return reading(quality.brightness(plane), quality.sharpness(plane))


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 255))
def test_a_flat_frame_of_any_size_is_flat(height, width, value):
    plane = quality.luma_plane(np.full((height, width, 3), value, np.uint8))
    assert plane.shape == (quality.PLANE_HEIGHT_PX, quality.PLANE_WIDTH_PX)
    assert plane.dtype == np.float32
    assert np.allclose(plane, value, atol=0.01)
    assert quality.sharpness(plane) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_each_pixel_of_the_plane_is_the_mean_of_its_share(factor):
    rgb = noise(quality.PLANE_HEIGHT_PX * factor, quality.PLANE_WIDTH_PX * factor)
    luma = rgb @ np.array([0.299, 0.587, 0.114])
    expected = luma.reshape(120, factor, 160, factor).mean(axis=(1, 3))
    assert np.allclose(quality.luma_plane(rgb), expected, atol=0.01)


@pytest.mark.parametrize(
    ("colour", "luma"), [((255, 0, 0), 76.2), ((0, 255, 0), 149.7), ((0, 0, 255), 29.1)]
)
def test_luma_weighs_the_colours(colour, luma):
    rgb = np.full((10, 10, 3), colour, np.uint8)
    assert quality.brightness(quality.luma_plane(rgb)) == pytest.approx(luma, abs=0.1)


def test_sharpness_is_the_variance_of_the_laplacian():
    plane = np.zeros((120, 160), np.float32)
    plane[50, 50] = 1
    # One 4 and four -1 among 118 x 158 inner pixels: mean 0, square sum 20.
    assert quality.sharpness(plane) == pytest.approx(20 / (118 * 158))


def test_motion_is_the_mean_difference_whatever_the_size_of_the_frames():
    flat = quality.luma_plane(np.full((90, 160, 3), 100, np.uint8))
    lighter = quality.luma_plane(np.full((320, 180, 3), 103, np.uint8))
    assert (
        quality.motion(flat, lighter) == quality.motion(lighter, flat) == pytest.approx(3, rel=1e-5)
    )
    assert quality.motion(flat, flat) == 0


def test_gates_of_a_picture():
    assert quality.is_dark(measured(np.zeros((180, 320, 3), np.uint8)))
    assert quality.is_dark(reading(luma=16))
    assert not quality.is_dark(reading(luma=16.1))
    assert not quality.is_blurred(measured(noise(180, 320)))
    assert quality.is_blurred(measured(np.full((180, 320, 3), 100, np.uint8)))


def test_frozen_needs_a_second_without_any_change():
    still = [reading(motion=None), *[reading(motion=0.0)] * 4]
    assert quality.is_frozen(still)
    assert not quality.is_frozen(still[:-1])
    assert not quality.is_frozen([*still, reading(motion=0.02)])
    assert not quality.is_frozen([])


@pytest.mark.parametrize(
    ("levels", "silent", "muted"),
    [((-120, -120), True, True), ((-95, -70), True, False), ((-70, -50), False, False)],
)
def test_gates_of_sound_look_at_the_loudest_slot(levels, silent, muted):
    slots = [slot(level) for level in levels]
    assert quality.is_silent(slots) == silent
    assert quality.is_muted(slots) == muted


@pytest.mark.data
@pytest.mark.skipif(not FACES.is_dir(), reason="needs ../shared/data/faces")
def test_real_faces_pass_and_their_dark_and_blurred_copies_do_not():
    with (FACES / "labels.csv").open() as file:
        names = [row["file"] for row in csv.DictReader(file)][::60]
    images = [Image.open(FACES / "expressions" / name).convert("RGB") for name in names]
    images = [image.resize((150, 150)) for image in images if min(image.size) >= 150]
    assert len(images) > 20
    frames = [Image.new("RGB", (320, 180), (90, 90, 90)) for _ in images]
    for frame, image in zip(frames, images, strict=True):
        frame.paste(image, (85, 15))
    plain = [measured(np.asarray(frame)) for frame in frames]
    soft = [measured(np.asarray(frame.filter(ImageFilter.GaussianBlur(5)))) for frame in frames]
    black = [measured((np.asarray(frame) * 0.1).astype(np.uint8)) for frame in frames]
    assert not any(quality.is_dark(one) or quality.is_blurred(one) for one in plain)
    assert all(quality.is_blurred(one) for one in soft)
    assert all(quality.is_dark(one) for one in black)
