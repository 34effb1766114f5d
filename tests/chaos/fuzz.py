"""Fuzzers of our own parsers: bytes of strangers in, a documented refusal or a bounded result out.

``python -m tests.chaos.fuzz --minutes 10 [--seed N] [--target NAME]`` mutates the corpus of every
target in turn. A finding is printed with its seed and its bytes; the same seed finds it again.
Coverage does not guide it: the corpora hold one good example of every form.
"""

import argparse
import asyncio
import base64
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

LARGEST = 200_000
"""Bytes of one case: more than any door lets in."""
SLOWEST_S = 2.0
"""A case that computes for longer is a finding: a stranger could hold the event loop with it."""
_EDGES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


@dataclass(frozen=True)
class Target:
    """One parser."""

    name: str
    corpus: list[bytes]
    check: Callable[[bytes], None]
    """Raises when the parser broke its word; a documented refusal is swallowed."""
    tokens: tuple[bytes, ...] = ()
    """Words of the format, put in here and there."""


@dataclass
class Finding:
    """A broken word."""

    target: str
    seed: int
    case: bytes
    error: str


@dataclass
class Tally:
    """What one target went through."""

    cases: int = 0
    slowest_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def mutated(target: Target, rng: random.Random) -> bytes:
    """Return a case: an example, changed a little or a lot."""
    data = bytearray(rng.choice(target.corpus))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        span = slice(place, place + rng.choice((1, 1, 2, 4, 32, 512)))
        match rng.randrange(9):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[min(place, len(data) - 1)] = rng.choice(_EDGES)
            case 2:
                del data[span]
            case 3:
                data[place:place] = data[span] * rng.choice((1, 2, 50, 1000))
            case 4:
                data[place:place] = rng.randbytes(rng.choice((1, 2, 8, 64)))
            case 5:
                other = rng.choice(target.corpus)
                cut = rng.randrange(len(other) + 1)
                data[place:] = other[cut:]
            case 6:
                del data[place:]
            case 7 if target.tokens:
                data[span] = rng.choice(target.tokens) * rng.choice((1, 1, 1, 100))
            case _:
                data[span] = rng.choice((b"\0", b"\xff", b"\x80", b"9" * 20, b"\r\n", b" "))
        del data[LARGEST:]
    return bytes(data)


def play(target: Target, seed: int, tally: Tally) -> None:
    """Try one case."""
    case = mutated(target, random.Random(f"{target.name}:{seed}"))
    begun = time.thread_time()  # of the processor: a busy machine is no finding
    try:
        target.check(case)
    except Exception as error:  # noqa: BLE001 - whatever was not documented is the finding
        tally.findings.append(Finding(target.name, seed, case, f"{type(error).__name__}: {error}"))
    took = time.thread_time() - begun
    tally.cases += 1
    tally.slowest_s = max(tally.slowest_s, took)
    if took > SLOWEST_S:
        tally.findings.append(Finding(target.name, seed, case, f"took {took:.1f} s"))


Kind = TypeVar("Kind", bound=Exception)
Result = TypeVar("Result")


def refused(kind: type[Kind], parse: Callable[..., Result], *given: object) -> Result | Kind:
    """Return what was parsed, or the documented refusal."""
    try:
        return parse(*given)
    except kind as error:
        return error


# --- what is checked -------------------------------------------------------------------------


def _offers() -> list[bytes]:
    from tests.services.ingest.test_sdp import AUDIO, HEAD, VIDEO, _sdp

    chromium = [line.replace("a=setup:actpass", "a=setup:active") for line in HEAD]
    return [
        _sdp(AUDIO, VIDEO),
        _sdp(AUDIO),
        _sdp(VIDEO),
        _sdp(VIDEO, AUDIO, head=chromium),
        _sdp(AUDIO).replace(b"\r\n", b"\n"),
        _sdp([*AUDIO, "a=candidate:1 1 udp 2113937151 192.0.2.7 5000 typ host"], VIDEO),
    ]


