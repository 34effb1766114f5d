"""The control messages of ``demeanor.v1.json`` and what its close codes mean.

Clients send :data:`ClientMessage`; the gateway answers with the ``Server…`` structs and forwards
events untouched, one JSON object per WebSocket message. Unknown fields are ignored both ways.
"""

from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec

from pipeline.errors import DemeanorError
from pipeline.events import PROTOCOL

PATH = "/v1/events"
MAX_MESSAGE_BYTES = 4096
MESSAGES_PER_S = 20
SESSIONS_PER_MESSAGE = 64
EVERYTHING = "*"

Id = Annotated[str, msgspec.Meta(max_length=64)]
SessionId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Patterns = Annotated[list[Annotated[str, msgspec.Meta(max_length=32)]], msgspec.Meta(max_length=32)]
Position = Annotated[int, msgspec.Meta(ge=-1, lt=2**53)]


class Code(IntEnum):
    """Close codes; the code alone tells whether a client may come back."""

    FINISHED = 1000
    DRAINING = 1001
    TOO_BIG = 1009
    INTERNAL = 1011
    TRY_LATER = 1013
    BAD_MESSAGE = 4400
    UNAUTHORISED = 4401
    FORBIDDEN = 4403
    NO_SUCH_SESSION = 4404
    REPLACED = 4409
    MOVED = 4503
    SLOW_READER = 4508
    RATE_LIMITED = 4529


class Closing(DemeanorError):
    """The connection must close with ``code``; ``reason`` is told to the client."""

    def __init__(
        self, code: Code, error: str, reason: str, *, retry_after_ms: int | None = None
    ) -> None:
        self.code = code
        self.error = error
        self.reason = reason
        self.retry_after_ms = retry_after_ms
        super().__init__(reason)


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which events of which sessions a client wants."""

    sessions: Annotated[list[SessionId], msgspec.Meta(max_length=SESSIONS_PER_MESSAGE)] = (
        msgspec.field(default_factory=lambda: [EVERYTHING])
    )
    events: Patterns | None = None
    """Globs such as ``alert.*``; None: all."""
    roles: Patterns | None = None
    max_hz: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Windows per second and session; a newer one replaces one that waits."""
    snapshot: bool = False

    @property
    def everything(self) -> bool:
        """Tell whether sessions that start later belong to it."""
        return EVERYTHING in self.sessions

    def takes(self, kind: str) -> bool:
        """Tell whether events of this type are wanted."""
        return self.events is None or any(fnmatchcase(kind, glob) for glob in self.events)

    def takes_role(self, role: str) -> bool:
        """Tell whether sessions of this role are wanted."""
        return self.roles is None or any(fnmatchcase(role, glob) for glob in self.roles)


class Auth(msgspec.Struct, frozen=True, tag_field="type", tag="auth"):
    """The first message of a client that sent no header."""

    token: Annotated[str, msgspec.Meta(max_length=3000)]


class Subscribe(Selection, frozen=True, kw_only=True, tag_field="type", tag="subscribe"):
    """Live events from now on."""

    id: Id | None = None


class Resume(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="resume"):
    """Everything behind known positions, then live."""

    since: Annotated[dict[SessionId, Position], msgspec.Meta(max_length=SESSIONS_PER_MESSAGE)]
    id: Id | None = None
    subscribe: Selection = Selection()


class Unsubscribe(msgspec.Struct, frozen=True, tag_field="type", tag="unsubscribe"):
    """End the subscription that was made with this id."""

    id: Id | None = None


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """Ask for a sign of life."""

    id: Id | None = None


class Pong(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """The sign of life."""

    id: Id | None = None


ClientMessage = Auth | Subscribe | Resume | Unsubscribe | Ping | Pong


class Limits(msgspec.Struct, frozen=True):
    """What a client must keep to."""

    max_message_bytes: int = MAX_MESSAGE_BYTES
    messages_per_s: int = MESSAGES_PER_S
    sessions_per_message: int = SESSIONS_PER_MESSAGE


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    """The server's first message."""

    protocol: str = PROTOCOL
    server: str
    connection_id: str
    auth: Literal["required", "accepted"]
    limits: Limits = Limits()


class Subscribed(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="subscribed"):
    """Answer to ``subscribe``: the sessions it covers now, and the last event of each."""

    id: str | None
    sessions: list[str]
    snapshot: list[msgspec.Raw]


class Resumed(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="resumed"):
    """Answer to ``resume``, before the events."""

    id: str | None
    recovered: dict[str, int]
    """Events that follow, by session."""
    lost: dict[str, int | None]
    """Events that are gone, by session; null: the session itself is gone."""
    sessions: list[str]


class Unsubscribed(msgspec.Struct, frozen=True, tag_field="type", tag="unsubscribed"):
    """Answer to ``unsubscribe``."""

    id: str | None


class Drain(msgspec.Struct, frozen=True, tag_field="type", tag="drain"):
    """The server goes away; 1001 follows."""

    reconnect_after_ms: int


_decoder: msgspec.json.Decoder[ClientMessage] = msgspec.json.Decoder(ClientMessage)
encode = msgspec.json.Encoder().encode


def decode(text: str | bytes) -> ClientMessage:
    """Read one message of a client.

    Raises :class:`Closing` (4400) with what is wrong with it.
    """
    if isinstance(text, bytes):
        raise Closing(Code.BAD_MESSAGE, "bad_message", "send JSON as text, not as binary")
    try:
        return _decoder.decode(text)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Closing(Code.BAD_MESSAGE, "bad_message", in_words(error)) from error


def in_words(error: Exception) -> str:
    """Return what is wrong with a JSON text as one sentence that names the field."""
    if not isinstance(error, msgspec.ValidationError):
        return "this is no JSON: send one object, in UTF-8"
    found, _, place = str(error).partition(" - at ")
    words = found[:1].lower() + found[1:].replace("`", "'")
    kind, inside, path = place.partition("` in `")
    field = (path if inside else kind).strip("`").removeprefix("$").lstrip(".")
    field = field.removesuffix("[...]")
    if inside:
        return f"a name in '{field}' is wrong: {words}"
    return f"the field '{field}' is wrong: {words}" if field else f"the message is wrong: {words}"
