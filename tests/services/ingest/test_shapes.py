"""Declared sizes of pictures, read before decoding, and how often they may change."""

import io
import random
from fractions import Fraction

import av
import pytest

from services.ingest import h264
from services.ingest.packets import Frame
from services.ingest.shapes import ShapeWatch, declared
from tests.chaos.holes import media

PROFILES = {"baseline": "yuv420p", "main": "yuv420p", "high": "yuv420p", "high422": "yuv422p"}


def _h264(width, height, profile, extra=""):
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, PROFILES[profile]
    context.time_base = Fraction(1, 30)
    context.options = {"profile": profile, "tune": "zerolatency", "x264-params": extra}
    frame = av.VideoFrame(width, height, context.pix_fmt)
    frame.pts = 0
    return b"".join(map(bytes, context.encode(frame)))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", [(16, 16), (640, 368), (368, 640), (1920, 1088), (4096, 2304)])
def test_h264_says_its_size(profile, size):
    assert h264.sizes(_h264(*size, profile)) == [size]


def test_sizes_are_before_cropping_and_of_whole_frames():
    assert h264.sizes(_h264(1280, 720, "high", "cqm=jvt")) == [(1280, 720)]
    assert h264.sizes(_h264(320, 180, "main")) == [(320, 192)]
    assert h264.sizes(_h264(1920, 1080, "main", "interlaced=1")) == [(1920, 1088)]


def test_every_parameter_set_of_a_frame_is_read():
    both = _h264(320, 192, "main") + _h264(4096, 2304, "high")
    assert h264.sizes(both) == [(320, 192), (4096, 2304)]


def test_bad_bytes_give_no_size_and_never_raise():
    chance = random.Random(5)
    good = _h264(640, 368, "high")
    for _ in range(3000):
        data = bytearray(good[:60])
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(4, len(data))] = chance.randrange(256)
        for width, height in h264.sizes(bytes(data)):
            assert width > 0
            assert height > 0
    assert h264.sizes(b"\0\0\1\x67" + b"\0" * 300) == []
    assert h264.sizes(b"\0\0\1\x67\x64\0\x1f" + b"\xff" * 3) == []
    assert h264.sizes(b"") == []


def test_vp8_says_its_size():
    assert declared("VP8", media.vp8_key(360, 640)) == [(360, 640)]
    assert declared("VP8", b"\x10\x00") == []


def _key(size):
    return Frame(0, media.vp8_key(*size), key=True)


LATER = Frame(0, b"\x01later", key=False)


def test_a_picture_that_turns_each_second_is_followed():
    watch = ShapeWatch()
    turns = [(320, 180), (1280, 720), (720, 1280)] * 5
    assert all(watch.accepts("VP8", _key(size), float(at)) for at, size in enumerate(turns))


def test_the_third_change_in_a_second_is_refused_until_a_key_frame_may():
    watch = ShapeWatch()
    sizes = [(320, 180), (330, 180), (340, 180), (350, 180)]
    taken = [watch.accepts("VP8", _key(size), at / 10) for at, size in enumerate(sizes)]
    assert taken == [True, True, True, False]
    assert not watch.accepts("VP8", LATER, 0.4)
    assert watch.accepts("VP8", _key((340, 180)), 0.4)
    assert watch.accepts("VP8", LATER, 0.4)
    assert not watch.accepts("VP8", _key((350, 180)), 0.5)
    assert watch.accepts("VP8", _key((350, 180)), 1.5)


def test_the_same_size_may_come_as_often_as_it_likes():
    watch = ShapeWatch()
    assert all(watch.accepts("VP8", _key((320, 180)), 0.0) for _ in range(50))


def test_the_present_size_is_known():
    watch = ShapeWatch()
    assert watch.pixels == 0
    watch.accepts("VP8", _key((320, 180)), 0.0)
    assert watch.pixels == 320 * 180
    watch.accepts("VP8", LATER, 0.1)
    assert watch.pixels == 320 * 180


def test_h264_key_frames_without_a_parameter_set_keep_the_size():
    watch = ShapeWatch()
    assert watch.accepts("H264", Frame(0, _h264(320, 192, "main"), key=True), 0.0)
    assert watch.accepts("H264", Frame(0, b"\0\0\0\1\x65slice", key=True), 0.0)


def test_the_bomb_of_the_attacks_is_small_and_large(tmp_path):
    frames = media.h264(4096, 4096, 3)
    assert sum(map(len, frames)) < 60_000
    assert declared("H264", frames[0]) == [(4096, 4096)]
    with av.open(io.BytesIO(b"".join(frames)), format="h264") as film:
        assert film.streams.video[0].width == 4096
