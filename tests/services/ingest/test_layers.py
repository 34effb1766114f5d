"""Which frames of a layered video are left undecoded."""

import pytest
from aiortc.codecs.vpx import VpxPayloadDescriptor

from services.ingest.collector import Encoded
from services.ingest.decoder import Decoder
from services.ingest.items import Reached
from services.ingest.layers import STREAK, LayerFilter, temporal_layer
from tests.services.ingest.test_decoder import encoded_video


@pytest.mark.parametrize("picture_id", [None, 5, 300])
@pytest.mark.parametrize("tl0picidx", [None, 7])
@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_vp8_names_its_layer(picture_id, tl0picidx, layer):
    descriptor = VpxPayloadDescriptor(
        partition_start=1,
        partition_id=0,
        picture_id=picture_id,
        tl0picidx=tl0picidx,
        tid=None if layer is None else (layer, 0),
        keyidx=3,
    )
    assert temporal_layer("VP8", bytes(descriptor) + b"data") == (layer or 0)


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\xff\xff", b"\x80\xf0\x80\x01", b"\x10"])
def test_a_truncated_descriptor_counts_as_base(payload):
    assert temporal_layer("VP8", payload) == 0


def test_h264_pictures_that_nothing_refers_to():
    assert temporal_layer("H264", b"\x01x") == 1
    assert [temporal_layer("H264", bytes([b])) for b in (0x21, 0x41, 0x65, 0x78)] == [0, 0, 0, 0]
    assert temporal_layer("H264", b"") == 0


@pytest.mark.parametrize(
    ("payload", "layer"),
    [
        (b"\x18\x00\x02\x41\x9a\x00\x02\x41\x9a", 0),
        (b"\x18\x00\x02\x01\x9a\x00\x02\x41\x9a", 0),
        (b"\x18\x00\x02\x01\x9a\x00\x02\x01\x9a", 1),
        (b"\x78\x00\x02\x01\x9a", 1),
        (b"\x18\x00", 0),
        (b"\x18", 0),
    ],
)
def test_in_an_h264_aggregate_the_parts_count(payload, layer):
    assert temporal_layer("H264", payload) == layer


def _run(layers, fps, chosen, start=0):
    step = 90_000 // fps
    return [
        chosen.needs(layer, (start + number * step) % 2**32) for number, layer in enumerate(layers)
    ]


def test_a_fast_base_layer_is_enough():
    chosen = LayerFilter()
    kept = _run([0, 2, 1, 2] * 40, 30, chosen, start=2**32 - 200_000)
    settled = kept[4 * (STREAK + 1) :]
    assert settled == [True, False, False, False] * (len(settled) // 4)
    assert all(kept[: 4 * STREAK])


def test_a_slow_base_layer_is_not():
    assert all(_run([0, 2, 1, 2] * 40, 15, LayerFilter()))


def test_a_video_without_layers_is_decoded_whole():
    chosen = LayerFilter()
    assert all(_run([0] * 200, 30, chosen))
    assert not chosen.skipping


def test_a_base_layer_that_slows_down_wants_the_rest_again():
    chosen = LayerFilter()
    _run([0, 2, 1, 2] * 20, 30, chosen)
    assert chosen.skipping
    kept = _run([0, 2, 1, 2] * 20, 10, chosen, start=90_000 * 20)
    assert kept[-4:] == [True, True, True, True]
    assert not chosen.skipping


def test_frames_left_out_still_tell_how_far_the_track_has_come():
    packets = encoded_video("VP8", 3)
    skipped = [Encoded("video", "VP8", 16_000 + n, b"", False, needed=False) for n in range(3)]
    decoded = Decoder().decode("s", [*packets, *skipped])
    assert decoded.items[-1] == Reached("video", 16_003)
    assert decoded.corrupt_video == 0
