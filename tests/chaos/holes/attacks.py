"""R1–R12 of `design/reliability.md` §1: one coroutine an attack, figures out.

Each takes ``guarded``; without it the guard is taken out and nothing else is changed.
"""

import asyncio
import json
import random
import resource
import socket
import sys
import time
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import aioice.stun
import aiortc.rtcrtpreceiver
import av

from services.ingest import peer as peering
from services.ingest.collector import BOUND
from services.ingest.decoder import Decoder
from services.ingest.gate import Gate, Rate
from services.ingest.peer import Peer
from services.ingest.retelling import DUMMY_CANDIDATE
from services.ingest.session import Session
from tests.chaos.holes import media, pairs
from tests.e2e.harness import ROOT
from tests.services.ingest.support import ManualClock, Publisher, serving

HANDSHAKES = 4
PART = 1200
BACKLOG = 250
CLOSE_S = 1.0
"""How long a close that hangs is waited for here; in the product it is 5 s."""


def _without(guarded, *guards):
    """Take guards out while the context lasts, unless ``guarded``."""
    stack = ExitStack()
    if not guarded:
        for guard in guards:
            stack.enter_context(guard)
    return stack


def _nothing(*_args, **_kwargs):
    return None


async def ssrc_flood(guarded):
    """R1 (F1): 300 senders in one track, then the next receiver report, then close."""
    guards = (
        patch.object(Peer, "_bound_senders", _nothing),
        patch.object(Peer, "_keep_reporting", _nothing),
        patch.object(peering, "CLOSE_S", CLOSE_S),
    )
    soon = patch.object(aiortc.rtcrtpreceiver.random, "random", lambda: 0.0)
    with _without(guarded, *guards), soon:
        async with pairs.connected() as pair:
            for number in range(300):
                await pair.send(1, 0, media.vp8_payload(b"\0" * 20), ssrc=number + 5000)
                if number % 50 == 49:
                    await pair.drained()
            await asyncio.sleep(0.8)  # one receiver report
            table = len(pair.transport._rtp_router.ssrc_table)
            streams = len(pair.receiver._RTCRtpReceiver__remote_streams)
            dropped = pair.peer.lost()["unknown_ssrc"]
            began = time.monotonic()
            closed = await pair.peer.close()
            took_s = time.monotonic() - began
            if not closed:
                await _unstick(pair)
    return {
        "ssrc_table": table,
        "statistics": streams,
        "dropped": dropped,
        "closed": closed,
        "close_s": took_s,
    }


async def _unstick(pair):
    """Free what a close that hung left behind."""
    pair.receiver._RTCRtpReceiver__rtcp_exited.set()
    task = pair.receiver._RTCRtpReceiver__rtcp_task
    await asyncio.wait([task])
    task.exception()
    await pair.transport.stop()
    await pair.transport.transport.stop()


async def junk_before_dtls(guarded):
    """R2 (F2): somebody else's DTLS records reach the port during the handshake."""
    alert = b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02\x28"
    guard = patch.object(Gate, "_media_passes", lambda *_: True)
    made, dropped, reached = 0, 0, 0
    with _without(guarded, guard):
        for _ in range(HANDSHAKES):
            async with pairs.calling() as pair:
                junk = asyncio.create_task(_send_often(alert, (pairs.ADDRESS, pair.port)))
                try:
                    await asyncio.wait_for(_settled(pair), pairs.CONNECT_S)
                finally:
                    junk.cancel()
                    await asyncio.wait([junk])
                made += pair.peer._connection.connectionState == "connected"
                dropped += pair.peer.gathering.gate.dropped["stranger"]
                reached += pair.counts()[0]
    return {"handshakes": HANDSHAKES, "made": made, "junk_dropped": dropped, "dtls_rx": reached}


async def _settled(pair):
    while pair.peer._connection.connectionState not in ("connected", "failed", "closed"):
        await asyncio.sleep(0.005)


