"""What passes between the service and the explain process: length-framed MessagePack.

Pixels and sound go one way, labels and words the other; nothing of it is kept.
"""

from typing import Final

import msgspec

LENGTH_BYTES: Final = 4
MAX_ASK_BYTES: Final = 32 << 20
MAX_ANSWER_BYTES: Final = 1 << 20


class Picture(msgspec.Struct, frozen=True, array_like=True):
    """One sampled picture."""

    name: str
    width: int
    height: int
    rgb: bytes


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """A moment to be explained."""

    number: int
    pictures: list[Picture]
    sound: bytes | None
    """16 kHz mono, int16 of this machine's byte order."""
    words: bool = True


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Nobody wants the answer any longer."""

    number: int


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The model is open."""

    identity: str
    precision: str
    provider: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The model cannot be used; the process ends."""

    message: str


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """What the model says of a moment."""

    number: int
    labels: dict[str, float]
    top: str
    margin: float
    entropy: float
    prefix: str
    audio: str
    took_ms: int
    thinking: str | None = None
    """None: something newer cut in, or only labels were asked for."""
    label: str = ""
    raw: str = ""
    truncated: bool = False


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """This moment could not be explained; the process goes on."""

    number: int
    kind: str
    """Name of the error's class: its message may tell of media."""


ToChild = Ask | Cancel
FromChild = Hello | Refused | Answer | Failed
_encoder = msgspec.msgpack.Encoder()
asks: Final[msgspec.msgpack.Decoder[ToChild]] = msgspec.msgpack.Decoder(ToChild)
answers: Final[msgspec.msgpack.Decoder[FromChild]] = msgspec.msgpack.Decoder(FromChild)


def framed(message: ToChild | FromChild) -> bytes:
    """Return a message with its length in front."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body
