"""Compose a call out of portraits and actors' speech: ``make_call.py ../shared/data OUT``.

Four parts of nine seconds, neutral, happy, angry, sad, each a portrait of that label (slowly panned
over a grey wall) and clips of one RAVDESS actor, then a part that is black and silent. The
portraits were chosen once, by eye, as plain examples of their label; nothing was chosen by score.
"""

import math
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT, FPS = 640, 480, 25
RATE_HZ = 48_000
PART_S = 9
DARK_S = 7
FACE_PX = 300
ACTOR = "02"


@dataclass(frozen=True)
class Part:
    """One part of the call."""

    label: str
    """As on the wire."""
    portrait: str
    speech: str
    """RAVDESS code of the emotion."""
    intensities: tuple[str, ...]


PARTS = (
    Part("neutral", "neutral_01696.jpg", "01", ("01",)),
    Part("happy", "happiness_00493.jpg", "03", ("02", "01")),
    Part("angry", "anger_00001.jpg", "05", ("02", "01")),
    Part("sad", "sadness_02893.jpg", "04", ("02", "01")),
)
DURATION_S = PART_S * len(PARTS) + DARK_S


def clips(data: Path, part: Part) -> list[Path]:
    """Return the clips of a part that exist, strong ones first."""
    names = [
        f"03-01-{part.speech}-{intensity}-{statement}-{take}-{ACTOR}.ogg"
        for intensity in part.intensities
        for statement in ("01", "02")
        for take in ("01", "02")
    ]
    folder = data / "voice" / "ravdess" / f"actor_{ACTOR}"
    return [folder / name for name in names if (folder / name).exists()]


def available(data: Path) -> bool:
    """Tell whether everything the call is made of is there."""
    faces = (data / "faces" / "expressions" / part.portrait for part in PARTS)
    return all(face.exists() for face in faces) and all(clips(data, part) for part in PARTS)


def spoken(file: Path) -> NDArray[np.int16]:
    """Return a clip without the silence before and after, shape ``(n,)``, 48 kHz."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
    with av.open(str(file)) as container:
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    sound = np.concatenate([part.to_ndarray()[0] for part in parts])
    loud = np.flatnonzero(np.abs(sound.astype(np.int32)) > 300)
    return sound[max(0, loud[0] - 4800) : loud[-1] + 4800] if len(loud) else sound


def sound_of(data: Path, part: Part) -> NDArray[np.int16]:
    """Return exactly one part's sound: clip after clip, cut off at its end."""
    row = np.concatenate([spoken(file) for file in clips(data, part)])
    row = np.concatenate([row, row, row])  # a part is never shorter than it should be
    return row[: PART_S * RATE_HZ]


def picture(face: Image.Image, seconds: float) -> NDArray[np.uint8]:
    """Return one frame with the portrait before a grey wall, shape ``(HEIGHT, WIDTH, 3)``."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), (112, 112, 116))
    x = (WIDTH - FACE_PX) // 2 + round(14 * math.sin(1.3 * seconds))
    y = (HEIGHT - FACE_PX) // 2 + round(8 * math.sin(1.9 * seconds))
    canvas.paste(face, (x, y))
    return np.asarray(canvas)


def write(data: Path, out: Path) -> None:
    """Encode the call: H264 and AAC for ``.mp4``, VP8 and Opus for ``.webm``."""
    web = out.suffix == ".webm"
    portraits = [
        Image.open(data / "faces" / "expressions" / part.portrait)
        .convert("RGB")
        .resize((FACE_PX, FACE_PX), Image.Resampling.BICUBIC)
        for part in PARTS
    ]
    silence = np.zeros(DARK_S * RATE_HZ, np.int16)
    sound = np.concatenate([*(sound_of(data, part) for part in PARTS), silence])
    black = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with av.open(str(out), "w") as container:
        video = container.add_stream("libvpx" if web else "libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.bit_rate, video.gop_size = 900_000, FPS
        video.options = {"deadline": "realtime", "cpu-used": "6"} if web else {"preset": "veryfast"}
        audio = container.add_stream("libopus" if web else "aac", rate=RATE_HZ)
        audio.layout = "mono"
        audio.bit_rate = 64_000
        step = RATE_HZ // FPS
        for number in range(DURATION_S * FPS):
            which = number // (PART_S * FPS)
            pixels = picture(portraits[which], number / FPS) if which < len(PARTS) else black
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
            block = np.ascontiguousarray(sound[None, number * step : (number + 1) * step])
            chunk = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            chunk.sample_rate, chunk.pts = RATE_HZ, number * step
            chunk.time_base = Fraction(1, RATE_HZ)
            container.mux(audio.encode(chunk))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if not available(Path(sys.argv[1])):
        sys.exit(f"{sys.argv[1]} lacks faces/expressions or voice/ravdess/actor_{ACTOR}")
    write(Path(sys.argv[1]), Path(sys.argv[2]))
