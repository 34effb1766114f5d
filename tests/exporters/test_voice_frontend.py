"""The features against an independent reading, and against themselves cut into pieces."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="torch is not installed: pip install demeanor[export]")
pytest.importorskip("onnx", reason="onnx is not installed: pip install demeanor[export]")

from exporters import torchscript  # noqa: E402  after the skips
from exporters.voice import frontend  # noqa: E402
from exporters.voice.data import change_speed, clip_features  # noqa: E402
from exporters.voice.export import features_spec  # noqa: E402
from exporters.voice.frontend import CONTEXT, FEATURES, HOP, MELS, FrontEnd  # noqa: E402
from pipeline.session import Session  # noqa: E402

FRAMES = 120


@pytest.fixture(scope="module")
def session() -> Session:
    example = (torch.zeros(2, CONTEXT + 5 * HOP),)
    return Session(torchscript.export(FrontEnd(), example, features_spec()), file="features")


@pytest.fixture(scope="module")
def pcm() -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    time_s = np.arange(CONTEXT + FRAMES * HOP) / 16_000
    voice = 0.4 * np.sin(2 * np.pi * (180 * time_s + 30 * np.sin(5 * time_s)))
    noise = 0.01 * rng.standard_normal(time_s.size)
    swell = np.where(np.sin(7 * time_s) > 0, 1.0, 1e-4)  # near silence shows rounding
    return ((voice + noise) * swell).astype(np.float32)


def run(session: Session, pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    (features,) = session.run(None, {"pcm": pcm[None]})
    return features[0]


def by_hand(pcm: NDArray[np.float32]) -> NDArray[np.float64]:
    """numpy's FFT frame by frame; the low bands by a sum at each centre."""
    rows = []
    edges = np.linspace(frontend.hz_to_mel(60.0), frontend.hz_to_mel(7000.0), MELS + 2)
    bins_mel = np.array([frontend.hz_to_mel(hz) for hz in np.arange(257) * 31.25])
    bins_hz, edges_hz = np.arange(257) * 31.25, 700 * (10 ** (edges / 2595) - 1)
    assert np.all(np.diff(bins_mel) > 0)
    for start in range(0, pcm.size - frontend.KERNEL + 1, HOP):
        frame = pcm[start : start + frontend.KERNEL].astype(np.float64)
        long = frame[-1024:]
        short = long[312:712]
        hann = np.sin(np.pi * (np.arange(400) + 0.5) / 400) ** 2
        power = np.abs(np.fft.rfft(short * hann, 512)) ** 2
        mel = [
            float(power @ np.interp(bins_hz, edges_hz[k : k + 3], [0.0, 1.0, 0.0]))
            for k in range(MELS)
        ]
        hann = np.sin(np.pi * (np.arange(1024) + 0.5) / 1024) ** 2
        low = [
            abs(np.sum(long * hann * np.exp(-2j * np.pi * hz * np.arange(1024) / 16_000))) ** 2
            * (400 / 1024)
            for hz in 60.0 * 10.0 ** (np.arange(32) / 31)
        ]
        rows.append(np.log(np.array(mel + low) + 1e-8))
    return np.array(rows)


def test_equals_an_independent_stft(pcm: NDArray[np.float32], session: Session) -> None:
    loud = run(session, pcm)
    wanted = by_hand(pcm)
    assert loud.shape == wanted.shape == (FRAMES, FEATURES)
    assert np.abs(loud - wanted).max() < 1e-4


@settings(max_examples=50, deadline=None)
@given(cuts=st.sets(st.integers(1, FRAMES - 1), max_size=12))
def test_a_stream_cut_anywhere_gives_the_whole(
    session: Session, pcm: NDArray[np.float32], cuts: set[int]
) -> None:
    edges = [0, *sorted(cuts), FRAMES]
    parts = [run(session, pcm[a * HOP : CONTEXT + b * HOP]) for a, b in pairwise(edges)]
    assert np.abs(np.concatenate(parts) - run(session, pcm)).max() <= 1e-5


def test_a_slot_of_new_samples_gives_fifty_frames(session: Session) -> None:
    assert run(session, np.zeros(CONTEXT + 8000, np.float32)).shape == (50, FEATURES)


def test_a_frame_sees_nothing_outside_its_kernel(
    session: Session, pcm: NDArray[np.float32]
) -> None:
    changed = pcm.copy()
    at = CONTEXT + 40 * HOP  # first sample of frame 40's own hop
    changed[at:] += 0.3
    before, after = run(session, pcm), run(session, changed)
    assert np.array_equal(before[:40], after[:40])
    assert not np.array_equal(before[40:], after[40:])


def test_a_tone_is_loudest_in_its_low_band(session: Session) -> None:
    for number in (5, 16, 28):
        hz = frontend.low_bands_hz()[number]
        time_s = np.arange(CONTEXT + 20 * HOP) / 16_000
        rows = run(session, (0.5 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32))
        assert set(rows[:, MELS:].argmax(axis=1)) == {number}


def test_whole_clips_begin_in_silence() -> None:
    pcm = np.full(3 * HOP + 7, 0.1, np.float32)
    assert clip_features(FrontEnd(), pcm).shape == (3, FEATURES)


def test_speed_moves_length_and_pitch() -> None:
    time_s = np.arange(16_000) / 16_000
    faster = change_speed(np.sin(2 * np.pi * 200 * time_s).astype(np.float32), 1.25)
    assert faster.size == 12_800
    assert np.abs(np.fft.rfft(faster)).argmax() * 16_000 / faster.size == pytest.approx(250)
    assert np.abs(faster).max() == pytest.approx(1.0, abs=0.01)