async def _send_often(data, address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.2", 0))
        while True:
            sender.sendto(data, address)
            await asyncio.sleep(0.001)


async def vp8_header(guarded):
    """R3 (F3): a VP8 key frame of a few kB that declares 8000×8000; without: aiortc's decoder."""
    return await _blow("R3", guarded)


async def h264_bomb(guarded):
    """R4 (F4): an H.264 stream of 50 kB that expands to 4096×4096 pictures."""
    return await _blow("R4", guarded)


async def _blow(name, guarded):
    # Made here, so that the encoder's memory is not taken for the decoder's.
    frames = [media.vp8_key(8000, 8000)] if name == "R3" else media.h264(4096, 4096, 3)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.holes.blow", name),
        "guarded" if guarded else "open",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    given = json.dumps([frame.hex() for frame in frames]).encode()
    told, _ = await asyncio.wait_for(child.communicate(given), 90)
    return json.loads(told)


async def close_with_backlog(guarded):
    """R5 (F5): closing while 250 large frames wait to be decoded; without: plain aiortc."""
    frame = media.h264(1920, 1080, 1)[0]
    with _without(guarded, patch.object(Peer, "_tap", _nothing)):
        async with pairs.connected() as pair:
            threads = await pairs.decoder_threads(wanted=0 if guarded else 1)
            _pile_up(pair, frame, guarded=guarded)
            async with pairs.Stalls() as stalls:
                closed = await pair.peer.close()
    return {"loop_stall_s": stalls.longest_s, "closed": closed, "decoder_threads": threads}


def _pile_up(pair, frame, *, guarded):
    """Put frames where the receiver's own decoder thread looks for them."""
    from aiortc.jitterbuffer import JitterFrame

    queue = pair.receiver._RTCRtpReceiver__decoder_queue
    codec = next(
        c for c in pair.receiver._RTCRtpReceiver__codecs.values() if c.mimeType == "video/H264"
    )
    for number in range(BACKLOG):
        queue.put((codec, JitterFrame(data=frame, timestamp=number * 3000)))


async def never_read(guarded):
    """R6 (F6): pictures come in and nobody takes them out; without: plain aiortc."""
    frames = [data for data, _ in media.good("VP8", 2)] * 300
    if guarded:
        waiting, dropped, before, after = await _never_decoded(frames)
    else:
        waiting, dropped, before, after = await _never_received(frames)
    return {
        "frames_sent": len(frames),
        "frames_waiting": waiting,
        "dropped": dropped,
        "rss_mib": after - before,
    }


async def _never_decoded(frames):
    stuck = asyncio.Event()

    async def decode(*_):
        await stuck.wait()
        raise asyncio.CancelledError

    async with serving(udp_ports=(41900, 41949)) as server:
        with patch.object(type(server.whip.decoding), "decode", decode):
            async with published(server) as (pair, publication):
                before = _resident_mib()
                await stream(pair, frames)
                waiting = len(publication._collector)
                dropped = sum(publication.statistics().lost.values())
                after = _resident_mib()
                stuck.set()
    return waiting, dropped, before, after


async def _never_received(frames):
    with patch.object(Peer, "_tap", _nothing):
        async with pairs.connected(codec="VP8") as pair:
            before = _resident_mib()
            await stream(pair, frames)
            track = pair.receiver.track
            for _ in range(400):
                if track._queue.qsize() >= len(frames) - 10:
                    break
                await asyncio.sleep(0.05)
            return track._queue.qsize(), 0, before, _resident_mib()


@asynccontextmanager
async def published(server, kind="video", codec="VP8"):
    """A publisher of silent tracks at a real endpoint, and its publication there."""
    import aiohttp

    async with aiohttp.ClientSession() as http:
        publisher = Publisher(server.endpoint(), pairs.Still(kind), codec=f"{kind}/{codec}")
        try:
            await publisher.publish(http)
            (publication,) = server.whip.publications()
            while publication.half_open or publisher.peer.connectionState != "connected":
                await asyncio.sleep(0.01)
            number = publication.offer.media[0].codecs[0].payload_type
            yield pairs.Pair(publisher.peer, publication._peer, None, number), publication
        finally:
            await publisher.close()


async def stream(pair, frames):
    """Send VP8 frames in order, 20 at a time, in packets that fit an Ethernet frame."""
    sequence = 0
    for number, data in enumerate(frames):
        for at in range(0, len(data), PART):
            head = b"\x00" if at else b"\x10"
            last = at + PART >= len(data)
            await pair.send(sequence, number * 1500, head + data[at : at + PART], marker=int(last))
            sequence += 1
        if number % 20 == 19:
            await asyncio.sleep(0.02)
    await pair.drained()


def _resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def candidates(guarded):
    """R7 (F7): an offer that names addresses which are none of the publisher's."""
    sniffers = [Sniffer() for _ in range(3)]
    ports = [await sniffer.listen(host) for sniffer, host in zip(sniffers, _HOSTS, strict=True)]
    named = [
        f"{1 + number} 1 udp {9999 - number} {host} {port} typ host"
        for number, (host, port) in enumerate(list(zip(_HOSTS, ports, strict=True)) * 20)
    ]
    named += [f"900 1 udp 7 {host} 9 typ host" for host in _ELSEWHERE]
    told = peering.render
    naming = patch.object(
        peering,
        "render",
        lambda offer: told(offer).replace(
            f"a=candidate:{DUMMY_CANDIDATE}",
            "\r\n".join(f"a=candidate:{one}" for one in [*named[:60], DUMMY_CANDIDATE]),
        ),
    )
    with _without(guarded, naming):

        def edit(sdp):
            return sdp + "".join(f"a=candidate:{one}\r\n" for one in named)

        async with pairs.connected(edit=edit, late_s=0.5) as pair:
            pairs_made = len(pair.transport.transport._connection._check_list)
            state = pair.peer._connection.connectionState
    heard = sum(sniffer.heard for sniffer in sniffers)
    for sniffer in sniffers:
        sniffer.close()
    return {"state": state, "candidate_pairs": pairs_made, "probes_heard": heard}


_HOSTS = ("127.0.0.1", "127.0.0.3", "127.0.0.4")
_ELSEWHERE = ("169.254.1.1", "10.0.0.1", "fd00::1", "0b54c9a1.local", "router.internal")


class Sniffer(asyncio.DatagramProtocol):
    """Counts what arrives at an address."""

    def __init__(self):
        self.heard = 0

    async def listen(self, host):
        loop = asyncio.get_running_loop()
        self._link, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, 0))
        return self._link.get_extra_info("sockname")[1]

    def datagram_received(self, data, addr):
        self.heard += 1

    def close(self):
        self._link.close()