def offer(data: bytes) -> None:
    """What is taken is said again in a form that the peer can parse."""
    from aiortc.sdp import SessionDescription

    from services.ingest.retelling import finish, render
    from services.ingest.sdp import OfferRefused, parse

    found = refused(OfferRefused, parse, data)
    if isinstance(found, OfferRefused):
        assert found.status in {400, 406, 422}
        assert len(found.detail) < 1000
        return
    text = render(found)
    assert len(text) < 40_000
    told = SessionDescription.parse(text)
    assert [media.kind for media in told.media] == [media.kind for media in found.media]
    assert "candidate" not in text.replace(
        "a=candidate:1 1 udp 1 192.0.2.1 9 typ host", ""
    ).replace("a=end-of-candidates", "")
    assert finish(text, found).count("m=") >= len(found.media)


def fragment(data: bytes) -> None:
    from services.ingest.sdp import OfferRefused, parse_fragment

    with suppress(OfferRefused):
        parse_fragment(data)


def message(data: bytes) -> None:
    """The event socket's messages; the transport has refused what is no UTF-8."""
    from services.gateway.protocol import (
        MAX_MESSAGE_BYTES,
        Closing,
        Code,
        Resume,
        Subscribe,
        decode,
    )

    found = refused(Closing, decode, data[:MAX_MESSAGE_BYTES].decode(errors="replace"))
    if isinstance(found, Closing):
        assert found.code == Code.BAD_MESSAGE
        assert len(found.reason) < 2 * MAX_MESSAGE_BYTES
        return
    if isinstance(found, Subscribe):
        found.takes("window.scored")
        found.takes_role("customer")
        assert len(found.sessions) <= 64
    if isinstance(found, Resume):
        assert len(found.since) <= 64
        assert all(-1 <= seq < 2**53 for seq in found.since.values())


def picture(data: bytes) -> None:
    """What a frame says of itself before anything decodes it."""
    from services.ingest.collector import Encoded
    from services.ingest.decoder import MAX_PIXELS, MAX_SIDE_PX, acceptable
    from services.ingest.layers import temporal_layer
    from services.ingest.packets import is_key
    from services.ingest.shapes import declared

    for codec in ("VP8", "H264"):
        assert 0 <= temporal_layer(codec, data) <= 3
        key = is_key(codec, data)
        sizes = declared(codec, data)
        if acceptable(Encoded("video", codec, 0, data, key)) and key:
            assert all(max(size) <= MAX_SIDE_PX for size in sizes)
            assert all(width * height <= MAX_PIXELS for width, height in sizes)


def packets(data: bytes) -> None:
    """Any sequence of packets: bounded waiting, every frame from packets that came."""
    from services.ingest.packets import CAPACITY, Assembler, Payload

    for codec in ("VP8", "H264"):
        assembler = Assembler(codec)
        given = taken = 0
        for at in range(0, min(len(data), 20_000), 10):
            head = data[at : at + 10].ljust(10, b"\0")
            content = head[7:9] * (head[9] % 4)
            given += len(content)
            frames = assembler.add(
                Payload(
                    int.from_bytes(head[:2], "big"),
                    int.from_bytes(head[2:6], "big"),
                    bool(head[6] & 1),
                    content,
                    head[6] >> 6,
                )
            )
            taken += sum(len(frame.data) for frame in frames)
            assembler.asks_for_key()
            assert assembler.waiting <= CAPACITY + 1
            assert taken <= given


def record(data: bytes) -> None:
    from services.bus.keys import pack, unpack_published

    try:
        found = unpack_published(data)
    except ValueError:
        return
    assert unpack_published(pack(found)) == found


def change(data: bytes) -> None:
    from services.bus.keys import unpack_change

    with suppress(ValueError):
        unpack_change(data)


def model(data: bytes) -> None:
    from pipeline import onnxfile, spec
    from pipeline.errors import ModelRefused, SpecError

    with suppress(ModelRefused, SpecError):
        spec.decode(onnxfile.read(data, file="m.onnx").metadata, file="m.onnx")


def manifest(data: bytes) -> None:
    from pipeline import models

    with suppress(ValueError):
        models.decode(data)


