"""One labelled film as the explain model is asked about it: eight pictures of all, and the sound.

Pictures are taken from the whole film at its own size, as published inference does; sound is the
film's own at 16 kHz.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MediaError, UsageError
from pipeline.explain.frames import chosen as chosen_frames
from services.explain.model import Moment
from services.ingest import source
from services.ingest.address import addresses

if TYPE_CHECKING:
    from av.container import InputContainer

LONGEST_SIDE: Final = 1280
"""Larger pictures are made smaller at once; the model sees far less."""
Rgb = NDArray[np.uint8]


def read(path: Path, wanted: int) -> Moment:
    """Return ``wanted`` pictures of ``path`` (fewer of a shorter film) and its sound.

    Raises :class:`MediaError` when it has no picture that can be decoded. Sound that cannot be
    decoded counts as none.
    """
    count, heard = _count(path)
    places = chosen_frames(count, wanted)
    pictures = dict(_pictures(path, set(places)))
    if not pictures:
        raise MediaError(f"{path.name} has no picture that can be decoded")
    frames = [((str(path), place), rgb) for place, rgb in sorted(pictures.items())]
    return Moment(frames, _sound(path) if heard else None)


def _count(path: Path) -> tuple[int, bool]:
    """Return the number of coded pictures, and whether there is a sound track; nothing decodes."""
    with closing(_opened(path)) as container:
        stream = _video(container, path)
        count = sum(1 for packet in container.demux(stream) if packet.size)
        return count, bool(container.streams.audio)


def _pictures(path: Path, places: set[int]) -> Iterator[tuple[int, Rgb]]:
    """Yield the pictures at ``places``; the last one there is stands for those that are missing."""
    last: tuple[int, av.VideoFrame] | None = None
    with closing(_opened(path)) as container:
        stream = _video(container, path)
        try:
            for place, frame in enumerate(container.decode(stream)):
                last = (place, frame)
                if place in places:
                    yield place, _rgb(frame)
        except (av.FFmpegError, OSError):
            pass  # what was decoded before it broke off is used
    if last is not None and last[0] < max(places) and last[0] not in places:
        yield last[0], _rgb(last[1])


def _rgb(frame: av.VideoFrame) -> Rgb:
    """Return a picture upright, ``(height, width, 3)``."""
    shrink = min(1.0, LONGEST_SIDE / max(frame.width, frame.height))
    small = frame.reformat(
        width=max(2, round(frame.width * shrink)),
        height=max(2, round(frame.height * shrink)),
        format="rgb24",
    )
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), turns))


def _sound(path: Path) -> NDArray[np.int16] | None:
    try:
        return source.read_audio(path)
    except (MediaError, UsageError):
        return None


def _opened(path: Path) -> "InputContainer":
    return source.opened(addresses(str(path))[0])


def _video(container: "InputContainer", path: Path) -> "av.VideoStream":
    for stream in source.chosen(container, addresses(str(path))[0]):
        if isinstance(stream, av.VideoStream):
            return stream
    raise MediaError(f"{path.name} has no moving picture: this model does not judge sound alone")
