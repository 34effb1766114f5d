"""Make ``services/web/sample.webm``, the sample call of the page: ``make_sample.py PORTRAIT OUT``.

PORTRAIT is the public-domain NASA portrait ``skimage/data/astronaut.png`` out of the scikit-image
wheel; the speech comes from the ``espeak-ng`` program. Nobody's call is in it. The picture pans,
zooms and changes light and focus over the still; the voice begins calm, then the camera tilts away
from the face and the voice grows louder, higher and faster, then both come back, and at the end
picture and sound go dark and silent: a page shows all there is, "voice only" and "no evidence" too.
"""

import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

WIDTH, HEIGHT, FPS = 640, 480, 25
RATE_HZ = 48_000
DURATION_S = 36
DARK_FROM_S = 30
KEY_FRAME_EVERY = 2 * FPS
FADE_FRAMES = FPS // 2
MAX_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class Line:
    """One sentence of the caller."""

    at_s: float
    text: str
    pitch: int
    """espeak-ng ``-p``, 0..99."""
    words_per_minute: int
    amplitude: int
    """espeak-ng ``-a``, 0..200."""


VOICE = "en-us+f5"
AWAY_S = (10.6, 24.4)
"""The camera looks at the suit instead of the face."""
TILT_S = 1.0
LINES = (
    Line(0.4, "Hello, I am calling about my order. It was meant to come on Monday.", 40, 150, 60),
    Line(5.8, "I can give you the number. It is four, seven, one.", 40, 150, 60),
    Line(10.4, "No! I have said that twice already! I have waited a whole week!", 50, 205, 180),
    Line(14.1, "No! Nobody called me back! Nobody! I have said that twice!", 48, 205, 190),
    Line(18.3, "I have waited a whole week! No! I want my money back, today!", 50, 205, 190),
    Line(22.15, "I have said that twice already! That is not good enough!", 50, 205, 190),
    Line(25.5, "Oh. It is on its way now? All right, thank you.", 44, 155, 70),
)


def spoken(line: Line, folder: Path) -> NDArray[np.float32]:
    """Return the sentence as samples in [-1, 1] at :data:`RATE_HZ`, shape ``(n,)``."""
    file = folder / "line.wav"
    command = ["espeak-ng", "-v", VOICE, "-p", str(line.pitch), "-s", str(line.words_per_minute)]
    subprocess.run([*command, "-a", str(line.amplitude), "-w", str(file), line.text], check=True)
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
    with av.open(str(file)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def voice() -> NDArray[np.int16]:
    """Return the whole sound track, shape ``(DURATION_S * RATE_HZ,)``."""
    track = np.zeros(DURATION_S * RATE_HZ, np.float32)
    with tempfile.TemporaryDirectory() as name:
        for line, following in zip(LINES, [*LINES[1:], None], strict=True):
            start = round(line.at_s * RATE_HZ)
            room = round((following.at_s if following else DARK_FROM_S) * RATE_HZ) - start
            samples = spoken(line, Path(name))
            if len(samples) > room:
                print(f"cut: {line.text!r} lasts {len(samples) / RATE_HZ:.1f} s", file=sys.stderr)
            track[start : start + min(room, len(samples))] = samples[:room]
    return np.clip(track * 32767, -32768, 32767).astype(np.int16)


def picture(still: Image.Image, number: int) -> NDArray[np.uint8]:
    """Return frame ``number``, shape ``(HEIGHT, WIDTH, 3)``, RGB."""
    seconds = number / FPS
    leaves, returns = AWAY_S
    away = float(
        np.interp(seconds, [leaves, leaves + TILT_S, returns, returns + TILT_S], [0, 1, 1, 0])
    )
    zoom = 1.30 + 0.12 * math.sin(0.45 * seconds) + 0.3 * away
    width = still.width / zoom
    height = width * HEIGHT / WIDTH
    # The portrait's face lies left of the middle, in the upper half; the suit fills the lower one.
    x = 224 - width / 2 + 10 * math.sin(1.1 * seconds)
    y = (128 + 280 * away) - height / 2 + 5 * math.sin(1.7 * seconds + 1)
    x = min(max(0.0, x), still.width - width)
    y = min(max(0.0, y), still.height - height)
    view = still.resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(x, y, x + width, y + height)
    )
    view = view.filter(ImageFilter.GaussianBlur(0.6 + 0.6 * math.sin(0.8 * seconds) ** 2))
    light = 0.94 + 0.08 * math.sin(0.6 * seconds)
    to_dark = (DARK_FROM_S * FPS - number) / FADE_FRAMES
    light *= min(1.0, max(0.0, to_dark))
    return np.clip(np.asarray(view, np.float32) * light, 0, 255).astype(np.uint8)


def write(portrait: Path, out: Path) -> None:
    """Encode VP8 and Opus into ``out``: cues and a duration in front, a key frame every 2 s."""
    still = Image.open(portrait).convert("RGB")
    options = {"fflags": "+bitexact", "cues_to_front": "1", "reserve_index_space": "4096"}
    with av.open(str(out), "w", format="webm", options=options) as container:
        video = container.add_stream("libvpx", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.bit_rate = 300_000
        video.gop_size = KEY_FRAME_EVERY
        video.options = {
            "deadline": "good", "cpu-used": "1", "auto-alt-ref": "0", "keyint_min": "50"
        }  # fmt: skip
        audio = container.add_stream("libopus", rate=RATE_HZ)
        audio.layout = "mono"
        audio.bit_rate = 40_000
        sound = voice()
        step = RATE_HZ // FPS
        for number in range(DURATION_S * FPS):
            frame = av.VideoFrame.from_ndarray(picture(still, number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
            block = sound[None, number * step : (number + 1) * step]
            chunk = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            chunk.sample_rate = RATE_HZ
            chunk.pts, chunk.time_base = number * step, Fraction(1, RATE_HZ)
            container.mux(audio.encode(chunk))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    size = out.stat().st_size
    print(f"{out}: {size / 1e6:.2f} MB, {DURATION_S} s")
    if size > MAX_BYTES:
        sys.exit(f"{out} is larger than {MAX_BYTES} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), Path(sys.argv[2]))