def setting(data: bytes) -> None:
    """One line ``name=value``, as a variable of the environment."""
    from pydantic import ValidationError

    from services.cli.exits import sentence
    from services.settings import Settings

    name, _, value = data.decode(errors="replace").partition("=")
    try:
        Settings.model_validate({name: value})
    except ValidationError as error:
        line = sentence(error)
        assert line.isprintable()
        assert len(line) <= 2000


def address(data: bytes) -> None:
    """An address of Redis: refused, or a client; never its password in words."""
    from pipeline.errors import UsageError
    from services.bus.server import client, in_the_open, where

    url = data.decode(errors="replace")
    told = ""
    try:
        client(url)
        in_the_open(url)
    except UsageError as error:
        told = str(error)
    if "canary" not in url.lower().rpartition("@")[2]:
        assert "canary" not in told.lower() + where(url).lower()


def answer(data: bytes) -> None:
    """The decoder's side is hostile once it was broken into."""
    import numpy as np

    from services.ingest.collector import Encoded
    from services.ingest.confined import wire

    batch = [Encoded("video", "VP8", 0, b"", True), Encoded("audio", "opus", 0, b"", True)]
    with suppress(wire.Lied):
        wire.taken(wire.answer(data), np.zeros(4096, np.uint8), batch)
    with suppress(wire.Lied):
        wire.hello(data)


def key_set(data: bytes) -> None:
    from pipeline.errors import UsageError
    from services.identity.keys import parse

    with suppress(UsageError):
        parse(data)


class Tokens:
    """Tokens changed in transit, and tokens whose issuer writes nonsense."""

    def __init__(self) -> None:
        from services.identity.claims import Expected
        from services.identity.keys import parse
        from services.identity.verifier import JwtVerifier
        from tests.services.identity.tokens import Issuer, ManualClock

        clock = ManualClock()
        with tempfile.TemporaryDirectory() as folder:
            issuer = Issuer(Path(folder), clock=clock)
            self.keys = parse(issuer.jwks.read_bytes())
            self.set = issuer.jwks.read_bytes()
        self.good = issuer.token()
        claims = issuer.token(
            consent={"notice_version": "1", "notice_sha256": "0" * 64, "granted_ms": 1},
            context="customer_call", mixed=False, nbf=1, sub="pseudonym",
        )  # fmt: skip
        self.payloads = [_payload(token) for token in (self.good, claims)]
        self.verifier = JwtVerifier(self, Expected("demeanor", None), clock)
        self._expected = Expected("demeanor", None)
        self._now_ms = clock.wall_ms()

    def find(self, kid: str) -> object:
        return self.keys.get(kid)

    def missed(self) -> None:
        """Nothing to fetch here."""

    def statistics(self) -> dict[str, float]:
        return {}

    def changed(self, data: bytes) -> None:
        """No change of a token leaves it valid, but of bits that base64 does not carry."""
        from services.auth import Unauthorised

        token = data.decode(errors="replace")
        found = refused(Unauthorised, self.verifier.verify, token)
        assert isinstance(found, Unauthorised) or token == self.good
        assert len(str(found)) < 1000

    def claims(self, data: bytes) -> None:
        """What a signed token says may be anything."""
        import json

        from services.auth import Unauthorised
        from services.identity.claims import principal

        try:
            told = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(told, dict):
            return
        with suppress(Unauthorised):
            found = principal(told, self._expected, self._now_ms)
            assert found.expires_s is not None
            assert found.expires_s <= self._now_ms / 1000 + 25 * 3600
            assert found.tenant
            assert "*" not in found.ingest


def _payload(token: str) -> bytes:
    middle = token.split(".")[1]
    return base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4))


