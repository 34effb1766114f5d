"""Bytes that hostile publishers send."""

import io
import struct
from fractions import Fraction

import av
import numpy as np


def vp8_key(width, height):
    """Return a small VP8 key frame that declares any size at all."""
    (frame, _), *_ = good("VP8", 1)
    return frame[:6] + struct.pack("<HH", width, height) + frame[10:]


def vp8_payload(frame):
    """Return the RTP payload of a VP8 frame that fits one packet (RFC 7741)."""
    return b"\x10" + frame


def h264(width, height, frames):
    """Return ``frames`` black H.264 frames in Annex B; small, however large the picture."""
    out = io.BytesIO()
    with av.open(out, "w", format="h264") as target:
        stream = target.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
        picture = av.VideoFrame(width, height, "yuv420p")
        for plane in picture.planes:
            plane.update(bytes(plane.buffer_size))
        packets = []
        for number in range(frames):
            picture.pts = number
            packets += [bytes(packet) for packet in stream.encode(picture)]
        packets += [bytes(packet) for packet in stream.encode(None)]
    return packets


def good(codec, count, size=(320, 180)):
    """Return ``count`` good packets of ``codec`` as (data, key); ``size`` is a picture's."""
    if codec in ("VP8", "H264"):
        return _pictures(codec, count, *size)
    names = {"opus": "libopus", "PCMU": "pcm_mulaw", "PCMA": "pcm_alaw", "G722": "g722"}
    rates = {"opus": 48000, "PCMU": 8000, "PCMA": 8000, "G722": 16000}
    rate = rates[codec]
    context = av.CodecContext.create(names[codec], "w")
    context.sample_rate, context.layout, context.format = rate, "mono", "s16"
    context.open()
    step, packets = rate // 50, []
    for number in range(count):
        wave = np.sin(2 * np.pi * 440 * (number * step + np.arange(step)) / rate) * 8000
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16).reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.pts = rate, number * step
        packets += [(bytes(packet), True) for packet in context.encode(frame)]
    return packets


def _pictures(codec, count, width, height):
    name = {"VP8": "libvpx", "H264": "libx264"}[codec]
    context = av.CodecContext.create(name, "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = Fraction(1, 30)
    context.gop_size = 10
    context.options = (
        {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
        if codec == "VP8"
        else {"preset": "ultrafast", "tune": "zerolatency"}
    )
    packets = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(
            np.full((height, width, 3), 40 + number * 5 % 160, np.uint8), format="rgb24"
        ).reformat(format="yuv420p")
        frame.pts = number
        packets += [(bytes(p), bool(p.is_keyframe)) for p in context.encode(frame)]
    return packets + [(bytes(p), bool(p.is_keyframe)) for p in context.encode(None)]
