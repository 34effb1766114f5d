"""What ``--source`` may name: a file, a folder, a URL, a camera, a microphone, or ``-``.

The operator's own words come in, an :class:`Address` goes out; nothing is opened here. Local files
may only refer to local files (a playlist in disguise fetches nothing), and a path is never taken
for one of FFmpeg's protocols.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pipeline.errors import UsageError
from pipeline.events import SourceKind

PULLED = ("rtsp", "rtsps", "rtmp", "rtmps")
"""URL schemes that are live by nature."""
FETCHED = ("http", "https")
CONNECT_S = 10.0
"""How long a URL or device may take to open, and to give its next packet."""
MEDIA_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".flv"),
    *(".wmv", ".3gp", ".ogv", ".wav", ".mp3", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".flac"),
    *(".wma", ".aif", ".aiff", ".amr"),
)
"""What is taken from a folder; a file named outright may be called anything."""
_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_NAME_LENGTH = 64

Device = Literal["camera", "microphone"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where media is read from and how."""

    spec: str
    """As the operator wrote it; shown in messages."""
    url: str
    """What the demuxer opens; ``-`` is standard input."""
    stem: str
    """Names the result file."""
    kind: SourceKind = "file"
    live: bool = False
    """The source sets the pace; late windows are skipped instead of waited for."""
    device: Device | None = None
    format: str | None = None
    """Demuxer to use, or None to find out."""
    options: dict[str, str] = field(default_factory=dict)

    @property
    def stream(self) -> str:
        """Name of the stream: the stem, in the characters that a stream name may have."""
        return _NAME.sub("-", self.stem).strip("-")[:_NAME_LENGTH] or "source"


def addresses(spec: str) -> list[Address]:
    """Return the address, or one for each media file of a folder, sorted by name.

    Raises :class:`UsageError` for what cannot be a source: a missing file, a folder without media,
    an unknown scheme, a device that this system has no way to read.
    """
    path = Path(spec)
    if not spec:
        raise UsageError("--source is empty: name a file, a folder, a URL, 'webcam', 'mic' or '-'")
    if spec == "-":
        return [Address("standard input", "-", "stdin")]
    if device := _device(spec):
        return [device]
    if "://" in spec:
        return [_remote(spec)]
    if path.is_dir():
        return list(_folder(path))
    if not path.exists():
        raise UsageError(f"{spec} does not exist: check the name, or give a URL or a device")
    return [_file(path)]


def _file(path: Path, stem: str | None = None) -> Address:
    options = {"protocol_whitelist": "file"}
    return Address(str(path), f"file:{path}", stem or path.stem or path.name, options=options)


def _folder(folder: Path) -> Iterator[Address]:
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in MEDIA_SUFFIXES and path.is_file()
    )
    if not files:
        raise UsageError(f"{folder} holds no media files: name a file, or a folder that has some")
    stems = [path.stem for path in files]
    for path in files:
        yield _file(path, path.name if stems.count(path.stem) > 1 else path.stem)


def _remote(spec: str) -> Address:
    try:
        parts = urlsplit(spec)
        host, scheme = parts.hostname, parts.scheme.lower()
    except ValueError:
        raise UsageError(f"{spec} is not a URL that can be read") from None
    if scheme == "file":
        return addresses(unquote(parts.path))[0]
    if scheme not in PULLED + FETCHED:
        known = ", ".join(f"{name}://" for name in PULLED + FETCHED)
        raise UsageError(f"{spec}: sources are files, devices and {known}")
    if not host:
        raise UsageError(f"{spec} names no host")
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    stem = Path(unquote(parts.path)).stem or host
    live = scheme in PULLED
    options = {"rtsp_transport": "tcp"} if scheme.startswith("rtsp") else {}
    return Address(shown, spec, stem, "rtsp" if live else "file", live, options=options)


def _device(spec: str) -> Address | None:
    """Return a camera or microphone: ``webcam[:N]``, ``/dev/videoN``, ``mic[:NAME]``."""
    word, _, which = spec.partition(":")
    if word == "webcam" or spec.startswith("/dev/video"):
        path = spec if word != "webcam" else f"/dev/video{which or '0'}"
        if which and not which.isdigit():
            raise UsageError(f"{spec}: cameras are numbered, as in webcam:0")
        _linux_only(spec)
        stem = f"webcam-{path.removeprefix('/dev/video')}"
        return Address(spec, path, stem, "device", live=True, device="camera", format="v4l2")
    if word == "mic":
        _linux_only(spec)
        name = which or "default"
        return Address(
            spec, name, f"mic-{name}", "device", live=True, device="microphone", format="alsa"
        )
    return None


def _linux_only(spec: str) -> None:
    if not sys.platform.startswith("linux"):
        raise UsageError(
            f"{spec}: cameras and microphones are read directly on Linux only; "
            "on this system publish them from the page of 'demeanor up'"
        )
