"""Overlapping windows over one or two tracks on one media clock.

Decoded media with ticks comes in through :meth:`Windower.feed`, windows and announced gaps go out
through :meth:`Windower.take`. It reads no clock: the only time is media time.

The plan. Everything is decided at *cut* time. The **frontier** is the end of the last window cut;
media before it is too late and dropped, so no cut window changes and overlapping windows agree
where they overlap. A window is cut as soon as every track that is waited for has reached its end,
or the leading track is ``patience_ticks`` beyond it. Cutting happens inside ``feed`` and
``reached``, so results depend neither on chunk sizes nor on how often ``take`` is called. Long
chunks are stored in pieces with a cut after each, so the buffers stay at about two windows.
"""

from collections import deque
from dataclasses import dataclass

from pipeline.buffers import AudioBuffer, FrameBuffer
from pipeline.types import (
    FRAME_CELL_TICKS,
    SLOT_TICKS,
    TICKS_PER_S,
    WINDOW_TICKS,
    AudioChunk,
    Gap,
    Kind,
    VideoFrame,
    Window,
)

PATIENCE_TICKS = 8_000
JUMP_TICKS = 10 * TICKS_PER_S
"""Timestamps further than this beyond all media so far are a new beginning, not a hole."""
HELD_TICKS = 2 * WINDOW_TICKS
"""Sound that waits at most: a window, the patience of live sessions, and a chunk."""
HELD_FRAMES = HELD_TICKS // FRAME_CELL_TICKS
READY_LIMIT = 128
"""Windows and gaps that wait for :meth:`Windower.take`; about a minute."""


@dataclass(slots=True)
class _Track:
    kind: Kind
    media: AudioBuffer | FrameBuffer
    reached: int = 0
    ended: bool = False


