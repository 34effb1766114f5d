"""When a batch of encoded frames is worth a trip to the decoder."""

from services.ingest.collector import BOUND, MAX_BYTES, WAIT_S, Collector, Encoded


def _frame(kind, tick, size=100):
    return Encoded(kind, "opus" if kind == "audio" else "VP8", tick, bytes(size), False)


def test_one_track_flushes_as_it_passes_a_slot():
    collector = Collector()
    due = []
    for tick in range(0, 20_000, 320):
        collector.add(_frame("audio", tick), tick / 16000)
        if collector.due(tick / 16000):
            due.append(tick)
            assert [frame.tick for frame in collector.take()][-1] == tick
    assert due == [8000, 16000]
    assert len(collector) == 12


def test_two_tracks_flush_together():
    collector = Collector()
    collector.add(_frame("video", 7900), 0.0)
    collector.add(_frame("audio", 8000), 0.0)
    assert not collector.due(0.0)
    collector.add(_frame("video", 8430), 0.03)
    assert collector.due(0.03)
    assert [frame.kind for frame in collector.take()] == ["video", "video", "audio"]
    assert len(collector) == collector.waiting_bytes == 0
    assert not collector.due(9.0)


def test_a_track_that_lags_is_waited_for_a_moment_only_and_flushes_when_it_comes():
    collector = Collector()
    collector.add(_frame("video", 100), 0.0)
    collector.add(_frame("audio", 8000), 1.0)
    assert not collector.due(1.0 + WAIT_S / 2)
    assert collector.due(1.0 + 1.1 * WAIT_S)
    collector.take()
    collector.add(_frame("video", 7000), 1.2)
    collector.add(_frame("audio", 10_000), 1.2)
    assert not collector.due(1.2)
    collector.add(_frame("video", 8000), 1.25)
    assert collector.due(1.25)


def test_batches_are_in_media_order():
    collector = Collector()
    for tick in (320, 0, 640, 8320):
        collector.add(_frame("audio", tick), 0.0)
    assert [frame.tick for frame in collector.take()] == [0, 320, 640, 8320]


def test_a_full_track_is_cleared_as_a_whole():
    collector = Collector()
    for number in range(BOUND["video"]):
        assert collector.add(_frame("video", number), 0.0)
        collector.add(_frame("audio", 0), 0.0)
    assert collector.due(0.0)
    assert not collector.add(_frame("video", 200), 0.0)
    assert collector.dropped == {"video": BOUND["video"]}
    taken = collector.take()
    assert [frame.tick for frame in taken if frame.kind == "video"] == [200]


def test_bytes_are_bounded_too():
    collector = Collector()
    assert collector.add(_frame("video", 0, MAX_BYTES - 50), 0.0)
    assert not collector.add(_frame("video", 1), 0.0)
    assert collector.waiting_bytes == 100
