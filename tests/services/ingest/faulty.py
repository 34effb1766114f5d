"""A decoder's process that does what it is told: run by tests in place of the real one.

It is the real worker, with all its limits, around a decoder that obeys markers in encoded sound and
dies of VP8 key frames of one size, which is how a real publisher can carry the fault.
"""

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from services.ingest.confined import wire, worker
from services.ingest.decoder import Decoded, Decoder

CURSED = (176, 144)
"""Width and height of a VP8 key frame that ends the process."""


def marker(word):
    """Return the payload that makes the process obey ``word``."""
    return b"!" + word.encode()


class Faulty(Decoder):
    def decode(self, session_key, batch):
        for frame in batch:
            if frame.kind == "audio" and frame.data.startswith(b"!"):
                word, _, rest = frame.data[1:].decode().partition(" ")
                return ORDERS[word](rest, frame.tick)
            if _cursed(frame):
                os.abort()
        return super().decode(session_key, batch)


def _cursed(frame):
    if frame.codec != "VP8" or not frame.key:
        return False
    return tuple(int.from_bytes(frame.data[at : at + 2], "little") for at in (6, 8)) == CURSED


def _abort(_rest, _tick):
    os.abort()


def _segfault(_rest, _tick):
    ctypes.string_at(0)


def _raise(_rest, _tick):
    raise RuntimeError("a fault of ours")


def _spin(seconds, _tick):
    """Compute for so long: a decoder that is caught in a loop."""
    until = time.thread_time() + float(seconds)
    while time.thread_time() < until:
        pass
    return Decoded((), corrupt_audio=7)


def _allocate(megabytes, _tick):
    try:
        bytearray(int(megabytes) * 2**20)
    except MemoryError:
        return Decoded((), corrupt_audio=1)
    return Decoded(())


def _try(what, _tick):
    """Do something forbidden; say whether it was refused (1) or done (2)."""
    try:
        ATTEMPTS[what]()
    except OSError:
        return Decoded((), corrupt_audio=1)
    except RuntimeError:  # how Python says that it could not start a thread
        return Decoded((), corrupt_audio=1)
    return Decoded((), corrupt_audio=2)


def _lie(what, tick):
    os.write(0, LIES[what](tick))
    time.sleep(3600)


def _answer(*items, number=1, **counts):
    counts = {"corrupt_audio": 0, "corrupt_video": 0, "oversized": 0, "crowded": 0} | counts
    return wire.framed(wire.Answer(number, list(items), **counts))


def _map_executable():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    if libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, 0) == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")


ORDERS = {
    "abort": _abort,
    "segfault": _segfault,
    "raise": _raise,
    "spin": _spin,
    "allocate": _allocate,
    "try": _try,
    "lie": _lie,
}
ATTEMPTS = {
    "read a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "write a file": lambda: os.open("/tmp/demeanor-must-not-exist", os.O_WRONLY | os.O_CREAT),
    "look at its parent": lambda: os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY),
    "make a folder": lambda: Path("/tmp/demeanor-must-not-exist").mkdir(),
    "open a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "make a pair of sockets": socket.socketpair,
    "fork": os.fork,
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "start a program": lambda: subprocess.Popen(["/bin/true"]),
    "start a thread": lambda: threading.Thread(target=time.sleep, args=(0,)).start(),
    "kill its parent": lambda: os.kill(os.getppid(), 0),
    "kill itself unseen": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "make memory executable": _map_executable,
    "make memory with a name": lambda: os.memfd_create("x"),
}
LIES = {
    "rubbish": lambda _tick: b"\0\0\0\x05rubbi",
    "endless": lambda _tick: b"\x7f\xff\xff\xff" + bytes(100),
    "no such answer": lambda _tick: wire.framed(wire.Hello(filtered=True)),
    "another number": lambda _tick: _answer(number=99),
    "an answer too many": lambda _tick: _answer() + _answer(number=2),
    "pictures beyond the memory": lambda tick: _answer(*[wire.Picture(tick, 320, 1920)] * 20),
    "a picture too wide": lambda tick: _answer(wire.Picture(tick, 1920, 1080)),
    "a picture without a side": lambda tick: _answer(wire.Picture(tick, 0, 100)),
    "sound beyond the memory": lambda tick: _answer(*[wire.Sound(tick, 40_000)] * 500),
    "sound without an end": lambda tick: _answer(wire.Sound(tick, 2**40)),
    "a time to come": lambda tick: _answer(wire.Progress("audio", tick + 16_000 * 60)),
    "a track that was not sent": lambda tick: _answer(wire.Picture(tick, 320, 180)),
    "less than nothing": lambda tick: _answer(corrupt_audio=-1),
    "more than there can be": lambda tick: _answer(*[wire.Progress("audio", tick)] * 5000),
}


def main():
    worker.main(Faulty())