class Media:
    """RTP and RTCP after decryption, at a real peer that was made for a good offer."""

    def __init__(self) -> None:
        from services.ingest.ice import Ports
        from services.ingest.peer import Callbacks, Peer
        from services.ingest.sdp import parse

        self.loop = asyncio.new_event_loop()
        self.frames = self.bytes = 0
        self._now_s = 0.0
        nothing = lambda *_: None  # noqa: E731
        self.peer = Peer(
            parse(_offers()[0]),
            Callbacks(self._frame, nothing, nothing, nothing),
            ports=Ports(42_000, 42_500), addresses=("127.0.0.1",), ice_servers=(), now=self._now,
        )  # fmt: skip
        self.loop.run_until_complete(self._connect())

    async def _connect(self) -> None:
        await self.peer.answer()
        self._transport = self.peer._connection.getTransceivers()[0].receiver.transport
        for transceiver in self.peer._connection.getTransceivers():
            receiver = transceiver.receiver
            await receiver.receive(self.peer._connection._RTCPeerConnection__remoteRtp(transceiver))

    def close(self) -> None:
        self.loop.run_until_complete(self.peer.close())
        self.loop.run_until_complete(asyncio.sleep(0.05))
        self.loop.close()

    def _now(self) -> float:
        self._now_s += 0.001
        return self._now_s

    def _frame(self, kind: str, codec: str, clock_hz: int, frame: object) -> None:
        self.frames += 1

    def rtp(self, data: bytes) -> None:
        """Cut the bytes into datagrams: two of length, then the datagram."""
        self.loop.run_until_complete(self._deliver(data))

    async def _deliver(self, data: bytes) -> None:
        from services.ingest.packets import CAPACITY
        from services.ingest.peer import MAX_SSRCS

        transport, at = self._transport, 0
        while at + 2 < min(len(data), 20_000):
            end = at + 2 + int.from_bytes(data[at : at + 2], "big") % 1500
            datagram = data[at + 2 : end]
            at = end
            if len(datagram) < 2:
                continue
            if 192 <= datagram[1] < 224:
                await transport._handle_rtcp_data(datagram)
            else:
                await transport._handle_rtp_data(datagram, 0)
        assert len(transport._rtp_router.ssrc_table) <= 2 * (MAX_SSRCS + 2)
        assert self.peer.waiting <= 2 * (CAPACITY + 1)


class Codecs:
    """Encoded frames, damaged, through the real codecs; then sound ones, which must come out.

    A damaged header of H.264 may announce that pictures come out of order: then the first sound one
    comes out after up to 16 more.
    """

    def __init__(self) -> None:
        from tests.services.ingest.test_decoder import encoded_audio, encoded_video

        size = (64, 48)
        self._good = [
            *(encoded_video(codec, 20, size) for codec in ("VP8", "H264")),
            *(encoded_audio(codec, 0.08) for codec in ("opus", "PCMU", "PCMA", "G722")),
        ]

    def corpus(self) -> list[bytes]:
        """Return a codec's number, then its frames, each behind two bytes of length."""
        return [
            bytes([number]) + b"".join(len(f.data).to_bytes(2, "big") + f.data for f in frames[:4])
            for number, frames in enumerate(self._good)
        ]

    def check(self, data: bytes) -> None:
        from msgspec.structs import replace

        from pipeline.types import AudioChunk, VideoFrame
        from services.ingest.decoder import MAX_PIXELS, Decoder
        from services.ingest.packets import is_key

        good = self._good[data[0] % len(self._good) if data else 0]
        decoder, at, frames = Decoder(), 1, []
        while at + 2 < min(len(data), 30_000):
            end = at + 2 + int.from_bytes(data[at : at + 2], "big")
            piece = data[at + 2 : end]
            key = is_key(good[0].codec, piece)
            frames.append(replace(good[0], tick=len(frames) * 4000, data=piece, key=key))
            at = end
        found = decoder.decode("fuzz", frames)
        assert len(found.items) <= 64 * (len(frames) + 1)
        for item in found.items:
            if isinstance(item, VideoFrame):
                assert item.rgb.size <= 3 * MAX_PIXELS
        later = [replace(each, tick=each.tick + 4_000_000) for each in good]
        kinds = {type(item) for item in decoder.decode("fuzz", later).items}
        assert kinds & {AudioChunk, VideoFrame}, "the next good frames were not decoded"


