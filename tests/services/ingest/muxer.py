"""Publishes a tone and a grey card with FFmpeg's WHIP muxer: URL, kinds (a, v), options."""

import sys
import time
from fractions import Fraction

import av
import numpy as np

SECONDS = 3.2


def _picture(number):
    frame = av.VideoFrame.from_ndarray(
        np.full((180, 320, 3), 40 + number % 100, np.uint8), format="rgb24"
    )
    frame.pts, frame.time_base = number, Fraction(1, 30)
    return frame


def _sound(number):
    wave = np.sin(2 * np.pi * 440 * (number * 960 + np.arange(960)) / 48000) * 8000
    frame = av.AudioFrame.from_ndarray(
        np.repeat(wave.astype(np.int16), 2).reshape(1, -1), format="s16", layout="stereo"
    )
    frame.sample_rate, frame.pts = 48000, number * 960
    return frame


def _streams(output, kinds):
    streams = []
    if "v" in kinds:
        video = output.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        video.options = {"profile": "baseline", "preset": "ultrafast", "tune": "zerolatency"}
        streams.append((video, _picture, 1 / 30))
    if "a" in kinds:
        audio = output.add_stream("libopus", rate=48000)
        audio.codec_context.layout, audio.codec_context.format = "stereo", "s16"
        streams.append((audio, _sound, 0.02))
    return streams


def main(url, kinds, *options):
    chosen = dict(option.split("=", 1) for option in options)
    with av.open(url, "w", format="whip", options={"authorization": "dev", **chosen}) as output:
        streams = _streams(output, kinds)
        steps = sorted(
            (number * step, index)
            for index, (_, _, step) in enumerate(streams)
            for number in range(round(SECONDS / step))
        )
        began_s, numbers = time.monotonic(), [0] * len(streams)
        for at_s, index in steps:
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            stream, make, _ = streams[index]
            output.mux(stream.encode(make(numbers[index])))
            numbers[index] += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
