"""The decoder's own process: requests in on standard input, answers out on the same socket.

Started by :mod:`services.ingest.confined.child` with a clean interpreter, no environment and no
open file but that socket and the shared memory. Whatever goes wrong ends it: its parent sees that
and starts another.
"""

import mmap
import os
import sys
from typing import Final

import numpy as np

from services.ingest.confined import wire
from services.ingest.confined.cage import confine
from services.ingest.decoder import Decoder

ROOM_BYTES: Final = 16 * 1024 * 1024
"""With less address space than this beyond the libraries' it does not start: nothing would fit."""


def main(decoder: Decoder | None = None) -> None:
    """Serve until the parent closes the socket. Arguments: parent, memory, address space."""
    parent, memory, limit_bytes = (int(word) for word in sys.argv[2:5])
    area = np.frombuffer(mmap.mmap(memory, wire.AREA_BYTES), np.uint8)
    os.close(memory)
    with open(0, "rb", buffering=256 * 1024, closefd=False) as requests:
        filtered = confine(parent, limit_bytes)
        bytearray(ROOM_BYTES)
        _write(wire.Hello(filtered=filtered))
        decoder = Decoder() if decoder is None else decoder
        while (request := wire.next_request(requests.read)) is not None:
            if isinstance(request, wire.Forget):
                decoder.forget(request.session)
            else:
                decoded = decoder.decode(request.session, request.frames)
                _write(wire.put(request.number, decoded, area))
    os._exit(0)


def _write(message: wire.Hello | wire.Answer) -> None:
    data = memoryview(wire.framed(message))
    while data:
        data = data[os.write(0, data) :]