def _datagrams() -> list[bytes]:
    from aiortc.rtp import (
        RtcpByePacket,
        RtcpReceiverInfo,
        RtcpRrPacket,
        RtcpSenderInfo,
        RtcpSrPacket,
        RtpPacket,
    )

    def rtp(
        payload_type: int, ssrc: int, payload: bytes, number: int = 1, *, mark: int = 1
    ) -> bytes:
        packet = RtpPacket(
            payload_type=payload_type, marker=mark, sequence_number=number, timestamp=3000 * number,
            ssrc=ssrc, payload=payload,
        )  # fmt: skip
        return packet.serialize()

    vp8 = b"\x10" + b"\x10\x00\x00\x9d\x01\x2a\x40\x01\xf0\x00" + bytes(60)
    layered = b"\x90\xe0\x81\x23\x45\x40" + vp8[1:]
    h264 = (
        b"\x65" + bytes(40),
        b"\x18\x00\x03\x67\x42\x00\x00\x03\x68\xce\x38",
        b"\x7c\x85" + bytes(30),
    )
    info = RtcpReceiverInfo(2222, 0, 0, 0, 0, 0, 0)
    sender = RtcpSenderInfo(1 << 40, 3000, 1, 100)
    groups = [
        [rtp(111, 1111, b"\xfc\xff\xfe", n) for n in range(4)],
        [rtp(96, 2222, vp8, n) for n in range(4)],
        [rtp(96, 2222, layered, n, mark=n % 2) for n in range(4)],
        [rtp(103, 2222, part, n) for n, part in enumerate(h264)],
        [rtp(97, 3333, b"\0\1" + vp8)],
        [bytes(RtcpSrPacket(2222, sender, [info])), bytes(RtcpRrPacket(1, [info] * 3))],
        [bytes(RtcpByePacket([1111]))],
    ]
    return [b"".join(len(d).to_bytes(2, "big") + d for d in group) for group in groups]


def _h264() -> list[bytes]:
    sps = b"\0\0\0\1\x67\x42\xc0\x1e\xda\x02\x80\xf6\x84\0\0\3\0\4\0\0\3\0\xca\x3c\x58\xba\x80"
    high = b"\0\0\1\x67\x64\0\x1f\xac\xd9\x40\x50\x05\xbb\x01\x10\0\0\3\0\x10"
    high += b"\0\0\3\3\xc0\xf1\x83\x19\x60"
    return [sps + b"\0\0\1\x68\xce\x38\x80\0\0\1\x65" + bytes(20), high, b"\x18\0\3\x67\x42\0"]


def _small_models() -> list[bytes]:
    from onnx import helper

    from tests.pipeline.test_onnxfile import WHERE, graph, nested
    from tests.pipeline.test_session import model as sound

    return [
        sound(),
        sound(external=True),
        sound(domain="my.ops"),
        *(proto.SerializeToString() for proto in WHERE.values()),
        helper.make_model(nested(graph(), 6)).SerializeToString(),
    ]


def _settings() -> list[bytes]:
    words = (
        "udp_ports=40000-40100", "ice_addresses=127.0.0.1,::1", "ice_servers=stun:h:1,turn:h",
        "redis_url=redis://u@h:1/0", "host=127.0.0.1", "origins=https://a.b:443,http://c",
        "http_port=8080", "score_roles=customer,self", "token_key_hosts=a.b,c", "drain_soft_s=3",
        "memory_limit_mb=512", "log_level=debug", "tls_cert=/a.pem", "device=cpu", "model=a.onnx",
    )  # fmt: skip
    return [word.encode() for word in words]


def _manifest() -> list[bytes]:
    from pipeline import models

    return [models.path(models.MANIFEST_FILE).read_bytes()]


def _records() -> list[bytes]:
    from services.bus.keys import pack
    from tests.services.events import records

    return [pack(each) for each in records(0, 3)]


def _change() -> bytes:
    import msgspec

    from tests.services.events import session

    return msgspec.json.encode(session("ses_1"))


