import io
import itertools
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import MediaError, UsageError
from pipeline.types import MAX_WIDTH_PX, TICKS_PER_S, AudioChunk, VideoFrame, Window
from pipeline.windowing import Windower
from services.ingest import address as addresses_module
from services.ingest.items import Ended, Item, Reached
from services.ingest.merging import end_of, tick_of
from services.ingest.reading import Reading
from services.ingest.source import Source, open_source, read_audio
from tests.tools.clips import cut_short, make_clip, tone


def items_of(path: Path) -> tuple[Source, list[Item]]:
    with closing(open_source(str(path))) as source:
        return source, list(source.items())


def pictures(items: list[Item]) -> list[VideoFrame]:
    return [item for item in items if isinstance(item, VideoFrame)]


def sound(items: list[Item]) -> list[AudioChunk]:
    return [item for item in items if isinstance(item, AudioChunk)]


def windows(source: Source, items: list[Item]) -> list[Window]:
    windower = Windower(audio="audio" in source.tracks, video="video" in source.tracks)
    found = []
    for item in items:
        match item:
            case Reached():
                windower.reached(item.kind, item.tick)
            case Ended():
                windower.ended(item.kind)
            case _:
                windower.feed(item)
        found += windower.take()
    found += windower.finish()
    assert windower.dropped["late_audio_ticks"] == windower.dropped["late_frames"] == 0
    return [item for item in found if isinstance(item, Window)]


FORMATS = [
    ("h264-aac.mp4", {}),
    ("b-frames.mp4", {"video_options": {"preset": "veryfast", "bf": "2"}}),
    ("vp8-opus.webm", {"video": "libvpx", "audio": "libopus"}),
    ("stereo.mkv", {"audio": "flac", "audio_layout": "stereo"}),
    ("mpeg.ts", {}),
    ("silent.mp4", {"audio": None}),
    ("sound.wav", {"video": None, "audio": "pcm_s16le"}),
    ("sound.mp3", {"video": None, "audio": "libmp3lame"}),
    ("sound.ogg", {"video": None, "audio": "libopus"}),
]


