"""Finding labelled clips, and reading sound files."""

import wave
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="PyAV is not installed")

from exporters.media import read_audio
from exporters.voice.layouts import find_clips
from pipeline.errors import MediaError, UsageError


def write_wave(path: Path, *, rate_hz: int = 16_000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(rate_hz // 2) / rate_hz
    tone = (0.5 * np.sin(2 * np.pi * 300 * time_s) * 32767).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.repeat(tone[:, None], channels, axis=1).tobytes())
    return path


@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (48_000, 2), (8_000, 1)])
def test_any_rate_becomes_mono_16_khz(tmp_path: Path, rate_hz: int, channels: int) -> None:
    pcm = read_audio(write_wave(tmp_path / "a.wav", rate_hz=rate_hz, channels=channels))
    assert pcm.dtype == np.float32
    assert abs(pcm.size - 8000) <= 32
    assert np.abs(np.fft.rfft(pcm)).argmax() * 16_000 / pcm.size == pytest.approx(300, abs=3)
    assert np.abs(pcm).max() == pytest.approx(0.5, abs=0.05)


def test_what_is_no_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF but not really")
    with pytest.raises(MediaError, match="cannot be decoded"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(MediaError, match="cannot be"):
        read_audio(tmp_path / "missing.wav")


def test_clips_by_name_and_by_table(tmp_path: Path) -> None:
    write_wave(tmp_path / "data/wav/03a01Fa.wav")
    write_wave(tmp_path / "data/DC/a01.wav")
    write_wave(tmp_path / "data/wav/03a01La.wav")
    write_wave(tmp_path / "data/mine/x.wav")
    (tmp_path / "data/mine/labels.csv").write_text(
        "path,label,speaker\nx.wav,Joy,anna\ny.txt,sad,anna\nz.wav,bored,anna\n"
    )
    clips = find_clips([tmp_path / "data"])
    assert [(c.speaker, c.take.label) for c in clips] == [
        ("savee/DC", "angry"),
        ("mine/anna", "happy"),
        ("emo-db/03", "happy"),
    ]


def test_a_useless_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no labelled clips under"):
        find_clips([tmp_path])
    with pytest.raises(UsageError, match="is not a folder"):
        find_clips([tmp_path / "none"])
    (tmp_path / "labels.csv").write_text("file,emotion\na.wav,sad\n")
    with pytest.raises(UsageError, match="no columns 'path' and 'label'"):
        find_clips([tmp_path])