async def dead_dtls(guarded):
    """R8 (F8): DTLS dies of an exception and tells nobody; only the watchdog is left."""
    return await _silence(guarded, _kill_dtls)


async def vanished(guarded):
    """R10 (F10): a publisher vanishes without a goodbye."""
    return await _silence(guarded, _cut_off)


async def _silence(guarded, end):
    """Play some sound, make it end, let 60 s pass on the session's clock."""
    clock = ManualClock()
    with _without(guarded, patch.object(Session, "check", lambda _: False)):
        async with (
            serving(clock=clock, udp_ports=(41950, 41999)) as server,
            published(server, "audio", "opus") as (pair, publication),
        ):
            for number, (data, _) in enumerate(media.good("opus", 60)):
                await pair.send(number, number * 960, data)
            await pair.drained()
            with end(pair):
                told_s, freed_s = await _watch(server, publication, clock)
    return {"no_media_at_s": told_s, "freed_at_s": freed_s}


async def _watch(server, publication, clock):
    from pipeline.events import Gap

    told_s = freed_s = None
    sink = server.sink()
    for _ in range(60):
        clock.now_s += 1
        publication.check()
        for _ in range(20):
            await asyncio.sleep(0)
        if told_s is None and any(gap.cause == "no_media" for gap in sink.of(Gap)):
            told_s = clock.now_s
        if publication._reason is not None:
            await asyncio.wait_for(publication.finished.wait(), 20)
            freed_s = clock.now_s
            break
    return told_s, freed_s


def _kill_dtls(pair):
    """Make the next step of DTLS raise, and keep its owner from hearing of it."""
    transport = pair.transport

    async def raises():
        raise RuntimeError("a packet that DTLS did not expect")

    stack = ExitStack()
    stack.enter_context(patch.object(transport, "_recv_next", raises))
    stack.enter_context(patch.object(transport, "_set_state", _nothing))
    transport._task.cancel()
    transport._task = asyncio.ensure_future(_silent(transport._RTCDtlsTransport__run()))
    return stack


async def _silent(run):
    try:
        await run
    except RuntimeError:
        return


def _cut_off(pair):
    """Nothing arrives any more."""
    return patch.object(pair.peer.gathering.gate, "_media_passes", lambda *_: False)


async def garbage(guarded):
    """R9 (F9): 400 damaged packets of each codec; then a good key frame."""
    raising = type("av", (), {"__getattr__": lambda _, name: getattr(av, name)})()
    raising.FFmpegError = type("Never", (Exception,), {})
    survived, corrupt, recovered = 0, 0, 0
    with _without(guarded, patch("services.ingest.decoder.av", raising)):
        for codec in _CODECS:
            decoder, lost = Decoder(), 0
            try:
                lost = decoder.decode("s", _damaged(codec, 400))
                lost = lost.corrupt_audio + lost.corrupt_video
                good = _encoded(codec, media.good(codec, 4), first=900)
                after = decoder.decode("s", good)
            except av.FFmpegError:
                continue
            survived += 1
            corrupt += lost
            recovered += any(hasattr(i, "rgb") or hasattr(i, "samples") for i in after.items)
    return {
        "codecs": len(_CODECS),
        "survived": survived,
        "recovered": recovered,
        "corrupt": corrupt,
    }


_CODECS = ("opus", "PCMU", "PCMA", "G722", "VP8", "H264")


def _encoded(codec, packets, first=0):
    from services.ingest.collector import Encoded

    kind = "video" if codec in ("VP8", "H264") else "audio"
    ticks = 533 if kind == "video" else 320
    return [
        Encoded(kind, codec, (first + number) * ticks, data, key)
        for number, (data, key) in enumerate(packets)
    ]


