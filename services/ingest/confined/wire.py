"""What the ingest process and its decoder say to each other, and why an answer is believed.

Messages are msgpack behind a length of four bytes, each of a bounded size. Pictures and sound do
not travel in them: the decoder lays them one after another into shared memory, and its answer only
gives their shapes. The decoder handles hostile media, so nothing it says is trusted: types, ranges,
sizes and times are checked before a byte is read, and what is read is copied, so that it cannot
change afterwards.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Protocol

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pipeline.types import MAX_WIDTH_PX, TICKS_PER_S, AudioChunk, Kind, VideoFrame
from services.ingest.collector import BOUND, MAX_BYTES, Encoded
from services.ingest.decoder import MAX_SIDE_PX, Decoded
from services.ingest.items import Item, Reached

LENGTH_BYTES: Final = 4
MAX_REQUEST_BYTES: Final = MAX_BYTES + 64 * 1024
"""A batch of the largest size, its times and names included."""
MAX_ANSWER_BYTES: Final = 64 * 1024
AREA_BYTES: Final = 24 * 1024 * 1024
"""Shared memory: forty portrait pictures, five times what a batch of a live stream gives."""
MAX_ITEMS: Final = 2 * sum(BOUND.values())
SLACK_TICKS: Final = 2 * TICKS_PER_S
"""How far an answer's times may lie beyond those of its batch. Earlier ones are harmless, and
honest: codecs and resamplers hold media back, until the next comes."""

_Tick = Annotated[int, Meta(ge=-(2**62), le=2**62)]
_Count = Annotated[int, Meta(ge=0, le=MAX_ITEMS)]


class Decode(msgspec.Struct, frozen=True, array_like=True, tag="decode"):
    """Decode some frames of a session."""

    number: int
    """Counts requests; the answer repeats it."""
    session: str
    frames: list[Encoded]


class Forget(msgspec.Struct, frozen=True, array_like=True, tag="forget"):
    """Free the codecs of a session. There is no answer."""

    session: str


Request = Decode | Forget


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The decoder is ready."""

    filtered: bool
    """Whether its system calls are filtered."""


class Sound(msgspec.Struct, frozen=True, array_like=True, tag="sound"):
    """So many samples of 16 bits lie next in the shared memory."""

    start: _Tick
    count: Annotated[int, Meta(ge=0, le=AREA_BYTES // 2)]


class Picture(msgspec.Struct, frozen=True, array_like=True, tag="picture"):
    """A picture of three bytes a pixel lies next in the shared memory."""

    at: _Tick
    width: Annotated[int, Meta(ge=2, le=MAX_WIDTH_PX)]
    height: Annotated[int, Meta(ge=2, le=MAX_SIDE_PX)]


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="reached"):
    """A :class:`~services.ingest.items.Reached`."""

    kind: Kind
    tick: _Tick


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """What a request gave."""

    number: int
    items: Annotated[list[Sound | Picture | Progress], Meta(max_length=MAX_ITEMS)]
    corrupt_audio: _Count
    corrupt_video: _Count
    oversized: _Count
    crowded: _Count


class Lied(Exception):
    """An answer that cannot be true: whoever gave it is no longer the decoder we started."""


class Readable(Protocol):
    """Shared memory as the reader sees it."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


_encoder = msgspec.msgpack.Encoder()
_answers = msgspec.msgpack.Decoder(Answer)
_hellos = msgspec.msgpack.Decoder(Hello)
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Decode | Forget)


def framed(message: Request | Hello | Answer) -> bytes:
    """Return a message with its length in front."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES) + body


def next_request(read: Callable[[int], bytes]) -> Request | None:
    """Wait for the next request from a blocking reader; None at the end."""
    head = read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    body = read(int.from_bytes(head))
    return _requests.decode(body)


def hello(body: bytes) -> Hello:
    """Return the decoder's first message. Raises :class:`Lied`."""
    try:
        return _hellos.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Lied("the greeting") from error


def answer(body: bytes) -> Answer:
    """Return an answer whose values lie within their ranges. Raises :class:`Lied`."""
    try:
        return _answers.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Lied("the form of an answer") from error


def put(number: int, decoded: Decoded, area: NDArray[np.uint8]) -> Answer:
    """Lay out what was decoded in ``area``; pictures for which there is no room are left out."""
    items: list[Sound | Picture | Progress] = []
    used = crowded = 0
    for item in decoded.items:
        match item:
            case AudioChunk():
                content = item.samples.view(np.uint8)
                told: Sound | Picture = Sound(item.start, len(item.samples))
            case VideoFrame():
                height, width, _ = item.rgb.shape
                content = item.rgb.reshape(-1)
                told = Picture(item.at, width, height)
            case Reached():
                items.append(Progress(item.kind, item.tick))
                continue
            case _:
                continue
        if used + len(content) > len(area):
            crowded += 1
            continue
        area[used : used + len(content)] = content
        used += len(content)
        items.append(told)
    return Answer(
        number, items, decoded.corrupt_audio, decoded.corrupt_video, decoded.oversized, crowded
    )


def taken(told: Answer, area: NDArray[np.uint8], batch: Sequence[Encoded]) -> Decoded:
    """Copy what an answer to ``batch`` tells of out of the shared memory. Raises :class:`Lied`."""
    last = max(frame.tick for frame in batch) + SLACK_TICKS
    kinds = {frame.kind for frame in batch}
    items: list[Item] = []
    used = 0
    for each in told.items:
        kind, end, size = _extent(each)
        if kind not in kinds or end > last:
            raise Lied("the time of an item")
        if used + size > len(area):
            raise Lied("the size of an item")
        items.append(_item(each, area[used : used + size]))
        used += size
    return Decoded(
        tuple(items), told.corrupt_audio, told.corrupt_video, told.oversized, told.crowded
    )


def _extent(item: Sound | Picture | Progress) -> tuple[Kind, int, int]:
    """Return track, last tick, and bytes in the shared memory."""
    match item:
        case Sound():
            return "audio", item.start + item.count, 2 * item.count
        case Picture():
            return "video", item.at, 3 * item.width * item.height
        case Progress():
            return item.kind, item.tick, 0


def _item(told: Sound | Picture | Progress, content: NDArray[np.uint8]) -> Item:
    match told:
        case Sound():
            samples = content.copy().view(np.int16)
            samples.flags.writeable = False
            return AudioChunk(told.start, samples)
        case Picture():
            rgb = content.reshape(told.height, told.width, 3).copy()
            rgb.flags.writeable = False
            return VideoFrame(told.at, rgb)
        case Progress():
            return Reached(told.kind, told.tick)
