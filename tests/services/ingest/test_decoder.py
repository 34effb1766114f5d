"""Real bitstreams through the decoder: sampled pictures, 16 kHz sound, damage that ends nothing."""

import random
from fractions import Fraction

import av
import numpy as np
import pytest
from msgspec.structs import replace

from pipeline.types import AudioChunk, VideoFrame
from services.ingest.collector import Encoded
from services.ingest.decoder import Decoder, acceptable
from services.ingest.items import Reached
from services.ingest.packets import is_key

FPS = 30
FRAME_TICKS = 16000 / FPS


def encoded_video(codec, frames, size=(320, 240), first=0):
    """Return frames whose brightness grows with their number."""
    name, options = {
        "VP8": ("libvpx", {"deadline": "realtime", "cpu-used": "-6", "lag-in-frames": "0"}),
        "H264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency"}),
    }[codec]
    context = av.CodecContext.create(name, "w")
    context.width, context.height = size
    context.pix_fmt, context.bit_rate, context.options = "yuv420p", 500_000, options
    context.time_base, context.framerate, context.gop_size = Fraction(1, FPS), FPS, 30
    packets = []
    for number in [*range(frames), None]:
        frame = None
        if number is not None:
            rgb = np.full((size[1], size[0], 3), 50 + number % 150, np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts = number
        packets += context.encode(frame)
    return [
        Encoded(
            "video", codec, round((first + p.pts) * FRAME_TICKS), d := bytes(p), is_key(codec, d)
        )
        for p in packets
    ]


def encoded_audio(codec, seconds, first=0):
    """Return 20 ms packets of a 440 Hz tone."""
    name, rate_hz = {
        "opus": ("libopus", 48000),
        "PCMU": ("pcm_mulaw", 8000),
        "PCMA": ("pcm_alaw", 8000),
        "G722": ("g722", 16000),
    }[codec]
    context = av.CodecContext.create(name, "w")
    context.sample_rate, context.format, context.layout = rate_hz, "s16", "mono"
    size = rate_hz // 50
    packets = []
    for number in range(round(seconds * 50)):
        wave = np.sin(2 * np.pi * 440 * (number * size + np.arange(size)) / rate_hz) * 8000
        sound = av.AudioFrame.from_ndarray(
            wave.astype(np.int16).reshape(1, -1), format="s16", layout="mono"
        )
        sound.sample_rate, sound.pts = rate_hz, number * size
        packets += [bytes(packet) for packet in context.encode(sound)]
    return [
        Encoded("audio", codec, first + number * 320, data, True)
        for number, data in enumerate(packets)
    ]


def _frames(decoded):
    return [item for item in decoded.items if isinstance(item, VideoFrame)]


def _chunks(decoded):
    return [item for item in decoded.items if isinstance(item, AudioChunk)]


@pytest.mark.parametrize("codec", ["VP8", "H264"])
def test_video_is_sampled_at_four_a_second(codec):
    decoded = Decoder().decode("s", encoded_video(codec, 60))
    frames = _frames(decoded)
    assert [frame.at for frame in frames] == [0, 4267, 8000, 12267, 16000, 20267, 24000, 28267]
    assert all(frame.rgb.shape == (240, 320, 3) for frame in frames)
    levels = [float(frame.rgb.mean()) for frame in frames]
    assert levels == sorted(levels)
    assert decoded.items[-1] == Reached("video", round(59 * FRAME_TICKS) + 1)
    assert (decoded.corrupt_video, decoded.oversized) == (0, 0)


def test_cutting_the_stream_into_batches_changes_nothing():
    packets = encoded_video("VP8", 60)
    whole = _frames(Decoder().decode("s", packets))
    decoder = Decoder()
    parts = [
        f for at in range(0, 60, 7) for f in _frames(decoder.decode("s", packets[at : at + 7]))
    ]
    assert [frame.at for frame in parts] == [frame.at for frame in whole]
    assert all((a.rgb == b.rgb).all() for a, b in zip(parts, whole, strict=True))


def test_size_and_codec_may_change():
    decoder = Decoder()
    shapes = []
    first = 0
    for codec, size in (("H264", (320, 180)), ("H264", (1280, 720)), ("VP8", (360, 640))):
        decoded = decoder.decode("s", encoded_video(codec, 15, size, first))
        shapes += [frame.rgb.shape[:2] for frame in _frames(decoded)]
        first += 15
    assert shapes == [(180, 320), (180, 320), (180, 320), (180, 320), (568, 320), (568, 320)]


@pytest.mark.parametrize(
    ("codec", "error"), [("opus", 250), ("PCMU", 450), ("PCMA", 450), ("G722", 700)]
)
def test_sound_keeps_its_time(codec, error):
    decoder = Decoder()
    packets = encoded_audio(codec, 2.0, first=1600)
    chunks = _chunks(decoder.decode("s", packets[:33])) + _chunks(decoder.decode("s", packets[33:]))
    assert chunks[0].start == 1600
    sound = np.concatenate([chunk.samples for chunk in chunks]).astype(float)
    assert 31_900 < len(sound) <= 32_000
    best = max(range(-160, 161), key=lambda lag: _overlap(sound, lag))
    assert -8 <= best <= 112  # the codecs' own delay: up to 6.5 ms (Opus)
    wave = np.sin(2 * np.pi * 440 * (np.arange(8000, 24000) - best) / 16000) * 8000
    assert np.abs(sound[8000:24000] - wave).mean() < error


def _overlap(sound, lag):
    wave = np.sin(2 * np.pi * 440 * (np.arange(8000, 24000) - lag) / 16000)
    return float(sound[8000:24000] @ wave) - abs(lag) * 1e-6


def test_loss_leaves_a_hole_at_its_place():
    packets = encoded_audio("opus", 1.0)
    decoded = Decoder().decode("s", packets[:20] + packets[25:])
    before, after = _chunks(decoded)
    assert (before.start, before.start + len(before.samples)) == (0, 6400)
    assert after.start == 8000


def test_late_and_doubled_packets_are_dropped():
    packets = encoded_audio("opus", 0.2)
    decoded = Decoder().decode("s", [*packets, packets[3], packets[-1]])
    assert decoded.corrupt_audio == 2
    assert len(_chunks(decoded)) == 1


@pytest.mark.parametrize("codec", ["VP8", "H264", "opus", "PCMU", "PCMA", "G722"])
def test_rubbish_is_survived_and_the_next_good_media_decoded(codec):
    rng = random.Random(codec)
    video = codec in ("VP8", "H264")
    good = encoded_video(codec, 30) if video else encoded_audio(codec, 0.5)
    decoder = Decoder()
    for number in range(60):
        data = rng.randbytes(rng.randrange(0, 300))
        kind = "video" if video else "audio"
        decoder.decode("s", [Encoded(kind, codec, number, data, bool(number % 2))])
    decoded = decoder.decode(
        "s", [Encoded(g.kind, g.codec, g.tick + 16000, g.data, g.key) for g in good]
    )
    assert len(_frames(decoded)) == 4 if video else len(_chunks(decoded)) >= 1


def test_truncated_frames_are_counted():
    packets = encoded_video("VP8", 30)
    cut = [Encoded("video", "VP8", p.tick, p.data[: len(p.data) // 3], p.key) for p in packets]
    decoder = Decoder()
    assert decoder.decode("s", cut).corrupt_video > 0
    assert _frames(decoder.decode("other", packets))


def _vp8_header(width, height):
    sizes = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return Encoded("video", "VP8", 0, b"\x10\0\0\x9d\x01\x2a" + sizes + bytes(57), True)


@pytest.mark.parametrize(
    ("size", "accepted"),
    [
        ((1920, 1088), True),
        ((1080, 1920), True),
        ((16, 16), True),
        ((15, 16), False),
        ((16383, 16383), False),
        ((1921, 100), False),
        ((1920, 1090), False),
    ],
)
def test_declared_sizes_are_checked_before_decoding(size, accepted):
    assert acceptable(_vp8_header(*size)) is accepted


def test_oversized_frames_never_reach_a_codec():
    decoded = Decoder().decode("s", [_vp8_header(16383, 16383)])
    assert (decoded.oversized, decoded.corrupt_video) == (1, 0)


def test_h264_above_the_limit_is_refused_before_decoding_and_by_the_decoder():
    packets = encoded_video("H264", 3, size=(2048, 1088))
    decoded = Decoder().decode("s", packets)
    assert _frames(decoded) == []
    assert (decoded.oversized, decoded.corrupt_video) == (1, 2)
    unsaid = [replace(packet, key=False) for packet in packets]
    decoded = Decoder().decode("s", unsaid)
    assert _frames(decoded) == []
    assert (decoded.oversized, decoded.corrupt_video) == (0, 3)


def test_sessions_do_not_share_codecs_and_are_forgotten():
    decoder = Decoder()
    packets = encoded_video("VP8", 30)
    decoder.decode("a", packets[:10])
    assert decoder.decode("b", packets[10:20]).corrupt_video > 0
    assert decoder.decode("a", packets[10:20]).corrupt_video == 0
    assert len(decoder) == 2
    decoder.forget("a")
    decoder.forget("never seen")
    assert len(decoder) == 1
