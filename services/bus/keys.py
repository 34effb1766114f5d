"""Names of keys and channels, and the bytes of one record, on Redis and Valkey.

The braces are a Cluster hash tag: a stream's log and its channel share a slot.
"""

import msgspec

from services.bus.types import Header, Record, Session, StreamKey

CTL = "demeanor:ctl"
"""Channel of directory changes."""

ORDERS = "demeanor:orders"
"""Hash of the standing orders: field ``<kind>:<name>``, value JSON."""

_headers: msgspec.msgpack.Decoder[Header] = msgspec.msgpack.Decoder(Header)
_sessions: msgspec.json.Decoder[Session] = msgspec.json.Decoder(Session)
_encoder = msgspec.msgpack.Encoder()
_LENGTH_BYTES = 2


def log(key: StreamKey) -> str:
    """Return the Stream that is the truth about ``key``."""
    return f"demeanor:r:{{{key.tenant}:{key.stream}}}"


def channel(key: StreamKey) -> str:
    """Return the pub/sub channel of the best-effort live path."""
    return f"demeanor:res:{{{key.tenant}:{key.stream}}}"


def of_channel(name: str) -> StreamKey:
    """Return the stream of a name made by :func:`channel`."""
    tenant, _, stream = name.partition("{")[2].rstrip("}").partition(":")
    return StreamKey(tenant, stream)


def live(tenant: str) -> str:
    """Return the sorted set of a tenant's sessions (score: lease expiry, unix ms)."""
    return f"demeanor:live:{{{tenant}}}"


def session(session_id: str) -> str:
    """Return the hash of one session."""
    return f"demeanor:s:{session_id}"


def entry_id(header: Header) -> str:
    """Return the Stream id of a record."""
    return f"{header.epoch}-{header.seq}"


def pack_header(header: Header) -> bytes:
    """Return the routing header as MessagePack."""
    return _encoder.encode(header)


def unpack(header: bytes, data: bytes) -> Record:
    """Return the record of a log entry's two fields."""
    return Record(_headers.decode(header), data)


def pack(record: Record) -> bytes:
    """Return a record as published: length of the header, header, JSON."""
    header = pack_header(record.header)
    return len(header).to_bytes(_LENGTH_BYTES, "big") + header + record.data


def unpack_published(payload: bytes) -> Record:
    """Return the record of :func:`pack`. Raises :class:`ValueError` for anything else."""
    end = _LENGTH_BYTES + int.from_bytes(payload[:_LENGTH_BYTES], "big")
    try:
        return unpack(payload[_LENGTH_BYTES:end], payload[end:])
    except msgspec.MsgspecError as error:
        raise ValueError("not a record of the result bus") from error


def unpack_change(payload: bytes) -> Session:
    """Return a directory change as announced. Raises :class:`ValueError` for anything else."""
    try:
        return _sessions.decode(payload)
    except msgspec.MsgspecError as error:  # bytes that are no UTF-8 are a ValueError by themselves
        raise ValueError("not a change of the directory") from error
