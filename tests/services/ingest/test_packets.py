"""Packets to frames: whole, in order, decodable, and never stuck behind a hole."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.packets import (
    HOPE_TICKS,
    KEY_WAIT_TICKS,
    STALL_TICKS,
    Assembler,
    Payload,
    is_key,
)

FRAME = 3000


def _packets(frames, *, first_seq=65500, first_time=2**32 - 30_000, keys=(0,), size=3, marker=True):
    """Return the packets of ``frames`` VP8-like frames; frame n holds its number."""

    def packet(number, part):
        head = bytes([0 if number in keys else 1]) if part == 0 else b""
        return Payload(
            (first_seq + number * size + part) % 65536,
            (first_time + number * FRAME) % 2**32,
            marker and part == size - 1,
            head + b"%d/%d " % (number, part),
        )

    return [packet(number, part) for number in range(frames) for part in range(size)]


def _numbers(frames):
    return [int(frame.data[1:].split(b"/")[0]) for frame in frames]


def _feed(assembler, packets):
    return [frame for packet in packets for frame in assembler.add(packet)]


def test_a_frame_leaves_with_its_last_packet():
    assembler = Assembler("VP8")
    packets = _packets(2)
    assert [len(assembler.add(packet)) for packet in packets] == [0, 0, 1, 0, 0, 1]


def test_without_marks_a_frame_leaves_with_the_next():
    frames = _feed(Assembler("VP8"), _packets(5, marker=False))
    assert _numbers(frames) == [0, 1, 2, 3]
    assert frames[0].data == b"\x000/0 0/1 0/2 "
    assert [frame.key for frame in frames] == [True, False, False, False]


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_order_and_duplicates_change_nothing(rng, size):
    packets = _packets(30, size=size)
    places = sorted(range(1, len(packets)), key=lambda place: place + rng.uniform(0, 5))
    shuffled = [packets[0]]
    for place in places:
        shuffled.append(packets[place])
        if rng.random() < 0.2:
            shuffled.append(rng.choice(shuffled))
    frames = _feed(Assembler("VP8"), shuffled)
    assert _numbers(frames) == list(range(30))
    assert [f.data for f in frames] == [f.data for f in _feed(Assembler("VP8"), packets)]


def test_a_late_retransmission_fills_the_hole():
    packets = _packets(4)
    lost = packets.pop(4)
    assembler = Assembler("VP8")
    assert _numbers(_feed(assembler, packets)) == [0]
    assert _numbers(assembler.add(lost)) == [1, 2, 3]
    assert not assembler.asks_for_key()


def test_a_hole_that_stays_is_given_up_and_a_key_frame_asked_for():
    stall = STALL_TICKS // FRAME
    packets = _packets(stall + 20, keys=(0, stall + 10))
    del packets[4]
    assembler = Assembler("VP8")
    frames, asked_at = [], []
    for packet in packets:
        frames += assembler.add(packet)
        if assembler.asks_for_key():
            asked_at.append((packet.timestamp - packets[0].timestamp) % 2**32 // FRAME)
    assert _numbers(frames) == [0, *range(stall + 10, stall + 20)]
    assert asked_at == [HOPE_TICKS // FRAME + 2]
    assert assembler.waiting == 0
    assert assembler.lost["undecodable_frames"] > 0


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["VP8", "H264"]),
    st.integers(1, 5),
    st.integers(0, 100),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_pictures_are_back_in_300_ms_of_media(codec, size, round_trip_ms, first_time, data):
    """One packet is lost for good; a key frame is made a round trip after the request."""
    lost_frame = 5
    lost_part = data.draw(st.integers(0, size - 1))
    assembler, frames, keys = Assembler(codec), [], {0}
    for number in range(30):
        for part, packet in enumerate(_frame(codec, number, size, first_time, number in keys)):
            if (number, part) == (lost_frame, lost_part):
                continue
            frames += [(number, frame.key) for frame in assembler.add(packet)]
            if assembler.asks_for_key():
                keys.add(number + 1 + round_trip_ms * 90 // FRAME)
    resumed = next(number for number, _ in frames if number > lost_frame)
    assert (resumed - lost_frame) * FRAME <= 0.3 * 90_000
    assert next(key for number, key in frames if number > lost_frame)
    assert [number for number, _ in frames] == [*range(lost_frame), *range(resumed, 30)]


def _frame(codec, number, size, first_time, key):
    """Return the packets of one frame."""
    heads = {("VP8", True): b"\0", ("VP8", False): b"\1"}
    head = heads.get((codec, key)) or (b"\0\0\0\1\x65" if key else b"\0\0\0\1\x41")
    return [
        Payload(
            (60_000 + number * size + part) % 65536,
            (first_time + number * FRAME) % 2**32,
            part == size - 1,
            (head if part == 0 else b"") + b"data",
        )
        for part in range(size)
    ]


def test_a_key_frame_behind_a_hole_goes_on_at_once_and_late_packets_are_dropped():
    packets = _packets(6, keys=(0, 3))
    lost = packets.pop(4)
    assembler = Assembler("VP8")
    assert _numbers(_feed(assembler, packets)) == [0, 3, 4, 5]
    assert assembler.add(lost) == []
    assert assembler.lost == {"packets_behind_a_hole": 5, "late_packets": 1}


def test_a_key_frame_whose_beginning_is_missing_is_not_taken_for_one():
    packets = _packets(6, keys=(0, 3))
    del packets[9]
    del packets[4]
    frames = _feed(Assembler("VP8"), packets)
    assert _numbers(frames) == [0]


def test_a_publisher_that_cannot_make_key_frames_is_shown_again():
    count = KEY_WAIT_TICKS // FRAME + 60
    packets = _packets(count)
    del packets[4]
    frames = _numbers(_feed(Assembler("VP8"), packets))
    assert frames[0] == 0
    assert frames[-1] == count - 1
    assert KEY_WAIT_TICKS // FRAME <= frames[1] <= KEY_WAIT_TICKS // FRAME + 20


def test_a_stream_joined_in_the_middle_waits_for_a_key_frame():
    assembler = Assembler("VP8")
    packets = _packets(10, keys=(4,))
    frames = _feed(assembler, packets)
    assert _numbers(frames) == [4, 5, 6, 7, 8, 9]
    assert assembler.asks_for_key()


def test_what_cannot_be_decoded_is_left_out_until_a_key_frame():
    assembler = Assembler("VP8")
    packets = _packets(12, keys=(0, 8))
    before = _feed(assembler, packets[: 3 * 3])
    assembler.damaged()
    after = _feed(assembler, packets[3 * 3 :])
    assert _numbers(before + after) == [0, 1, 2, 8, 9, 10, 11]
    assert assembler.asks_for_key()
    assert not assembler.asks_for_key()


def test_padding_is_no_frame():
    packets = _packets(2)
    padding = Payload((packets[2].sequence + 1) % 65536, packets[2].timestamp, False, b"")
    moved = [Payload((p.sequence + 1) % 65536, p.timestamp, p.marker, p.data) for p in packets[3:]]
    frames = _feed(Assembler("VP8"), [*packets[:3], padding, *moved])
    assert _numbers(frames) == [0, 1]


def test_numbers_that_begin_anew_are_followed():
    assembler = Assembler("VP8")
    first = _packets(3)
    again = _packets(3, first_seq=30_000, first_time=77)
    assert _numbers(_feed(assembler, first)) == [0, 1, 2]
    assert _numbers(_feed(assembler, again)) == [0, 1, 2]


def test_random_loss_never_holds_more_than_the_bound():
    rng = random.Random(1)
    assembler = Assembler("VP8")
    sent = _packets(900, keys=range(0, 900, 30), size=2)
    kept = sent[:2] + [packet for packet in sent[2:] if rng.random() > 0.2]
    numbers, most = [], 0
    for packet in kept:
        numbers += _numbers(assembler.add(packet))
        most = max(most, assembler.waiting)
    assert most <= 2 * STALL_TICKS // FRAME + 4
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 60


def test_key_frames_of_both_codecs():
    assert is_key("VP8", b"\x10\x02\x00\x9d")
    assert not is_key("VP8", b"\x11\x02\x00")
    assert is_key("H264", b"\0\0\0\1\x67abc\0\0\0\1\x68d\0\0\0\1\x65e")
    assert is_key("H264", b"\0\0\0\1\x65e")
    assert not is_key("H264", b"\0\0\0\1\x41abc")
    assert not is_key("H264", b"")