def _answers() -> list[bytes]:
    from services.ingest.confined import wire

    told = wire.Answer(
        1, [wire.Sound(0, 100), wire.Picture(5, 16, 16), wire.Progress("video", 9)], 0, 1, 2, 3
    )
    return [wire.framed(told)[4:], wire.framed(wire.Hello(True))[4:]]


_MESSAGES = [
    b'{"type":"auth","token":"dev"}',
    b'{"type":"subscribe","id":"a","sessions":["*"],"events":["alert.*"],"max_hz":2.5,"snapshot":true}',
    b'{"type":"resume","since":{"ses_1":12,"ses_2":-1},"subscribe":{"sessions":["ses_1"]}}',
    b'{"type":"unsubscribe","id":"a"}',
    b'{"type":"ping"}',
    b'{"type":"pong","id":null}',
]
_JSON = (b'"', b"{", b"}", b"[", b"]", b":", b",", b"null", b"1e400", b"-1", b"\\u0000", b"\\ud800")
_SDP = (b"a=", b"m=", b"v=0", b"\r\n", b"a=mid:", b"UDP/TLS/RTP/SAVPF", "٣".encode(), b"/", b" ")
_URLS = [
    b"redis://me:canary@127.0.0.1:6379/0",
    b"rediss://:canary@[::1]:1?db=2",
    b"unix://me:canary@/run/bus.sock?db=1",
    b"redis://:CANARY@host",
]


@contextmanager
def targets() -> Iterator[dict[str, Target]]:
    """Build every target; the peer and its sockets last as long as the context."""
    tokens, media, codecs = Tokens(), Media(), Codecs()
    fragments = [
        b"a=ice-ufrag:abcd\r\na=ice-pwd:" + b"p" * 24 + b"\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"
    ]
    found = [
        Target("offer", _offers(), offer, _SDP),
        Target("fragment", fragments, fragment, _SDP),
        Target("message", _MESSAGES, message, _JSON),
        Target("picture", [*_h264(), b"\x10\0\0\x9d\x01\x2a\x40\x01\xf0\0" + bytes(9)], picture),
        Target("packets", [b"\0\1\0\0\1\0\1\0\0\2" * 20, bytes(300)], packets),
        Target("media", _datagrams(), media.rtp),
        Target("codec", codecs.corpus(), codecs.check),
        Target("record", _records(), record),
        Target("change", [_change()], change, _JSON),
        Target("model", _small_models(), model),
        Target("manifest", _manifest(), manifest, _JSON),
        Target("setting", _settings(), setting, (b",", b"-", b"=", b"\x1b[2J", b"\xe2\x80\xa8")),
        Target("address", _URLS, address, (b"@", b":", b"/", b"?", b"#", b"%40", b"[", b"]")),
        Target("answer", _answers(), answer),
        Target("token", [tokens.good.encode()], tokens.changed, (b".", b"=", b"e30")),
        Target("claims", tokens.payloads, tokens.claims, _JSON),
        Target("key set", [tokens.set], key_set, _JSON),
    ]
    try:
        yield {target.name: target for target in found}
    finally:
        media.close()


def main(arguments: list[str]) -> int:
    """Run until the time is over; 1 when something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--target", default=None)
    parser.add_argument("--cases", type=int, default=None, help="of each target, then stop")
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}", flush=True)
    with targets() as known:
        chosen = [known[given.target]] if given.target else list(known.values())
        tallies = {target.name: Tally() for target in chosen}
        ends, number = time.monotonic() + 60 * given.minutes, 0
        while time.monotonic() < ends and number != given.cases:
            for target in chosen:
                play(target, given.seed + number, tallies[target.name])
            number += 1
    for name, tally in tallies.items():
        slowest = f"slowest {1000 * tally.slowest_s:.0f} ms"
        print(f"{name:<10} {tally.cases:>8} cases  {slowest}  {len(tally.findings)} findings")
        for finding in tally.findings[:3]:
            print(f"  --target '{name}' --seed {finding.seed} --cases 1: {finding.error[:300]}")
            print(f"  {base64.b64encode(finding.case[:600]).decode()}")
    return int(any(tally.findings for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
