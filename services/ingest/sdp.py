"""What a publisher offers, read strictly, and said again in a form that holds nothing else.

Bytes from a stranger come in; an :class:`Offer` of validated fields goes out, or an
:class:`OfferRefused` with an HTTP status (RFC 9725 §4). The peer never parses the stranger's text:
:mod:`services.ingest.retelling` writes a new offer from the fields. Pure: no I/O, no clock.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.types import Kind

MAX_BODY_BYTES: Final = 64 * 1024
MAX_LINE_CHARS: Final = 4096
MAX_ATTRIBUTES: Final = 200
"""Attribute lines of one section; Chromium's video section has about 120."""

Setup = Literal["actpass", "active", "passive"]
Direction = Literal["sendonly", "sendrecv", "recvonly", "inactive"]

_DYNAMIC = range(96, 128)
_STATIC = {0: ("PCMU", 8000), 8: ("PCMA", 8000), 9: ("G722", 8000)}
_CLOCKS_HZ = {
    ("audio", "opus"): 48000,
    ("audio", "g722"): 8000,
    ("audio", "pcmu"): 8000,
    ("audio", "pcma"): 8000,
    ("video", "vp8"): 90000,
    ("video", "h264"): 90000,
    ("video", "rtx"): 90000,
}
_H264_PROFILES = ("42", "4d", "58", "64")
_FEEDBACK = ("nack", "nack pli", "goog-remb")
_EXTENSIONS = (
    "urn:ietf:params:rtp-hdrext:sdes:mid",
    "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
)
_DIGESTS = {"sha-256": 32, "sha-384": 48, "sha-512": 64}

_LINE = re.compile(r"[a-z]=[^\x00-\x08\x0a-\x1f\x7f]*")
_MEDIA = re.compile(r"([a-z]+) (\d{1,5})(?:/\d+)? ([A-Za-z/]+)((?: [\w-]{1,32}){1,100})")
_MID = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,32}")
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_FINGERPRINT = re.compile(r"([a-z0-9-]+) ([0-9a-f]{2}(?::[0-9a-f]{2})*)", re.IGNORECASE)
_RTPMAP = re.compile(r"(\d{1,3}) ([\w.-]{1,32})/(\d{1,6})(?:/(\d))?")
_NUMBERED = re.compile(r"(\d{1,3}|\*) (.{1,1024})")
_EXTMAP = re.compile(r"(\d{1,3})(?:/[a-z]+)? (\S{1,256})(?: .*)?")
_SSRC = re.compile(r"(\d{1,10}) .*")
_H264_PROFILE = re.compile(r"(?:^|;)\s*profile-level-id=([0-9a-f]{6})\s*(?:;|$)", re.IGNORECASE)
_APT = re.compile(r"(?:^|;)\s*apt=(\d{1,3})\s*(?:;|$)")


class OfferRefused(Exception):
    """An offer that cannot be answered: HTTP status, stable code, one sentence that helps."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Codec:
    """One format that the publisher can send and we can decode."""

    payload_type: int
    name: str
    """As offered: ``VP8``, ``H264``, ``rtx``, ``opus``, ``PCMU``, ``PCMA``, ``G722``."""
    clock_hz: int
    channels: int
    fmtp: str
    """Format parameters as offered; empty when none were."""
    feedback: tuple[str, ...]

    @property
    def apt(self) -> int | None:
        """Payload type that a retransmission format repairs (RFC 4588 §8.6)."""
        found = _APT.search(self.fmtp)
        return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Media:
    """One m-section."""

    kind: Kind
    mid: str
    direction: Direction
    codecs: tuple[Codec, ...]
    """In the publisher's order of preference; retransmission formats included."""
    extensions: tuple[tuple[int, str], ...]
    ssrcs: tuple[int, ...]
    """Of the first encoding: the media, then its retransmissions if any."""
    stream_id: str | None
    ufrag: str
    password: str
    fingerprints: tuple[tuple[str, str], ...]
    setup: Setup


