"""Decodes one hostile stream in a process of its own: `blow R3|R4 guarded|open`, figures as JSON.

The address space is bounded, so that what goes wrong goes wrong small.
"""

import json
import re
import resource
import sys
import time
from pathlib import Path

import av

from services.ingest import decoder as decoding
from services.ingest.collector import Encoded
from tests.chaos.holes import media

LIMIT_BYTES = 3 << 30


class Counted:
    """A codec context that counts what it is given."""

    calls = 0

    def __init__(self, context):
        self._context = context

    def decode(self, packet):
        Counted.calls += 1
        return self._context.decode(packet)


def ours(codec, frames):
    """Decode as Demeanor does; return (frames refused or corrupt, pictures)."""
    taken = decoding.Decoder()
    batch = [
        Encoded("video", codec, number * 9600, data, key=number == 0)
        for number, data in enumerate(frames)
    ]
    done = taken.decode("s", batch)
    return done.oversized + done.corrupt_video, sum(hasattr(item, "rgb") for item in done.items)


def aiortcs(frames):
    """Decode VP8 as aiortc does."""
    from aiortc.codecs.vpx import Vp8Decoder
    from aiortc.jitterbuffer import JitterFrame

    codec, refused, pictures = Vp8Decoder(), 0, 0
    for number, data in enumerate(frames):
        Counted.calls += 1
        try:
            pictures += len(codec.decode(JitterFrame(data=data, timestamp=number)))
        except av.FFmpegError:
            refused += 1
    return refused, pictures


def main(name, guard):
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    frames = [bytes.fromhex(text) for text in json.load(sys.stdin)]
    codec = "VP8" if name == "R3" else "H264"
    ours(codec, [media.good(codec, 1)[0][0]])  # libraries are in memory now
    create = av.CodecContext.create
    decoding.av = type("av", (), {"__getattr__": lambda _, name: getattr(av, name)})()
    decoding.av.CodecContext = type(
        "CodecContext", (), {"create": lambda *given: _Options(create(*given))}
    )
    before_kib, began = _resident_kib(), time.process_time()
    if name == "R3":
        refused, pictures = ours("VP8", frames) if guard == "guarded" else aiortcs(frames)
    else:
        if guard == "open":
            decoding.MAX_PIXELS = decoding.MAX_SIDE_PX = 1 << 30
        refused, pictures = ours("H264", frames)
    print(
        json.dumps(
            {
                "rss_mib": (_resident_kib() - before_kib) / 1024,
                "cpu_s": time.process_time() - began,
                "decoder_calls": Counted.calls,
                "refused": refused,
                "pictures": pictures,
            }
        )
    )


class _Options(Counted):
    """Passes attributes on, so that the decoder can set its options."""

    def __init__(self, context):
        object.__setattr__(self, "_context", context)

    def __getattr__(self, name):
        return getattr(self._context, name)

    def __setattr__(self, name, value):
        setattr(self._context, name, value)


def _resident_kib():
    """Return the most that was ever resident in this process since it began to run."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
