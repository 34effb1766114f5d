"""What each attack shows: how it ends well with the guard, and how the hole looks without it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.ingest.gate import MAX_REMOTES
from tests.chaos.holes import attacks

Figures = dict[str, float]


@dataclass(frozen=True)
class Hole:
    """One attack and how to judge its figures."""

    name: str
    what: str
    attack: Callable[[bool], Awaitable[Figures]]
    safe: Callable[[Figures], bool]
    """Holds with the guard."""
    open: Callable[[Figures], bool]
    """Holds without it: the hole is really there."""


HOLES = (
    Hole(
        "R1",
        "300 senders (SSRC) in one track, then close",
        attacks.ssrc_flood,
        lambda f: f["ssrc_table"] <= 4 and f["dropped"] >= 290 and f["closed"],
        lambda f: f["ssrc_table"] >= 300 and not f["closed"],
    ),
    Hole(
        "R2",
        "another address sends DTLS alerts during the handshake",
        attacks.junk_before_dtls,
        lambda f: f["made"] == f["handshakes"] and f["junk_dropped"] > 0,
        lambda f: f["made"] < f["handshakes"],
    ),
    Hole(
        "R3",
        "a VP8 key frame declares 8000x8000 (without: aiortc's decoder)",
        attacks.vp8_header,
        lambda f: f["decoder_calls"] == 0 and f["refused"] == 1 and f["rss_mib"] < 50,
        lambda f: f["decoder_calls"] == 1 and f["rss_mib"] > 100,
    ),
    Hole(
        "R4",
        "50 kB of H.264 expand to 4096x4096 pictures",
        attacks.h264_bomb,
        lambda f: f["pictures"] == 0 and f["refused"] == 3 and f["rss_mib"] < 50,
        lambda f: f["pictures"] == 3 and f["rss_mib"] > 50,
    ),
    Hole(
        "R5",
        "close while 250 large frames wait (without: plain aiortc)",
        attacks.close_with_backlog,
        lambda f: f["closed"] and f["decoder_threads"] == 0,
        lambda f: f["decoder_threads"] == 1 and f["loop_stall_s"] > 0.2,
    ),
    Hole(
        "R6",
        "600 pictures that nobody takes (without: plain aiortc)",
        attacks.never_read,
        lambda f: f["frames_waiting"] <= attacks.MAX_WAITING and f["dropped"] > 0,
        lambda f: f["frames_waiting"] > attacks.MAX_WAITING,
    ),
    Hole(
        "R7",
        "the offer names addresses to probe",
        attacks.candidates,
        lambda f: f["state"] == "connected" and f["probes_heard"] == 0,
        lambda f: f["probes_heard"] > 0,
    ),
    Hole(
        "R8",
        "DTLS dies of an exception and tells nobody",
        attacks.dead_dtls,
        lambda f: f["no_media_at_s"] in (10, 11) and f["freed_at_s"] in (30, 31),
        lambda f: f["no_media_at_s"] is None and f["freed_at_s"] is None,
    ),
    Hole(
        "R9",
        "400 damaged packets of each of six codecs",
        attacks.garbage,
        lambda f: f["survived"] == f["recovered"] == f["codecs"] and f["corrupt"] > 0,
        lambda f: f["survived"] < f["codecs"],
    ),
    Hole(
        "R10",
        "the publisher vanishes without a goodbye",
        attacks.vanished,
        lambda f: f["no_media_at_s"] in (10, 11) and f["freed_at_s"] in (30, 31),
        lambda f: f["no_media_at_s"] is None and f["freed_at_s"] is None,
    ),
    Hole(
        "R11",
        "40 packets, each number 32 000 ahead of the last",
        attacks.sequence_jumps,
        lambda f: f["nack_steps"] <= 40 * 256,
        lambda f: f["nack_steps"] >= 39 * 30_000,
    ),
    Hole(
        "R12",
        "6000 packets at once of a publisher that may send 200 a second",
        attacks.rtp_flood,
        lambda f: f["srtp_rx"] <= f["allowed"] and f["dropped"] > 0,
        lambda f: f["srtp_rx"] > f["allowed"],
    ),
    Hole(
        "R13",
        "a datagram of no bytes",
        attacks.empty_datagram,
        lambda f: f["dtls"] == "connected" and f["dropped"] == 1,
        lambda f: f["dtls"] == "closed",
    ),
    Hole(
        "R14",
        "authenticated checks from 200 sockets",
        attacks.many_addresses,
        lambda f: f["pairs_grown"] < MAX_REMOTES and f["dropped"] > 0,
        lambda f: f["pairs_grown"] > MAX_REMOTES,
    ),
)
