"""What a decoder or a file hands to a session, beside the samples themselves."""

from dataclasses import dataclass

from pipeline.types import AudioChunk, Kind, VideoFrame


@dataclass(frozen=True, slots=True)
class Reached:
    """All media of a track before ``tick`` has been handed over, unsampled frames included."""

    kind: Kind
    tick: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A track gives no more media; windows no longer wait for it."""

    kind: Kind


Item = AudioChunk | VideoFrame | Reached | Ended