@dataclass(frozen=True, slots=True)
class Offer:
    """At most one audio and one video section of one person."""

    media: tuple[Media, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of track that will come, audio first."""
        return tuple(sorted(media.kind for media in self.media))


@dataclass(slots=True)
class _Section:
    """Lines of one section, by attribute name."""

    head: str
    attributes: dict[str, list[str]]

    def one(self, name: str, fallback: "_Section | None" = None) -> str | None:
        values = self.attributes.get(name)
        if values:
            return values[0]
        return fallback.one(name) if fallback else None

    def all(self, name: str) -> list[str]:
        return self.attributes.get(name, [])


def parse(body: bytes) -> Offer:
    """Read an offer. Raises :class:`OfferRefused` with 400, 406 or 422; never anything else."""
    session, sections = _sections(_lines(body))
    heads = [_head(section) for section in sections]
    if not heads:
        raise _unusable("the offer has no media section: send one audio and/or one video track")
    if any(head[0] not in ("audio", "video") for head in heads):
        raise _unusable("only audio and video sections are taken: do not open a data channel")
    for kind in ("audio", "video"):
        if sum(head[0] == kind for head in heads) > 1:
            raise _unusable(f"the offer has several {kind} sections: send at most one")
    media = tuple(
        _media(head, section, session) for head, section in zip(heads, sections, strict=True)
    )
    _check_together(media, session)
    return Offer(media)


@dataclass(frozen=True, slots=True)
class Fragment:
    """A trickle fragment (RFC 8840): candidates in it are not used, so only the rest is kept."""

    ufrag: str | None
    password: str | None


def parse_fragment(body: bytes) -> Fragment:
    """Read a trickle-ice-sdpfrag. Raises :class:`OfferRefused` with 400."""
    session, sections = _sections(_lines(body, fragment=True))
    parts = [session, *sections]
    return Fragment(
        next((value for part in parts if (value := part.one("ice-ufrag"))), None),
        next((value for part in parts if (value := part.one("ice-pwd"))), None),
    )


def _bad(detail: str) -> OfferRefused:
    return OfferRefused(400, "bad_sdp", detail)


def _unusable(detail: str) -> OfferRefused:
    return OfferRefused(422, "unusable_sdp", detail)


def _lines(body: bytes, *, fragment: bool = False) -> list[str]:
    if len(body) > MAX_BODY_BYTES:
        raise _bad(f"the SDP is longer than {MAX_BODY_BYTES} bytes: offer one audio and one video")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad("the body is not UTF-8 text: send the SDP offer as it is") from None
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if not fragment and lines[0] != "v=0":
        raise _bad("the body is not SDP: its first line must be 'v=0'")
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_CHARS:
            raise _bad(f"line {number} of the SDP is longer than {MAX_LINE_CHARS} characters")
        if not _LINE.fullmatch(line):
            raise _bad(f"line {number} of the SDP does not have the form 'x=value'")
    return lines


def _sections(lines: list[str]) -> tuple[_Section, list[_Section]]:
    sections = [_Section("", {})]
    counts = [0]
    for line in lines:
        if line.startswith("m="):
            if len(sections) > 16:
                raise _unusable("the offer has too many media sections: one audio, one video")
            sections.append(_Section(line[2:], {}))
            counts.append(0)
        elif line.startswith("a="):
            counts[-1] += 1
            if counts[-1] > MAX_ATTRIBUTES:
                raise _bad(f"a section of the SDP has more than {MAX_ATTRIBUTES} attributes")
            name, _, value = line[2:].partition(":")
            sections[-1].attributes.setdefault(name, []).append(value)
    return sections[0], sections[1:]


def _head(section: _Section) -> tuple[str, int, str, list[str]]:
    found = _MEDIA.fullmatch(section.head)
    if not found:
        raise _bad("a media line does not have the form 'm=<kind> <port> <protocol> <formats>'")
    return found[1], int(found[2]), found[3], found[4].split()


def _media(head: tuple[str, int, str, list[str]], section: _Section, session: _Section) -> Media:
    kind, port, protocol, formats = head
    if protocol not in ("UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP"):
        raise _unusable(f"the {kind} section uses {protocol[:32]}: WebRTC needs UDP/TLS/RTP/SAVPF")
    if port == 0:
        raise _unusable(f"the {kind} section has port 0: leave out a track that is not sent")
    mid = section.one("mid")
    if mid is None or not _MID.fullmatch(mid):
        raise _unusable(f"the {kind} section has no usable 'a=mid'")
    if "rtcp-mux" not in section.attributes:
        raise _unusable(f"the {kind} section lacks 'a=rtcp-mux', which WHIP requires")
    ufrag, password = _credentials(section, session)
    media_kind: Kind = "audio" if kind == "audio" else "video"
    return Media(
        kind=media_kind,
        mid=mid,
        direction=_direction(kind, section, session),
        codecs=_codecs(media_kind, formats, section),
        extensions=_extensions(section),
        ssrcs=_ssrcs(section),
        stream_id=_stream_id(section),
        ufrag=ufrag,
        password=password,
        fingerprints=_fingerprints(section, session),
        setup=_setup(section, session),
    )


def _direction(kind: str, section: _Section, session: _Section) -> Direction:
    directions: tuple[Direction, ...] = ("sendonly", "sendrecv", "recvonly", "inactive")
    found: list[Direction] = [name for name in directions if name in section.attributes]
    found = found or [name for name in directions if name in session.attributes]
    direction: Direction = found[0] if found else "sendrecv"
    if direction in ("recvonly", "inactive"):
        raise _unusable(f"the {kind} section is {direction}: a publisher offers sendonly")
    return direction


def _credentials(section: _Section, session: _Section) -> tuple[str, str]:
    ufrag = section.one("ice-ufrag", session)
    password = section.one("ice-pwd", session)
    if not ufrag or not _UFRAG.fullmatch(ufrag):
        raise _unusable("the offer has no usable 'a=ice-ufrag'")
    if not password or not _PASSWORD.fullmatch(password):
        raise _unusable("the offer has no usable 'a=ice-pwd'")
    if "ice-lite" in session.attributes:
        raise _unusable("an ICE-lite publisher cannot reach this server: use full ICE")
    return ufrag, password


def _fingerprints(section: _Section, session: _Section) -> tuple[tuple[str, str], ...]:
    usable = []
    for text in section.all("fingerprint") or session.all("fingerprint"):
        found = _FINGERPRINT.fullmatch(text.strip())
        if found and _DIGESTS.get(found[1].lower()) == (len(found[2]) + 1) // 3:
            usable.append((found[1].lower(), found[2].upper()))
    if not usable:
        raise _unusable("the offer has no 'a=fingerprint' with sha-256, sha-384 or sha-512")
    return tuple(usable[:4])


def _setup(section: _Section, session: _Section) -> Setup:
    match section.one("setup", session):
        case "actpass":
            return "actpass"
        case "active":
            return "active"
        case "passive":
            return "passive"
        case other:
            raise _unusable(f"'a=setup:{(other or '')[:32]}' cannot be answered: offer actpass")


def _codecs(kind: Kind, formats: list[str], section: _Section) -> tuple[Codec, ...]:
    maps = _rtpmaps(section)
    fmtp = _by_number(section.all("fmtp"))
    feedback = _feedback(section)
    codecs = []
    for number in dict.fromkeys(int(text) for text in formats if text.isascii() and text.isdigit()):
        name, clock_hz, channels = maps.get(number) or (*_STATIC.get(number, ("", 0)), 1)
        codec = Codec(
            number,
            name,
            clock_hz,
            channels,
            fmtp.get(number, ""),
            tuple(value for value in _FEEDBACK if value in feedback.get(number, ())),
        )
        if _usable(kind, codec):
            codecs.append(codec)
    media = {codec.payload_type for codec in codecs if codec.name.lower() != "rtx"}
    if not media:
        raise OfferRefused(406, "no_common_codec", _wanted(kind))
    return tuple(c for c in codecs if c.name.lower() != "rtx" or c.apt in media)


def _wanted(kind: Kind) -> str:
    known = "VP8 or H264" if kind == "video" else "Opus, G722, PCMU or PCMA"
    return f"none of the offered {kind} codecs can be decoded here: offer {known}"


def _usable(kind: Kind, codec: Codec) -> bool:
    name = codec.name.lower()
    if _CLOCKS_HZ.get((kind, name)) != codec.clock_hz:
        return False
    static = _STATIC.get(codec.payload_type)
    if codec.payload_type not in _DYNAMIC and (static is None or static[0].lower() != name):
        return False
    profile = _H264_PROFILE.search(codec.fmtp) if name == "h264" else None
    return profile is None or profile[1][:2].lower() in _H264_PROFILES


def _rtpmaps(section: _Section) -> dict[int, tuple[str, int, int]]:
    found = (_RTPMAP.fullmatch(text) for text in section.all("rtpmap"))
    return {int(m[1]): (m[2], int(m[3]), int(m[4] or 1)) for m in found if m}


def _by_number(values: list[str]) -> dict[int, str]:
    found = (_NUMBERED.fullmatch(text) for text in values)
    return {int(m[1]): m[2] for m in found if m and m[1] != "*"}


def _feedback(section: _Section) -> dict[int, set[str]]:
    numbers = list(_rtpmaps(section))
    feedback: dict[int, set[str]] = {number: set() for number in numbers}
    for text in section.all("rtcp-fb"):
        if found := _NUMBERED.fullmatch(text):
            for number in numbers if found[1] == "*" else [int(found[1])]:
                feedback.setdefault(number, set()).add(found[2])
    return feedback


def _extensions(section: _Section) -> tuple[tuple[int, str], ...]:
    found = (_EXTMAP.fullmatch(text) for text in section.all("extmap"))
    known = ((int(m[1]), m[2]) for m in found if m)
    return tuple((number, uri) for number, uri in known if uri in _EXTENSIONS and 0 < number < 15)


def _ssrcs(section: _Section) -> tuple[int, ...]:
    """Return the SSRC of the first encoding, and of its retransmissions when they are paired."""
    found = (_SSRC.fullmatch(text) for text in section.all("ssrc"))
    ssrcs = list(dict.fromkeys(int(m[1]) for m in found if m and 0 < int(m[1]) < 1 << 32))
    if not ssrcs:
        return ()
    for text in section.all("ssrc-group"):
        match text.split(" "):
            case ["FID", first, second] if first == str(ssrcs[0]) and second in map(str, ssrcs):
                return ssrcs[0], int(second)
    return (ssrcs[0],)


def _stream_id(section: _Section) -> str | None:
    msid = section.one("msid")
    return msid.split(" ")[0] if msid else None


def _check_together(media: tuple[Media, ...], session: _Section) -> None:
    if len(media) < 2:
        return
    first, second = media
    if first.mid == second.mid:
        raise _unusable("both sections have the same 'a=mid'")
    bundles = [text.split(" ")[1:] for text in session.all("group") if text.startswith("BUNDLE ")]
    if not any(first.mid in mids and second.mid in mids for mids in bundles):
        raise _unusable("audio and video must share one transport: offer 'a=group:BUNDLE'")
    streams = {m.stream_id for m in media if m.stream_id not in (None, "-")}
    if len(streams) > 1:
        raise _unusable("audio and video belong to different MediaStreams: publish one stream")
    if {c.payload_type for c in first.codecs} & {c.payload_type for c in second.codecs}:
        raise _unusable("audio and video share a payload type: number all formats differently")
