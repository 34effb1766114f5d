"""What the pusher and its publisher processes say to each other.

Down the child's standard input: one :class:`Job` as a line of JSON, then ``size`` bytes of a NUT
container; that input stays open, and its end tells the child to stop. Up its standard output: one
report a line, the last of them :class:`Closed` or :class:`Failed`.
"""

from typing import Literal

import msgspec

Failure = Literal["refused", "unreachable", "http", "handshake", "lost", "media"]


class Job(msgspec.Struct, frozen=True):
    """What one publisher sends where."""

    url: str
    token: str | None
    size: int
    speed: float
    loop: bool
    duration_s: float | None
    """Stop after so many seconds of media."""
    handshake_ms: int


class Connected(msgspec.Struct, frozen=True, tag="connected"):
    """Signalling, ICE and DTLS are done."""

    took_ms: int


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """So much was sent."""

    media_s: float
    video: int
    """Packets of pictures: frames."""
    audio: int
    behind_ms: int
    """How late the newest packet left."""


class Closed(msgspec.Struct, frozen=True, tag="closed"):
    """All was sent and the session was ended."""

    media_s: float
    video: int
    audio: int
    deleted: bool
    """The server took the DELETE."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The publisher gave up."""

    failure: Failure
    status: int | None
    """HTTP status or its class (400, 500), where there was one."""
    media_s: float
    detail: str
    """FFmpeg's own words."""


Report = Connected | Progress | Closed | Failed

_encoder = msgspec.json.Encoder()
_reports: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
_jobs: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)


def encode(message: Job | Report) -> bytes:
    """Return a message as one line."""
    return _encoder.encode(message) + b"\n"


def report(line: bytes) -> Report:
    """Read a child's line. Raises :class:`msgspec.MsgspecError`."""
    return _reports.decode(line)


def job(line: bytes) -> Job:
    """Read the parent's line. Raises :class:`msgspec.MsgspecError`."""
    return _jobs.decode(line)
