"""Level, pitch and pace of sounds that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import prosody
from pipeline.types import LEAD_TICKS, SLOT_TICKS, TICKS_PER_S

SPOKEN = np.ones(50, bool)
LENGTH = LEAD_TICKS + SLOT_TICKS


def voice(f0_hz, ticks=LENGTH, peak=8_000, noise=0.0, seed=0):
    """Harmonics that fall off like a glottal source, and noise."""
    time_s = np.arange(ticks) / TICKS_PER_S
    top = min(20, int(7_000 / f0_hz))
    sound = sum(np.sin(2 * np.pi * f0_hz * k * time_s) / k for k in range(1, top + 1))
    sound = sound / np.abs(sound).max() * peak
    return (sound + np.random.default_rng(seed).normal(0, noise, ticks)).astype(np.int16)


def syllables(rate_hz, seconds):
    """A voice whose level rises and falls ``rate_hz`` times a second."""
    ticks = int(seconds * TICKS_PER_S)
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * rate_hz * np.arange(ticks) / TICKS_PER_S)
    return (voice(140, ticks) * (0.05 + 0.95 * shape)).astype(np.int16)


def test_loudness_of_known_levels():
    assert prosody.loudness_dbfs(np.zeros(100, np.int16)) == prosody.SILENCE_DBFS
    assert prosody.loudness_dbfs(np.full(100, -32_768, np.int16)) == pytest.approx(0)
    assert prosody.loudness_dbfs(np.full(100, 3_277, np.int16)) == pytest.approx(-20, abs=0.01)
    sine = (32_767 * np.sin(np.arange(16_000) / 10)).astype(np.int16)
    assert prosody.loudness_dbfs(sine) == pytest.approx(-3.01, abs=0.02)


def test_loudness_is_that_of_the_slot_alone():
    pcm = np.zeros(LENGTH, np.int16)
    pcm[:LEAD_TICKS] = 20_000
    assert prosody.measure(pcm, SPOKEN)[0] == prosody.SILENCE_DBFS


@settings(deadline=None)
@given(st.floats(65, 390), st.floats(0, 800), st.integers(0, 1000))
def test_pitch_of_any_voice_is_found_through_noise(f0_hz, noise, seed):
    found = prosody.pitch_hz(voice(f0_hz, noise=noise, seed=seed), SPOKEN)
    assert found == pytest.approx(f0_hz, rel=0.02)


def test_pitch_does_not_depend_on_level_or_offset():
    loud = voice(200)
    quiet = (voice(200) // 20 + 500).astype(np.int16)
    assert prosody.pitch_hz(loud, SPOKEN) == pytest.approx(
        prosody.pitch_hz(quiet, SPOKEN), rel=0.01
    )


@pytest.mark.parametrize(
    "pcm",
    [
        np.zeros(LENGTH, np.int16),
        np.full(LENGTH, 1_000, np.int16),
        np.random.default_rng(0).normal(0, 3_000, LENGTH).astype(np.int16),
        np.tile(np.array([9_000, -9_000], np.int16), LENGTH // 2),
        np.pad(voice(120, 1_200), (LENGTH - 1_200, 0)),  # 75 ms only
    ],
    ids=["silence", "constant", "noise", "8 kHz", "too short"],
)
def test_what_is_not_voiced_has_no_pitch(pcm):
    assert prosody.pitch_hz(pcm, SPOKEN) is None


def test_pitch_is_that_of_the_speech_alone():
    pcm = np.concatenate([voice(300, LEAD_TICKS + 4_000), voice(100, 4_000)])
    speech = np.zeros(50, bool)
    speech[30:] = True
    assert prosody.pitch_hz(pcm, speech) == pytest.approx(100, rel=0.02)
    assert prosody.pitch_hz(pcm, np.zeros(50, bool)) is None


@pytest.mark.parametrize("rate_hz", [2.0, 3.0, 4.0, 5.5, 7.0])
def test_pace_over_some_seconds_is_that_of_the_syllables(rate_hz):
    sound = np.concatenate([np.zeros(LEAD_TICKS, np.int16), syllables(rate_hz, 10)])
    slots = [sound[at : at + LENGTH] for at in range(0, len(sound) - LENGTH + 1, SLOT_TICKS)]
    rates = [prosody.syllable_rate_hz(slot, SPOKEN) for slot in slots]
    assert np.mean(rates) == pytest.approx(rate_hz, rel=0.06)


def test_pace_needs_speech_and_peaks():
    assert prosody.syllable_rate_hz(syllables(4, 0.65), np.zeros(50, bool)) is None
    little = np.zeros(50, bool)
    little[:14] = True  # counted 50 ms late: 19 frames
    assert prosody.syllable_rate_hz(syllables(4, 0.65), little) is None
    assert prosody.syllable_rate_hz(voice(140), SPOKEN) == 0
    assert prosody.syllable_rate_hz(np.zeros(LENGTH, np.int16), SPOKEN) == 0


def test_pace_counts_peaks_within_speech_only():
    pcm = syllables(4, 0.65)
    late = np.zeros(50, bool)
    late[20:] = True
    assert prosody.syllable_rate_hz(pcm, SPOKEN) == 2 / 0.5
    assert prosody.syllable_rate_hz(pcm, late) == 1 / 0.25


def test_measure_gives_all_three():
    loudness, pitch, pace = prosody.measure(syllables(4, 0.65), SPOKEN)
    assert -30 < loudness < -10
    assert pitch == pytest.approx(140, rel=0.03)
    assert 2 <= pace <= 6


@settings(deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.sampled_from([0, 1, 100, 32_767]),
    st.integers(1, 400),
    st.lists(st.booleans(), min_size=50, max_size=50),
)
def test_any_sound_gives_finite_numbers_or_none(seed, peak, hold, speech):
    """Noise of any level, held for some samples so that it has all kinds of spectra."""
    steps = np.random.default_rng(seed).integers(-peak, peak, LENGTH // hold + 1, endpoint=True)
    pcm = np.repeat(steps, hold)[:LENGTH].astype(np.int16)
    answers = prosody.measure(pcm, np.array(speech))
    assert all(answer is None or np.isfinite(answer) for answer in answers)
    assert answers[1] is None or 59 < answers[1] < 411
