"""The strict reading of offers: what is taken, what is refused and how, and what the peer sees."""

import re
import time
from contextlib import suppress

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.retelling import finish, render
from services.ingest.sdp import MAX_BODY_BYTES, OfferRefused, parse, parse_fragment

FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)
AUDIO = [
    "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0",
    "c=IN IP4 0.0.0.0",
    "a=mid:0",
    "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    "a=extmap:14 urn:example:unknown",
    "a=sendonly",
    "a=msid:stream audio",
    "a=rtcp-mux",
    "a=rtpmap:111 opus/48000/2",
    "a=rtcp-fb:111 transport-cc",
    "a=fmtp:111 minptime=10;useinbandfec=1",
    "a=rtpmap:63 red/48000/2",
    "a=ssrc:1111 cname:x",
]
VIDEO = [
    "m=video 9 UDP/TLS/RTP/SAVPF 96 97 103 104 35",
    "c=IN IP4 0.0.0.0",
    "a=mid:1",
    "a=sendonly",
    "a=msid:stream video",
    "a=rtcp-mux",
    "a=rtpmap:96 VP8/90000",
    "a=rtcp-fb:96 nack",
    "a=rtcp-fb:96 nack pli",
    "a=rtcp-fb:96 transport-cc",
    "a=rtpmap:97 rtx/90000",
    "a=fmtp:97 apt=96",
    "a=rtpmap:103 H264/90000",
    "a=fmtp:103 level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=640c1f",
    "a=rtpmap:104 rtx/90000",
    "a=fmtp:104 apt=35",
    "a=rtpmap:35 AV1/90000",
    "a=ssrc-group:FID 2222 3333",
    "a=ssrc:2222 cname:x",
    "a=ssrc:3333 cname:x",
    "a=rid:h send",
    "a=simulcast:send h;l",
]
HEAD = [
    "v=0",
    "o=- 1 2 IN IP4 127.0.0.1",
    "s=-",
    "t=0 0",
    "a=group:BUNDLE 0 1",
    "a=ice-ufrag:abcd",
    "a=ice-pwd:" + "p" * 24,
    "a=fingerprint:" + FINGERPRINT,
    "a=setup:actpass",
]


def _sdp(*sections, head=HEAD):
    return "\r\n".join([line for part in (head, *sections) for line in part] + [""]).encode()


def _changed(lines, old, new=None):
    assert any(old in line for line in lines)
    changed = [line.replace(old, new) if new is not None else line for line in lines]
    return changed if new is not None else [line for line in lines if old not in line]


def test_a_browser_like_offer_is_read():
    audio, video = parse(_sdp(AUDIO, VIDEO)).media
    assert [codec.name for codec in audio.codecs] == ["opus", "G722", "PCMU"]
    assert [codec.payload_type for codec in video.codecs] == [96, 97, 103]
    assert video.codecs[0].feedback == ("nack", "nack pli")
    assert (audio.ssrcs, video.ssrcs) == ((1111,), (2222, 3333))
    assert audio.extensions == ((1, "urn:ietf:params:rtp-hdrext:ssrc-audio-level"),)
    assert (audio.setup, audio.ufrag, video.direction) == ("actpass", "abcd", "sendonly")


def test_line_ends_may_be_bare():
    assert parse(_sdp(AUDIO).replace(b"\r\n", b"\n")).kinds == ("audio",)


@pytest.mark.parametrize("setup", ["actpass", "active", "passive"])
def test_every_role_that_can_be_answered_is_taken(setup):
    offer = parse(_sdp(AUDIO, head=_changed(HEAD, "actpass", setup)))
    assert f"a=setup:{setup}\r\n" in render(offer)


def test_section_values_go_before_session_values():
    offer = parse(_sdp([*AUDIO, "a=ice-ufrag:wxyz", "a=setup:passive"]))
    assert (offer.media[0].ufrag, offer.media[0].setup) == ("wxyz", "passive")


def test_sendrecv_is_tolerated_and_is_the_default():
    assert parse(_sdp(_changed(AUDIO, "sendonly", "sendrecv"))).media[0].direction == "sendrecv"
    assert parse(_sdp(_changed(AUDIO, "a=sendonly"))).media[0].direction == "sendrecv"


