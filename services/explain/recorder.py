"""The last seconds of one session's decoded media, kept only while the explain tier is on.

It looks on as the session's owner works and asks for an explanation when an alert is raised, when
somebody asked, or every so often. Memory is bounded by the stretch; it is let go with the session.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from pipeline.events import AlertRaised, Event, WindowScored
from pipeline.explain.frames import chosen
from pipeline.types import TICKS_PER_S, AudioChunk, VideoFrame
from services.explain.tier import Question, Trigger
from services.explain.wire import Picture

STRETCH_S: Final = 8
"""How far back the model looks, pictures and sound alike."""
CHUNKS: Final = 1024
"""Pieces of sound that are kept at most; live ones are 20 ms and longer."""
_STRETCH: Final = STRETCH_S * TICKS_PER_S

Submit = Callable[[Question], bool]


class Recorder:
    """One session's observer (:class:`services.ingest.session.Observer`)."""

    def __init__(
        self, session_id: str, tracks: Sequence[str], submit: Submit, every_s: int, frames: int
    ) -> None:
        """``frames`` is how many pictures the model looks at."""
        self._session_id = session_id
        self._tracks = tuple(tracks)
        self._submit = submit
        self._every = every_s * TICKS_PER_S
        self._wanted_frames = frames
        # Two for each that is looked at: as good a choice as all, in a fraction of the room.
        self._spacing = _STRETCH // (2 * frames)
        self._pictures: deque[VideoFrame] = deque(maxlen=2 * frames + 1)
        self._sound: deque[AudioChunk] = deque(maxlen=CHUNKS)
        self._newest = 0
        self._asked_at = 0
        self._seq = -1

    def media(self, item: AudioChunk | VideoFrame) -> None:
        """Keep one piece of media and drop what is older than the stretch."""
        if isinstance(item, VideoFrame):
            self._newest = max(self._newest, item.at)
            if not self._pictures or item.at - self._pictures[-1].at >= self._spacing:
                self._pictures.append(item)
        else:
            self._newest = max(self._newest, item.start + len(item.samples))
            self._sound.append(item)
        oldest = self._newest - _STRETCH
        while self._pictures and self._pictures[0].at < oldest:
            self._pictures.popleft()
        while self._sound and self._sound[0].start + len(self._sound[0].samples) <= oldest:
            self._sound.popleft()

    def said(self, events: Sequence[Event]) -> None:
        """Look at what left; an alert is explained at once, and before the clock's turn."""
        for event in events:
            if isinstance(event, AlertRaised) and event.seq is not None:
                self._ask("alert", event.seq, event.alert.id)
        for event in events:
            self._seq = event.seq if event.seq is not None else self._seq
            if isinstance(event, WindowScored) and self._due():
                self._ask("interval", self._seq, None)

    def asked(self) -> bool:
        """Explain now, because somebody asked; False when the tier has no room."""
        return self._ask("request", max(self._seq, 0), None)

    def close(self) -> None:
        """Let go of all media."""
        self._pictures.clear()
        self._sound.clear()

    def _due(self) -> bool:
        return self._every > 0 and self._newest - self._asked_at >= self._every

    def _ask(self, trigger: Trigger, about_seq: int, alert_id: str | None) -> bool:
        if not self._pictures:
            return False  # the model was never trained on sound alone
        self._asked_at = self._newest
        pictures = [
            self._pictures[index] for index in chosen(len(self._pictures), self._wanted_frames)
        ]
        return self._submit(
            Question(
                session_id=self._session_id,
                trigger=trigger,
                about_seq=about_seq,
                alert_id=alert_id,
                pictures=[self._picture(each) for each in pictures],
                sound=self._heard(),
                asked_s=asyncio.get_running_loop().time(),
            )
        )

    def _picture(self, frame: VideoFrame) -> Picture:
        height, width, _ = frame.rgb.shape
        return Picture(f"{self._session_id}:{frame.at}", width, height, frame.rgb.tobytes())

    def _heard(self) -> bytes | None:
        """Return the stretch's sound in one piece, zeros where nothing arrived."""
        if "audio" not in self._tracks:
            return None
        start = max(0, self._newest - _STRETCH)
        whole = np.zeros(self._newest - start, np.int16)
        for chunk in self._sound:
            at = chunk.start - start
            samples = chunk.samples[max(0, -at) :]
            at = max(0, at)
            whole[at : at + len(samples)] = samples[: len(whole) - at]
        return whole.tobytes()