@pytest.mark.parametrize(("name", "options"), FORMATS, ids=[name for name, _ in FORMATS])
def test_media_lies_where_it_is_shown_and_heard(
    tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    source, items = items_of(make_clip(tmp_path / name, seconds=3.0, **options))
    assert source.complaint is None
    if "video" in source.tracks:
        shown = pictures(items)
        assert [frame.at // 4000 for frame in shown] == list(range(12))
        for frame in shown:
            assert frame.rgb.shape == (120, 160, 3)
            number = round(frame.at / TICKS_PER_S * 25)
            assert abs(int(frame.rgb.mean()) - (16 + 2 * number)) <= 3
    if "audio" in source.tracks:
        chunks = sound(items)
        assert chunks[0].start == 0
        for before, after in itertools.pairwise(chunks):
            assert after.start == end_of(before)
        assert abs(end_of(chunks[-1]) - 3 * TICKS_PER_S) < TICKS_PER_S // 8
        heard = np.concatenate([chunk.samples for chunk in chunks])[:TICKS_PER_S]
        spectrum = np.abs(np.fft.rfft(heard))
        assert abs(int(spectrum.argmax()) - 220) <= 1
    assert items.index(next(i for i in items if isinstance(i, Ended))) >= len(items) - 4


def test_tracks_leave_in_one_order_of_time_however_the_file_interleaves_them(
    tmp_path: Path,
) -> None:
    options = {"seconds": 6, "video": "mjpeg", "audio": "pcm_s16le"}
    tidy = items_of(make_clip(tmp_path / "tidy.mkv", **options))
    loose_file = make_clip(
        tmp_path / "loose.mkv",
        loose=True,
        container_options={"max_interleave_delta": "1"},
        **options,
    )
    with av.open(str(loose_file)) as container:
        order = [packet.stream.type for packet in container.demux() if packet.size]
    assert order.index("audio") >= 149, "all pictures come first in this file"
    loose = items_of(loose_file)
    for _, items in (tidy, loose):
        ticks = [tick_of(item) for item in items if not isinstance(item, Ended)]
        assert ticks == sorted(ticks)
    for one, other in zip(windows(*tidy), windows(*loose), strict=True):
        assert one.index == other.index
        assert [f.at for f in one.frames or ()] == [f.at for f in other.frames or ()]
        assert one.audio_coverage == other.audio_coverage == (1.0,) * 4


def test_a_track_that_begins_late_and_ends_early_stays_in_place(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "part.mkv", seconds=6, video_from_s=2, video_to_s=4, audio="flac")
    source, items = items_of(clip)
    assert {f.at // TICKS_PER_S for f in pictures(items)} == {2, 3}
    assert [bool(w.frames) for w in windows(source, items)] == [False] + [True] * 7 + [False]


def test_wide_pictures_are_scaled_and_small_ones_are_left(tmp_path: Path) -> None:
    _, items = items_of(make_clip(tmp_path / "wide.mp4", seconds=1, size=(1280, 720), audio=None))
    assert {frame.rgb.shape for frame in pictures(items)} == {(180, MAX_WIDTH_PX, 3)}
    assert not pictures(items)[0].rgb.flags.writeable


def test_oblong_pixels_become_square(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "x264-params": "sar=2/1"}
    clip = make_clip(tmp_path / "oblong.mkv", seconds=1, audio=None, video_options=options)
    _, items = items_of(clip)
    assert pictures(items)[0].rgb.shape == (120, 320, 3)


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    plain = make_clip(tmp_path / "song.mp3", seconds=2, video=None, audio="libmp3lame")
    picture = make_clip(tmp_path / "cover.mjpeg", seconds=0.04, video="mjpeg", audio=None)
    covered = tmp_path / "covered.mp3"
    with (
        av.open(str(plain)) as music,
        av.open(str(picture)) as art,
        av.open(str(covered), "w") as out,
    ):
        song = out.add_stream_from_template(music.streams.audio[0])
        cover = out.add_stream_from_template(art.streams.video[0])
        cover.disposition = av.stream.Disposition.attached_pic
        for source, stream in ((art, cover), (music, song)):
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
    with av.open(str(covered)) as check:
        assert len(check.streams.video) == 1
    source, items = items_of(covered)
    assert source.tracks == ("audio",)
    assert not pictures(items)


def test_a_truncated_file_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    whole = make_clip(
        tmp_path / "whole.mp4", seconds=10, container_options={"movflags": "faststart"}
    )
    source, items = items_of(cut_short(whole, tmp_path / "part.mp4", 0.5))
    assert 2 * TICKS_PER_S < end_of(sound(items)[-1]) < 8 * TICKS_PER_S
    assert source.complaint is not None
    assert "part.mp4" in source.complaint
    assert "what could be read was used" in source.complaint


def test_a_damaged_file_gives_the_rest_and_says_so(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mkv", seconds=6, audio="libopus", key_frame_every=5)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "hurt.mkv").write_bytes(data)
    source, items = items_of(tmp_path / "hurt.mkv")
    assert end_of(sound(items)[-1]) > 5 * TICKS_PER_S
    assert source.complaint is None or "hurt.mkv" in source.complaint


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("talk.mp4", b"this is a letter, not a film\n" * 40, "not media"),
        ("talk.txt", b"this is a letter, not a film\n" * 40, "not media"),
        ("empty.mp4", b"", "empty"),
        ("noise.webm", bytes(range(256)) * 64, "not media"),
    ],
)
def test_what_is_no_media_is_named_in_one_sentence(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    with pytest.raises(MediaError, match=words) as refused:
        items_of(write(tmp_path / name, data))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_film_cut_off_before_its_index_is_refused(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mp4", seconds=4)
    with pytest.raises(MediaError, match="cut off before its index"):
        open_source(str(cut_short(whole, tmp_path / "half.mp4", 0.5)))


def test_a_playlist_in_disguise_fetches_nothing(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        lines = f"#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:{port}/secret.ts\n#EXT-X-ENDLIST\n"
        with pytest.raises(MediaError):
            items_of(write(tmp_path / "talk.m3u8", lines.encode()))
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_name_that_looks_like_a_protocol_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "concat:talk.wav", seconds=1, video=None, audio="pcm_s16le")
    source, _ = items_of(Path("concat:talk.wav"))
    assert source.tracks == ("audio",)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "empty"),
        ("nowhere.mp4", "does not exist"),
        ("ftp://host/talk.mp4", "sources are files"),
        ("rtsp:///talk", "names no host"),
        ("http://[broken/talk", "not a URL"),
        ("webcam:front", "numbered"),
    ],
)
def test_what_cannot_be_a_source_is_wrong_use(spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        addresses_module.addresses(spec)


def test_a_folder_gives_its_media_files_in_order(tmp_path: Path) -> None:
    for name in ("b.wav", "a.mp4", "A.MP3", "notes.txt", "b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "sub.mp4").mkdir()
    found = addresses_module.addresses(str(tmp_path))
    assert [address.stem for address in found] == ["A", "a", "b.mp4", "b.wav"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="holds no media files"):
        addresses_module.addresses(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("spec", "kind", "live", "stream"),
    [
        ("rtsp://user:secret@camera.example/hall one", "rtsp", True, "hall-one"),
        ("rtmp://host/app/key", "rtsp", True, "key"),
        ("https://host/talks/t%C3%A4lk.mp4?sig=1", "file", False, "t-lk"),
        ("webcam", "device", True, "webcam-0"),
        ("webcam:2", "device", True, "webcam-2"),
        ("/dev/video1", "device", True, "webcam-1"),
        ("mic", "device", True, "mic-default"),
        ("mic:hw:1", "device", True, "mic-hw-1"),
        ("-", "file", False, "stdin"),
    ],
)
def test_addresses(
    spec: str, kind: str, live: bool, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    (address,) = addresses_module.addresses(spec)
    assert (address.kind, address.live, address.stream) == (kind, live, stream)
    assert "secret" not in address.spec


def test_devices_are_read_directly_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UsageError, match="publish them from the page"):
        addresses_module.addresses("mic")


@pytest.mark.parametrize("spec", ["webcam:63", "mic:none-such"])
def test_a_missing_device_is_named(spec: str) -> None:
    with pytest.raises(MediaError, match="plug one in"):
        open_source(spec)


@pytest.mark.parametrize("scheme", ["http", "rtsp", "rtmp"])
def test_a_server_that_is_not_there_is_named(scheme: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with pytest.raises(MediaError, match=r"nothing answers at|cannot be opened"):
        open_source(f"{scheme}://127.0.0.1:{port}/talk")


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(tmp_path / "talk.mkv", seconds=2, audio="flac")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(clip.read_bytes())))
    with closing(open_source("-")) as source:
        assert len(pictures(list(source.items()))) == 8


def test_read_audio_gives_the_whole_sound(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "talk.wav", seconds=2.5, video=None, audio="pcm_s16le")
    heard = read_audio(clip)
    assert heard.dtype == np.int16
    assert heard.shape == (40_000,)
    expected = tone(2.5, TICKS_PER_S)
    assert np.abs(heard[800:-800].astype(int) - expected[800:-800]).max() < 300
    with pytest.raises(MediaError, match="no sound"):
        read_audio(make_clip(tmp_path / "mute.mp4", seconds=1, audio=None))


async def test_reading_gives_the_same_as_the_iterator(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "talk.mkv", seconds=5, audio="flac")
    _, expected = items_of(clip)
    got: list[Item] = []
    async with Reading(open_source(str(clip))) as reading:
        async for batch in reading.batches():
            assert batch
            got += batch
    assert [type(item) for item in got] == [type(item) for item in expected]


async def test_reading_can_be_left_in_the_middle(tmp_path: Path) -> None:
    source = open_source(str(make_clip(tmp_path / "talk.mkv", seconds=5, audio="flac")))
    async with Reading(source) as reading:
        async for _ in reading.batches():
            break
    assert source.position_ticks < 5 * TICKS_PER_S


async def test_an_error_of_the_source_reaches_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(make_clip(tmp_path / "talk.wav", video=None, audio="pcm_s16le")))

    def nothing() -> Iterator[Item]:
        raise MediaError("talk.wav holds nothing that can be decoded")
        yield

    monkeypatch.setattr(source, "_decoded", nothing)
    async with Reading(source) as reading:
        with pytest.raises(MediaError, match="nothing that can be decoded"):
            await anext(reading.batches())