REFUSED = {
    "empty": (b"", 400),
    "not sdp": (b"hello", 400),
    "json": (b'{"sdp":"v=0"}', 400),
    "not utf-8": (b"v=0\r\n\xff\xfe", 400),
    "nul": (b"v=0\r\ns=\0\r\n", 400),
    "no equals sign": (b"v=0\r\nhello\r\n", 400),
    "empty line": (b"v=0\r\n\r\nm=audio\r\n", 400),
    "bad media line": (_sdp(["m=audio nine UDP/TLS/RTP/SAVPF 0"]), 400),
    "long line": (_sdp(["a=" + "x" * 5000], AUDIO), 400),
    "too long": (_sdp(AUDIO, ["a=x"] * 30_000), 400),
    "too many attributes": (_sdp(AUDIO, ["a=x"] * 200), 400),
    "no media": (_sdp(), 422),
    "200 sections": (_sdp(*[AUDIO[:1]] * 200), 422),
    "two videos": (_sdp(VIDEO, VIDEO), 422),
    "data channel": (_sdp(AUDIO, ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel"]), 422),
    "recvonly": (_sdp(_changed(AUDIO, "sendonly", "recvonly")), 422),
    "inactive": (_sdp(AUDIO, _changed(VIDEO, "sendonly", "inactive")), 422),
    "recvonly for all": (_sdp(_changed(AUDIO, "a=sendonly"), head=[*HEAD, "a=recvonly"]), 422),
    "rejected section": (_sdp(_changed(AUDIO, "audio 9", "audio 0")), 422),
    "no bundle": (_sdp(AUDIO, VIDEO, head=_changed(HEAD, "a=group")), 422),
    "bundle of one": (_sdp(AUDIO, VIDEO, head=_changed(HEAD, "BUNDLE 0 1", "BUNDLE 0")), 422),
    "no rtcp-mux": (_sdp(_changed(AUDIO, "a=rtcp-mux")), 422),
    "no mid": (_sdp(_changed(AUDIO, "a=mid")), 422),
    "same mid": (_sdp(AUDIO, _changed(VIDEO, "mid:1", "mid:0")), 422),
    "two streams": (_sdp(AUDIO, _changed(VIDEO, "msid:stream", "msid:other")), 422),
    "shared payload type": (_sdp(AUDIO, [x.replace("96", "111") for x in VIDEO]), 422),
    "no ufrag": (_sdp(AUDIO, head=_changed(HEAD, "a=ice-ufrag")), 422),
    "short password": (_sdp(AUDIO, head=_changed(HEAD, "p" * 24, "p" * 21)), 422),
    "ice-lite": (_sdp(AUDIO, head=[*HEAD, "a=ice-lite"]), 422),
    "no fingerprint": (_sdp(AUDIO, head=_changed(HEAD, "a=fingerprint")), 422),
    "md5 fingerprint": (_sdp(AUDIO, head=_changed(HEAD, "sha-256", "md5")), 422),
    "no setup": (_sdp(AUDIO, head=_changed(HEAD, "a=setup")), 422),
    "holdconn": (_sdp(AUDIO, head=_changed(HEAD, "actpass", "holdconn")), 422),
    "plain rtp": (_sdp(_changed(AUDIO, "UDP/TLS/RTP/SAVPF", "RTP/AVP")), 422),
    "unknown codecs": (_sdp([x.replace("VP8", "AV1").replace("H264", "H265") for x in VIDEO]), 406),
    "one section without a codec": (
        _sdp(AUDIO, [x.replace("/90000", "/80000") for x in VIDEO]),
        406,
    ),
    "only rtx": (_sdp(_changed(VIDEO, " 96 97 103 104 35", " 97")), 406),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_have_a_status_and_a_sentence(name):
    body, status = REFUSED[name]
    with pytest.raises(OfferRefused) as refused:
        parse(body)
    assert refused.value.status == status
    assert len(refused.value.detail) > 20
    assert "\n" not in refused.value.detail


def test_the_peer_sees_one_dummy_instead_of_candidates():
    named = [
        "a=candidate:1 1 udp 1 10.0.0.1 22 typ host",
        "a=candidate:2 1 udp 1 x.local 9 typ host",
    ]
    text = render(parse(_sdp([*AUDIO, *named, "a=end-of-candidates"], VIDEO)))
    assert re.findall(r"a=candidate:(.*)\r", text) == ["1 1 udp 1 192.0.2.1 9 typ host"] * 2
    assert "end-of-candidates" not in text
    assert "simulcast" not in text
    assert "10.0.0.1" not in text


def test_the_peer_can_read_what_is_said_again():
    described = SessionDescription.parse(render(parse(_sdp(AUDIO, VIDEO))))
    audio, video = described.media
    assert [codec.name for codec in audio.rtp.codecs] == ["opus", "G722", "PCMU"]
    assert [codec.name for codec in video.rtp.codecs] == ["VP8", "rtx", "H264"]
    assert [info.ssrc for info in video.ssrc] == [2222, 3333]
    assert video.dtls.role == "auto"


def test_the_answer_has_the_offered_parameters_and_only_receives():
    offer = parse(_sdp(AUDIO, VIDEO))
    lines = [
        "v=0",
        "m=video 9 UDP/TLS/RTP/SAVPF 103",
        "a=sendrecv",
        "a=msid:- ours",
        "a=ssrc:1 cname:us",
        "a=rtpmap:103 H264/90000",
        "a=fmtp:103 profile-level-id=42e01f",
    ]
    answer = "".join(f"{line}\r\n" for line in lines)
    assert finish(answer, offer).split("\r\n") == [
        "v=0",
        "m=video 9 UDP/TLS/RTP/SAVPF 103",
        "a=recvonly",
        "a=rtpmap:103 H264/90000",
        "a=fmtp:103 level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=640c1f",
        "",
    ]


def test_a_fragment_tells_its_user_name():
    fragment = parse_fragment(b"a=ice-ufrag:abcd\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n")
    assert (fragment.ufrag, fragment.password) == ("abcd", None)
    with pytest.raises(OfferRefused) as refused:
        parse_fragment(b"\xff")
    assert refused.value.status == 400


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_cleanly(body):
    with pytest.raises(OfferRefused) as refused:
        parse(body)
    assert refused.value.status in (400, 406, 422)


LINES = _sdp(AUDIO, VIDEO).decode().split("\r\n")[:-1]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mangled_offers_are_refused_or_safe_to_render(data):
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["drop", "double", "swap", "edit", "insert"])):
            case "drop":
                lines.pop(at)
            case "double":
                lines.insert(at, lines[at])
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], lines[at]
            case "edit":
                cut = data.draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:cut] + data.draw(st.text(max_size=8)) + lines[at][cut + 1 :]
            case "insert":
                lines.insert(at, data.draw(st.sampled_from("amcvb")) + "=" + data.draw(st.text()))
        if not lines:
            return
    try:
        offer = parse("\r\n".join(lines).encode("utf-8", "surrogatepass"))
    except OfferRefused:
        return
    described = SessionDescription.parse(render(offer))
    assert [media.kind for media in described.media] == [media.kind for media in offer.media]
    assert all(media.rtcp_mux and media.ice.password for media in described.media)


