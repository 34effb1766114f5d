"""The decoder's process as the ingest process holds it: started, asked, watched, ended.

A clean interpreter (not a copy of ours) with no environment, no file of ours and no way out, in a
session of its own so that Ctrl-C reaches only us. It dies with us. The event loop never waits for
it: requests and answers go through the loop's own transport, and one batch is in hand at a time.
"""

import asyncio
import contextlib
import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal, Self, cast

import av
import msgspec
import numpy as np
import structlog

import services
from services.ingest.collector import Encoded
from services.ingest.confined import wire
from services.ingest.decoder import Decoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORKER: Final = "services.ingest.confined.worker"
_RUN: Final = (
    "import importlib, sys; sys.path += sys.argv[5:]; importlib.import_module(sys.argv[1]).main()"
)
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""All that it is told of ours: threads would each reserve a share of its address space."""
_LIBRARIES: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_SOCKET_BYTES: Final = 1024 * 1024
_F_ADD_SEALS, _SEALS = 1033, 0x0001 | 0x0002 | 0x0004
"""Nobody may seal, shrink or grow it: a page that went away would end the reader."""

_SHARE = 0.1
"""Of its deadline, what a batch must have computed to be blamed for missing it: ten times what an
honest one needs. With less, the process was stopped or the machine had no time for it."""
_log = structlog.get_logger(__name__)
Cause = Literal["crashed", "killed", "late", "lied", "closed"]


class Lost(Exception):
    """The process is gone, or was ended because it cannot be used any longer."""

    def __init__(self, cause: Cause, *, to_blame: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.to_blame = to_blame
        """Whether the batch in hand did it: nobody else killed the process or held it up."""


class Child(asyncio.Protocol):
    """One decoder process, from :meth:`start` to :meth:`end`."""

    def __init__(
        self, process: subprocess.Popen[bytes], ours: socket.socket, shared: mmap.mmap
    ) -> None:
        self.gone = asyncio.Event()
        """Set when it has closed its end or was given up."""
        self.cause: Cause = "crashed"
        """Why it is gone; sure after :meth:`end`."""
        self._process = process
        self._socket = ours
        self._shared = shared
        self._area: NDArray[np.uint8] = np.frombuffer(shared, np.uint8)
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._expected = 1  # the greeting
        self._unwanted = 0
        self._waiting: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._number = 0

    @classmethod
    def start(cls, memory_bytes: int, program: str = WORKER) -> Self:
        """Start the process, in a few ms; then :meth:`greeting`. Raises :class:`OSError`.

        ``program`` is the module whose ``main`` it runs. To be called from the main thread: the
        process dies with the thread that started it.
        """
        ours, theirs = socket.socketpair()
        memory = _memory()
        try:
            shared = mmap.mmap(memory, wire.AREA_BYTES)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
            process = subprocess.Popen(  # noqa: S603 - our own program
                _command(program, memory, memory_bytes),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
                pass_fds=(memory,),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(memory)
        ours.setblocking(False)
        return cls(process, ours, shared)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def greeting(self, patience_s: float) -> wire.Hello:
        """Wait until it is ready. Raises :class:`Lost`."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, sock=self._socket)
        body = await self._answer(patience_s)
        try:
            return wire.hello(body)
        except wire.Lied:
            self.kill("lied")
            raise Lost("lied", to_blame=False) from None

    async def decode(self, session: str, frames: Sequence[Encoded], patience_s: float) -> Decoded:
        """Have some frames decoded; one call at a time. Raises :class:`Lost`.

        What it answers is checked and copied (:mod:`services.ingest.confined.wire`).
        """
        self._number += 1
        used_s = self._cpu_s()
        self._ask(wire.Decode(self._number, session, list(frames)))
        body = await self._answer(patience_s, used_s)
        try:
            told = wire.answer(body)
            if told.number != self._number:
                raise wire.Lied("the number of an answer")
            return wire.taken(told, self._area, frames)
        except wire.Lied as lie:
            _log.warning("an answer of the decoder cannot be true", what=str(lie))
            self.kill("lied")
            raise Lost("lied", to_blame=True) from None

    def forget(self, session: str) -> None:
        """Have the codecs of a session freed."""
        self._write(wire.Forget(session))

    def kill(self, cause: Cause) -> None:
        """End it at once; :meth:`end` frees the rest."""
        if not self.gone.is_set():
            self.cause = cause
        self._process.kill()
        self._over()

    async def end(self) -> None:
        """Make sure that it is gone and free all that it had; to be called again when cancelled."""
        self.kill("closed")
        if self._transport is not None:
            self._transport.abort()
        else:
            self._socket.close()
        await self._death()
        self._area = np.empty(0, np.uint8)
        self._shared.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take part of an answer; more of it than was asked for ends the process."""
        self._received += data
        size = int.from_bytes(self._received[: wire.LENGTH_BYTES])
        end = wire.LENGTH_BYTES + size
        if size > wire.MAX_ANSWER_BYTES or not self._expected:
            self.kill("lied")
            return
        if len(self._received) < end:
            return
        body = bytes(self._received[wire.LENGTH_BYTES : end])
        rest = self._received[end:]
        self._received = bytearray()
        self._expected -= 1
        if self._unwanted:  # whoever asked for it was cancelled
            self._unwanted -= 1
        elif not self._waiting.done():
            self._waiting.set_result(body)
        if rest:
            self.data_received(bytes(rest))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that it has closed its end, which only its death does."""
        del exc
        self._process.kill()
        self._over()

    async def _answer(self, patience_s: float, used_s: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(patience_s):
                body = await self._waiting
        except TimeoutError:
            now_s = self._cpu_s()
            self.kill("late")
            idle = used_s is not None and now_s is not None and now_s - used_s < _SHARE * patience_s
            raise Lost("late", to_blame=not idle) from None
        if body is None:
            raise await self._death()
        return body

    async def _death(self) -> Lost:
        """Tell how it died; it cannot send itself the signal that kills, so that was others."""
        code = await asyncio.to_thread(self._process.wait)
        if self.cause == "crashed" and code == -signal.SIGKILL:
            self.cause = "killed"
        return Lost(self.cause, to_blame=self.cause in {"crashed", "lied"})

    def _ask(self, request: wire.Decode) -> None:
        self._unwanted = self._expected
        self._expected += 1
        self._waiting = asyncio.get_running_loop().create_future()
        if self.gone.is_set():
            self._waiting.set_result(None)
        self._write(request)

    def _write(self, request: wire.Request) -> None:
        if self._transport is not None and not self.gone.is_set():
            self._transport.write(wire.framed(request))

    def _over(self) -> None:
        self.gone.set()
        if not self._waiting.done():
            self._waiting.set_result(None)

    def _cpu_s(self) -> float | None:
        """Return the processor time that it has used; None where that cannot be told."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return None


def _command(program: str, memory: int, memory_bytes: int) -> list[str]:
    """Return the command: no site, no user's folder, and only the folders that hold its modules."""
    homes = (services, av, msgspec, np)
    folders = dict.fromkeys(str(_home(module)) for module in homes)
    words = (os.getpid(), memory, memory_bytes)
    return [sys.executable, "-ISB", "-c", _RUN, program, *map(str, words), *folders]


def _home(module: ModuleType) -> Path:
    return Path(str(module.__file__)).resolve().parents[1]


def _environment() -> dict[str, str]:
    libraries = {name: os.environ[name] for name in _LIBRARIES if name in os.environ}
    return {**_ENVIRONMENT, **libraries}


def _memory() -> int:
    """Return a descriptor of memory without a name in any file system."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("demeanor-decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, wire.AREA_BYTES)
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEALS)
        return descriptor
    with contextlib.closing(SharedMemory(create=True, size=wire.AREA_BYTES)) as named:
        descriptor = os.dup(vars(named)["_fd"])  # the only way to memory without a file there
        named.unlink()
    return descriptor
