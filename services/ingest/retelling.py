"""A publisher's offer said again for the peer, and the peer's answer said again for the publisher.

What the peer parses is written here, from validated fields only. In it all remote candidates are
replaced by one dummy, so the server probes no address that a client names; the client's own
authenticated checks give a peer-reflexive pair. Pure: no I/O, no clock.
"""

from dataclasses import replace
from typing import Final

from services.ingest.sdp import Codec, Media, Offer

DUMMY_CANDIDATE: Final = "1 1 udp 1 192.0.2.1 9 typ host"
"""TEST-NET-1 (RFC 5737): routed nowhere, and the discard port."""


def render(offer: Offer) -> str:
    """Return the same offer as minimal SDP for the peer, with the dummy for all candidates.

    H.264 of any profile is announced as constrained baseline, the one the peer knows: the decoder
    takes them all. :func:`finish` puts the offered parameters back into the answer.
    """
    mids = " ".join(media.mid for media in offer.media)
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=group:BUNDLE {mids}"]
    for media in offer.media:
        lines += _render_media(media)
    return "\r\n".join(lines) + "\r\n"


def finish(answer: str, offer: Offer) -> str:
    """Return the peer's answer as the publisher gets it: recvonly, offered parameters restored.

    What the peer says of streams of its own (``msid``, ``ssrc``) is left out: it sends none.
    """
    fmtp = {
        codec.payload_type: codec.fmtp
        for media in offer.media
        for codec in media.codecs
        if codec.name.lower() == "h264"
    }
    lines = []
    for line in answer.splitlines():
        if line.startswith(("a=msid:", "a=ssrc:", "a=ssrc-group:")):
            continue
        if line in ("a=sendrecv", "a=sendonly", "a=inactive"):
            lines.append("a=recvonly")
        elif line.startswith("a=fmtp:") and (number := int(line[7:].split(" ")[0])) in fmtp:
            lines += [f"a=fmtp:{number} {fmtp[number]}"] if fmtp[number] else []
        else:
            lines.append(line)
    return "\r\n".join(lines) + "\r\n"


def _render_media(media: Media) -> list[str]:
    numbers = " ".join(str(codec.payload_type) for codec in media.codecs)
    lines = [
        f"m={media.kind} 9 UDP/TLS/RTP/SAVPF {numbers}",
        "c=IN IP4 0.0.0.0",
        f"a={media.direction}",
        f"a=mid:{media.mid}",
        "a=rtcp-mux",
        f"a=ice-ufrag:{media.ufrag}",
        f"a=ice-pwd:{media.password}",
        *(f"a=fingerprint:{name} {value}" for name, value in media.fingerprints),
        f"a=setup:{media.setup}",
        f"a=candidate:{DUMMY_CANDIDATE}",
        *(f"a=extmap:{number} {uri}" for number, uri in media.extensions),
    ]
    if len(media.ssrcs) > 1:
        lines.append(f"a=ssrc-group:FID {' '.join(map(str, media.ssrcs))}")
    lines += [f"a=ssrc:{ssrc} cname:publisher" for ssrc in media.ssrcs]
    for codec in media.codecs:
        lines += _render_codec(_as_known(codec))
    return lines


def _as_known(codec: Codec) -> Codec:
    if codec.name.lower() == "h264":
        known = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
        return replace(codec, name="H264", fmtp=known)
    fmtp = f"apt={codec.apt}" if codec.name.lower() == "rtx" else ""
    return replace(codec, fmtp=fmtp)


def _render_codec(codec: Codec) -> list[str]:
    channels = f"/{codec.channels}" if codec.channels > 1 else ""
    lines = [f"a=rtpmap:{codec.payload_type} {codec.name}/{codec.clock_hz}{channels}"]
    lines += [f"a=rtcp-fb:{codec.payload_type} {value}" for value in codec.feedback]
    return [*lines, f"a=fmtp:{codec.payload_type} {codec.fmtp}"] if codec.fmtp else lines
