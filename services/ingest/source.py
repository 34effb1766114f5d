"""Files, URLs and devices as one iterator of sampled media, made like live media.

An :class:`~services.ingest.address.Address` comes in; sound at 16 kHz, pictures of at most 320 px
and marks of how far each track got go out, with media ticks from the container's time stamps: the
first sample is tick 0, for both tracks. Everything here blocks; :mod:`services.ingest.reading` puts
it on a thread. Nothing is written anywhere.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MediaError
from pipeline.types import TICKS_PER_S, AudioChunk, Kind
from services.ingest.address import CONNECT_S, Address, addresses
from services.ingest.faults import clock, lost, refusal
from services.ingest.items import Ended, Item
from services.ingest.merging import Merger, end_of
from services.ingest.tracks import Pictures, Sound

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream

MAX_PIXELS = 7680 * 4320
"""Largest picture that is decoded."""
_MICROSECONDS = 1_000_000
_DURATION_IN_HEADER = ("mov,mp4", "matroska", "flv", "avi")
"""Containers whose header says how long they are meant to be."""
_CUT_SHORT = 0.98
_ALSA = Path("/usr/share/alsa/alsa.conf")
_NOT_MEDIA = frozenset({"tty", "bin", "xbin", "adf", "idf"})
"""Demuxers that make pictures out of text."""


class Source:
    """One opened source. Iterate :meth:`items` once, then close."""

    def __init__(self, address: Address) -> None:
        """Open the source; blocks. Raises :class:`MediaError` with what to do."""
        self.address = address
        self.stopped = False
        """Whether somebody asked to :meth:`stop`."""
        self._container = opened(address)
        try:
            streams = chosen(self._container, address)
        except BaseException:
            self._container.close()
            raise
        self._streams = streams
        self._tracks = {stream.index: _track(stream) for stream in streams}
        self.tracks: tuple[Kind, ...] = tuple(track.kind for track in self._tracks.values())
        self.duration_ticks = _ticks(self._container.duration)
        """Length as the container states it; None for live sources and where it does not."""
        self.position_ticks = 0
        """How far :meth:`items` got."""
        self.complaint: str | None = None
        """One sentence when the media broke off or was damaged; what could be read was given."""

    def items(self) -> Iterator[Item]:
        """Yield media in order of time; files as fast as asked, live sources as it comes.

        Raises :class:`MediaError` when nothing at all could be decoded.
        """
        merger = None if self.address.live else Merger(self.tracks)
        seen = False
        for item in self._decoded():
            if not isinstance(item, Ended):
                seen = True
                self.position_ticks = max(self.position_ticks, end_of(item))
            yield from merger.add(item) if merger else (item,)
        if merger:
            yield from merger.rest()
        if not seen and not self.stopped:
            raise MediaError(
                self.complaint or f"{self.address.spec} holds nothing that can be decoded"
            )
        self._judge()

    def stop(self) -> None:
        """Make :meth:`items` end soon; may be called from any thread."""
        self.stopped = True

    def close(self) -> None:
        """Let go of the file or device."""
        self._container.close()

    def _decoded(self) -> Iterator[Item]:
        for packet in self._packets():
            track = self._tracks[packet.stream.index]
            if packet.dts is None and packet.size == 0:
                continue  # the demuxer's own end mark; tracks are drained below
            self._align(packet)
            yield from track.decode(packet)
        for track in self._tracks.values():
            yield from track.drain()
            yield Ended(track.kind)

    def _packets(self) -> "Iterator[av.Packet[Any]]":
        packets = self._container.demux(self._streams)
        while not self.stopped:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                self.complaint = lost(self.address, error, self.position_ticks)
                return
            yield packet

    def _align(self, packet: "av.Packet[Any]") -> None:
        """Give both tracks the same zero: the container's start, or the first media of all."""
        if next(iter(self._tracks.values())).origin is not None:
            return
        start = None if self.address.live else _ticks(self._container.start_time)
        if start is None:
            if packet.pts is None or packet.time_base is None:
                start = 0
            else:
                start = round(packet.pts * packet.time_base * TICKS_PER_S)
        for track in self._tracks.values():
            track.origin = start

    def _judge(self) -> None:
        damaged = sum(track.damaged for track in self._tracks.values())
        if self.stopped or self.complaint:
            return
        if self._cut_short() and self.duration_ticks:
            got, meant = clock(self.position_ticks), clock(self.duration_ticks)
            self.complaint = (
                f"{self.address.spec} breaks off at {got} of {meant}: "
                "what could be read was used; is the copy complete?"
            )
        elif damaged:
            self.complaint = (
                f"{self.address.spec} is damaged: {damaged} packets could not be decoded; "
                "the rest was used"
            )

    def _cut_short(self) -> bool:
        stated = self._container.format.name.startswith(_DURATION_IN_HEADER)
        missing = (self.duration_ticks or 0) - self.position_ticks
        return stated and missing > max(TICKS_PER_S, (1 - _CUT_SHORT) * (self.duration_ticks or 0))


