"""Small real media files for tests, made with PyAV: a grey ramp and a tone."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE_HZ = 48_000
FPS = 25


def tone(seconds: float, rate_hz: int = RATE_HZ, pitch_hz: float = 220.0) -> np.ndarray:
    at = np.arange(round(seconds * rate_hz)) / rate_hz
    return (8000 * np.sin(2 * np.pi * pitch_hz * at)).astype(np.int16)


def make_clip(
    path: Path,
    *,
    seconds: float = 3.0,
    video: str | None = "libx264",
    audio: str | None = "aac",
    size: tuple[int, int] = (160, 120),
    fps: int = FPS,
    key_frame_every: int = FPS,
    video_from_s: float = 0.0,
    video_to_s: float | None = None,
    loose: bool = False,
    audio_layout: str = "mono",
    container_options: dict[str, str] | None = None,
    video_options: dict[str, str] | None = None,
) -> Path:
    """Write a clip; picture number n has luma 16 + 2 n. `loose`: sound lies behind all pictures."""
    stop_s = seconds if video_to_s is None else video_to_s
    with av.open(str(path), "w", options=container_options or {}) as out:
        pictures = sound = None
        if video:
            pictures = out.add_stream(video, rate=fps)
            pictures.width, pictures.height = size
            pictures.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
            pictures.gop_size = key_frame_every
            pictures.options = video_options or (
                {"preset": "ultrafast", "bf": "0"} if video == "libx264" else {}
            )
        if audio:
            sound = out.add_stream(audio, rate=RATE_HZ)
            sound.layout = audio_layout
        first, last = round(video_from_s * fps), round(stop_s * fps)
        shown = [(number / fps, number) for number in range(first, last)] if pictures else []
        block = RATE_HZ // 50
        heard = [(n / 50, n) for n in range(round(seconds * 50))] if sound else []
        samples = tone(seconds)
        work = [(at, 0, n) for at, n in shown] + [(at, 1, n) for at, n in heard]
        for _, which, number in sorted(work, key=lambda w: (w[1], w[0]) if loose else w):
            if which == 0:
                luma = np.full((size[1], size[0], 3), min(235, 16 + 2 * number), np.uint8)
                frame = av.VideoFrame.from_ndarray(luma, format="rgb24")
                frame = frame.reformat(format=pictures.pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, fps)
                out.mux(pictures.encode(frame))
            else:
                part = samples[number * block : (number + 1) * block]
                wide = np.repeat(part, 2) if audio_layout == "stereo" else part
                chunk = av.AudioFrame.from_ndarray(wide[None], format="s16", layout=audio_layout)
                chunk.sample_rate, chunk.pts = RATE_HZ, number * block
                chunk.time_base = Fraction(1, RATE_HZ)
                out.mux(sound.encode(chunk))
        for stream in (pictures, sound):
            if stream is not None:
                out.mux(stream.encode(None))
    return path


def cut_short(whole: Path, path: Path, share: float) -> Path:
    """Copy the first part of a file's bytes."""
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