def _damaged(codec, count):
    """Return packets with flipped bits, cut off, or made of nothing but chance; seeded."""
    chance = random.Random(f"garbage {codec}")
    good = media.good(codec, 20)
    packets = []
    for _ in range(count):
        data, key = chance.choice(good)
        data = bytearray(data)
        match chance.randrange(3):
            case 0:
                for _ in range(chance.randint(1, 8)):
                    at = chance.randrange(min(len(data), 60))
                    data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[chance.randrange(len(data)) :]
            case _:
                data = bytearray(chance.randbytes(chance.randint(1, 200)))
        packets.append((bytes(data), key))
    return _encoded(codec, packets)


async def sequence_jumps(guarded):
    """R11: each packet's number is 32 000 ahead of the last one's: 40 packets.

    What a packet costs is told in numbers put on the list of missing ones: the same everywhere.
    """
    bare = aiortc.rtcrtpreceiver.NackGenerator
    with _without(guarded, patch.object(peering, "NackGenerator", bare)):
        async with pairs.connected() as pair:
            generator = pair.receiver._RTCRtpReceiver__nack_generator
            generator.missing = steps = _Steps()
            await pair.send(0, 0, media.vp8_payload(b"\0" * 20))
            await pair.drained()
            began = time.process_time()
            for number in range(40):
                await pair.send((number + 1) * 32_000, number, media.vp8_payload(b"\0" * 20))
                if isinstance(generator.missing, _Steps):
                    continue
                steps.taken += len(generator.missing)
            await pair.drained()
            cpu_s = time.process_time() - began
    return {"packets": 40, "nack_steps": steps.taken, "cpu_s": cpu_s}


class _Steps(set):
    """Counts what is put into it."""

    taken = 0

    def add(self, number):
        self.taken += 1
        super().add(number)


async def rtp_flood(guarded):
    """R12: 6000 packets as fast as they go, of a publisher that may send 200 a second."""
    rate = Rate(packets_per_s=200, kbits_per_s=12_000) if guarded else Rate(10**9, 10**9)
    async with pairs.connected(rate=rate) as pair:
        taken_before, _ = pair.counts()
        began = time.monotonic()
        for number in range(6000):
            await pair.send(number, number * 90, media.vp8_payload(b"\0" * 20))
            if number % 100 == 99:
                await asyncio.sleep(0.001)
        await pair.drained()
        took_s = time.monotonic() - began
        taken, dropped = pair.counts()
    return {
        "sent": 6000,
        "srtp_rx": taken - taken_before,
        "dropped": dropped,
        "allowed": round(200 * (took_s + 1)),
    }


async def empty_datagram(guarded):
    """R13: a publisher's own socket sends a datagram of no bytes."""

    def everything(gate, protocol, connection):
        receive = protocol.datagram_received
        protocol.datagram_received = receive

    with _without(guarded, patch.object(Gate, "stand_before", everything)):
        async with pairs.connected() as pair:
            pair.send_raw(b"")
            await pair.drained(1.0)
            state = pair.transport.state
            dropped = pair.peer.gathering.gate.dropped["empty"]
    return {"dtls": state, "dropped": dropped}


async def many_addresses(guarded):
    """R14: authenticated checks from 200 sockets: each is a pair that is kept and probed."""

    def all_stun(gate, data, remote, ours, protocol):
        return True

    with _without(guarded, patch.object(Gate, "_stun_passes", all_stun)):
        async with pairs.connected() as pair:
            connection = pair.transport.transport._connection
            before = len(connection._check_list)
            sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(200)]
            for number, sender in enumerate(sockets):
                sender.sendto(_check(connection), (pairs.ADDRESS, pair.port))
                if number % 20 == 19:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            grown = len(connection._check_list) - before
            for sender in sockets:
                sender.close()
            dropped = pair.peer.gathering.gate.dropped
    return {
        "addresses": 200,
        "pairs_grown": grown,
        "dropped": dropped["too_many_addresses"] + dropped["too_much_stun"],
    }


def _check(connection):
    """Return a connectivity check that authenticates (RFC 8445 §7.2.2)."""
    message = aioice.stun.Message(
        message_method=aioice.stun.Method.BINDING, message_class=aioice.stun.Class.REQUEST
    )
    message.attributes["USERNAME"] = f"{connection.local_username}:{connection.remote_username}"
    message.attributes["PRIORITY"] = 1
    message.attributes["ICE-CONTROLLING"] = 2**63
    message.add_message_integrity(connection.local_password.encode())
    return bytes(message)


MAX_WAITING = sum(BOUND.values())