def open_source(spec: str) -> Source:
    """Open one source; of a folder, its first media file. See :func:`addresses`."""
    return Source(addresses(spec)[0])


def read_audio(path: Path) -> NDArray[np.int16]:
    """Return a file's whole sound as 16 kHz mono, shape ``(n,)``, as windows would hear it.

    Raises :class:`UsageError` for a missing file, :class:`MediaError` when it has no sound.
    """
    with closing(open_source(str(path))) as source:
        if "audio" not in source.tracks:
            raise MediaError(f"{path} has no sound: give a file with an audio track")
        chunks = [item for item in source.items() if isinstance(item, AudioChunk)]
    sound = np.zeros(max((end_of(chunk) for chunk in chunks), default=0), np.int16)
    for chunk in chunks:
        sound[chunk.start : end_of(chunk)] = chunk.samples
    return sound


def opened(address: Address) -> "InputContainer":
    """Open what an address names; blocks. Raises :class:`MediaError` with what to do."""
    place: Any = sys.stdin.buffer if address.url == "-" else address.url
    if address.url.startswith("file:") and Path(address.spec).stat().st_size == 0:
        raise MediaError(f"{address.spec} is empty: is the copy complete?")
    remote = address.live or "://" in address.url
    try:
        with _alsa() if address.device == "microphone" else nullcontext():
            container: InputContainer = av.open(
                place,
                format=address.format,
                options=dict(address.options),
                timeout=CONNECT_S if remote else None,
                metadata_errors="replace",
            )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise refusal(address, error) from error
    if container.format.name in _NOT_MEDIA:
        container.close()
        raise MediaError(f"{address.spec} is not media that can be read: give audio or video")
    return container


@contextmanager
def _alsa() -> Iterator[None]:
    """Show ALSA this system's configuration, which the wheel's copy looks for elsewhere.

    What it writes to stderr of its own is left out: the error says the same in one sentence.
    """
    if _ALSA.exists():
        os.environ.setdefault("ALSA_CONFIG_PATH", str(_ALSA))
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def chosen(container: "InputContainer", address: Address) -> "list[Stream]":
    """Return the best sound and the best moving picture; cover art is neither."""
    found: list[Stream] = []
    if sound := container.streams.best("audio"):
        found.append(sound)
    cover = av.stream.Disposition.attached_pic
    moving = [s for s in container.streams.video if not s.disposition & cover]
    best = container.streams.best("video")
    if moving:
        picture = best if best in moving else moving[0]
        picture.thread_type = "AUTO" if not address.live else "SLICE"
        picture.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        found.append(picture)
    if not found:
        raise MediaError(f"{address.spec} has neither sound nor pictures: give audio or video")
    return found


def _track(stream: "Stream") -> Sound | Pictures:
    return Sound(stream) if isinstance(stream, av.AudioStream) else Pictures(stream)  # type: ignore[arg-type]  # only these two are chosen


def _ticks(microseconds: int | None) -> int | None:
    if microseconds is None:
        return None
    return microseconds * TICKS_PER_S // _MICROSECONDS