def test_the_limit_is_that_of_the_body():
    with pytest.raises(OfferRefused, match="longer"):
        parse(b"v=0\r\n" + b"a=x\r\n" * (MAX_BODY_BYTES // 5))


def _hostile_bodies():
    """Return the dearest bodies we know of, each as long as a body may be."""
    filler = "96 VP8/90000"
    yield "sections", HEAD, ["m=video 9 UDP/TLS/RTP/SAVPF 96"] * 2100
    yield "attributes", HEAD, ["a="] * 20_000
    yield "maps", HEAD, [VIDEO[0], *[f"a=rtpmap:{filler}"] * 99, *["a=rtcp-fb:* nack pli"] * 99]
    yield "parameters", HEAD, [*VIDEO[:8], *["a=fmtp:96 " + "; " * 400 + "profile-level-id="] * 75]
    yield "groups", HEAD, [*VIDEO, *["a=ssrc-group:FID 2222 " + "9" * 300] * 150]
    yield "bundles", [*HEAD, *["a=group:BUNDLE " + "0 " * 160] * 180], VIDEO


@pytest.mark.parametrize("body", list(_hostile_bodies()), ids=lambda body: body[0])
def test_no_body_holds_the_event_loop_up(body):
    """50 ms is the limit; a slow machine gets ten times that. It takes 5 ms at most."""
    _, head, lines = body
    text = _sdp(lines, head=head)[:MAX_BODY_BYTES]
    began = time.process_time()
    with suppress(OfferRefused):
        parse(text)
    assert time.process_time() - began < 0.5