class Windower:
    """Cuts the windows of one session.

    Call :meth:`take` after every ``feed``. ``patience_ticks`` is how far one track may be ahead of
    the other before windows stop waiting; files whose tracks are loosely interleaved want more,
    and the buffers grow by as much.
    """

    def __init__(self, *, audio: bool, video: bool, patience_ticks: int = PATIENCE_TICKS) -> None:
        self.dropped = {
            "late_audio_ticks": 0,
            "duplicate_audio_ticks": 0,
            "late_frames": 0,
            "surplus_frames": 0,
            "untaken": 0,
        }
        """What was thrown away: media for spans already cut, second copies, second frames of a
        cell, and results that nobody took."""
        self._patience = patience_ticks
        self._audio: AudioBuffer | None = None
        self._frames: FrameBuffer | None = None
        self._tracks: dict[Kind, _Track] = {}
        self._ready: deque[Window | Gap] = deque(maxlen=READY_LIMIT)
        self._next = 0
        self._frontier = 0
        self._lead = 0
        self._fed = False
        self._any_cut = False
        if audio:
            self.add_track("audio")
        if video:
            self.add_track("video")

    def add_track(self, kind: Kind) -> None:
        """Wait for ``kind`` from now on: a track that joins late, or comes back after its end."""
        if kind in self._tracks:
            self._tracks[kind].ended = False
        elif kind == "audio":
            self._add_audio()
        else:
            self._add_video()

    def feed(self, media: AudioChunk | VideoFrame) -> None:
        """Add media of a track; one that was not announced is added.

        Overlaps and holes are fine, and the first copy of a tick wins. Media is expected in order
        within its track: what comes after its span was cut is dropped and counted. A chunk implies
        :meth:`reached` up to its end, a frame up to its own tick. Frames are made read-only.
        """
        self._fed = True
        if isinstance(media, AudioChunk):
            self._feed_audio(media)
        else:
            self._feed_frame(media)

    def reached(self, kind: Kind, tick: int) -> None:
        """Note that all media of ``kind`` before ``tick`` was fed, unsampled frames included."""
        if kind not in self._tracks:
            self.add_track(kind)
        self._advance(self._tracks[kind], tick)

    def ended(self, kind: Kind) -> None:
        """Wait for ``kind`` no longer; media that still comes is used where it is in time."""
        if kind in self._tracks:
            self._tracks[kind].ended = True
            self._cut_until(self._due())

    def take(self) -> list[Window | Gap]:
        """Return what became due since the last call, in order of media time; never blocks.

        A gap comes before the window in which it ended. At most :data:`READY_LIMIT` results wait;
        then the oldest is dropped and counted as ``untaken``.
        """
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def held(self, kind: Kind) -> int:
        """Return what waits for its windows: sampled frames, or ticks of sound."""
        if kind == "video":
            return len(self._frames) if self._frames is not None else 0
        track = self._tracks.get("audio")
        return max(0, track.reached - self._next * SLOT_TICKS) if track else 0

    def finish(self) -> list[Window | Gap]:
        """Return what is left when the session ends: complete windows and holes still open.

        A session shorter than one window gives one window, padded with silence, so that short
        files yield evidence. Nothing may be fed afterwards.
        """
        self._cut_until(self._lead)
        self._close_holes()
        if self._fed and not self._any_cut:
            self._cut()
        return self.take()

    def _add_audio(self) -> AudioBuffer:
        room = WINDOW_TICKS + self._patience + SLOT_TICKS
        self._audio = AudioBuffer(self._next * SLOT_TICKS, room)
        self._tracks["audio"] = _Track("audio", self._audio)
        return self._audio

    def _add_video(self) -> FrameBuffer:
        self._frames = FrameBuffer()
        self._tracks["video"] = _Track("video", self._frames)
        return self._frames

    def _feed_audio(self, chunk: AudioChunk) -> None:
        audio = self._add_audio() if self._audio is None else self._audio
        self.reached("audio", chunk.start)
        late = min(max(self._frontier - chunk.start, 0), len(chunk.samples))
        self.dropped["late_audio_ticks"] += late
        for begin in range(late, len(chunk.samples), SLOT_TICKS):
            piece = chunk.samples[begin : begin + SLOT_TICKS]
            start = chunk.start + begin
            self.dropped["duplicate_audio_ticks"] += audio.write(start, piece)
            self.reached("audio", start + len(piece))

    def _feed_frame(self, frame: VideoFrame) -> None:
        frames = self._add_video() if self._frames is None else self._frames
        self.reached("video", frame.at)
        if frame.at < self._frontier:
            self.dropped["late_frames"] += 1
        elif frames.write(frame):
            self.dropped["surplus_frames"] += 1

    def _advance(self, track: _Track, tick: int) -> None:
        if tick > self._lead + JUMP_TICKS:
            self._jump(tick)
        track.reached = max(track.reached, tick)
        self._lead = max(self._lead, tick)
        self._cut_until(self._due())

    def _due(self) -> int:
        """Return the tick up to which nothing more is waited for."""
        waited = [track.reached for track in self._tracks.values() if not track.ended]
        return max(min(waited, default=self._lead), self._lead - self._patience)

    def _cut_until(self, tick: int) -> None:
        while self._next * SLOT_TICKS + WINDOW_TICKS <= tick:
            self._cut()

    def _cut(self) -> None:
        end = self._next * SLOT_TICKS + WINDOW_TICKS
        self._find_holes(end)
        audio, coverage = self._audio.window() if self._audio else (None, ())
        frames = self._frames.between(end - WINDOW_TICKS, end) if self._frames is not None else None
        self._put(Window(self._next, audio, coverage, frames))
        self._any_cut = True
        self._next += 1
        self._frontier = end
        for track in self._tracks.values():
            track.media.slide(self._next * SLOT_TICKS)

    def _jump(self, tick: int) -> None:
        """Announce the jump to ``tick`` and go on from the slot that holds it."""
        self._cut_until(self._lead)
        self._close_holes()
        self._put(Gap(self._lead, tick, tuple(self._tracks), "clock_jump"))
        self._next = tick // SLOT_TICKS
        self._frontier = self._next * SLOT_TICKS
        for track in self._tracks.values():
            track.media.clear(self._frontier)

    def _find_holes(self, end: int) -> None:
        """Announce the holes that ended between the frontier and ``end``."""
        holes = [
            (hole, track.kind)
            for track in self._tracks.values()
            for run in track.media.runs(self._frontier, end)
            if (hole := track.media.holes.covered(*run))
        ]
        self._announce(holes)

    def _close_holes(self) -> None:
        """Announce the holes that are open where media ends; a track that ended has none."""
        self._find_holes(max(self._lead, self._frontier))
        holes = [
            (hole, track.kind)
            for track in self._tracks.values()
            if (hole := track.media.holes.close(self._lead)) and not track.ended
        ]
        self._announce(holes)

    def _announce(self, holes: list[tuple[tuple[int, int], Kind]]) -> None:
        for hole, kind in sorted(holes):
            self._put(Gap(*hole, (kind,), "packet_loss"))

    def _put(self, item: Window | Gap) -> None:
        if len(self._ready) == READY_LIMIT:
            self._ready.popleft()
            self.dropped["untaken"] += 1
        self._ready.append(item)
