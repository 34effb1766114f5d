"""A Redis or Valkey server of our own: private socket, random password, gone with its parent.

The server listens on a unix socket in a folder that only this user can enter; its password goes in
by standard input, so no process list and no disk shows it. Its one user may do what the bus does
and no more (:mod:`services.bus.acl`). Nothing is ever written to disk. A
supervisor starts it again when it dies; writers then fill it anew (:mod:`services.bus.writer`).
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import structlog

from pipeline.errors import BusError, UsageError
from services.bus import acl, runtime, server
from services.bus.backoff import Backoff
from services.bus.binary import Binary
from services.tasks import cancelled

READY_S = 5.0
_POLL_S = 0.02
_PASSWORD_BYTES = 32
_PREFIX = "bus-"
_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
dir {folder}
logfile {log}
loglevel warning
acl-pubsub-default resetchannels
user default off resetkeys resetchannels -@all
{user}
save ""
appendonly no
daemonize no
databases 1
maxmemory 512mb
maxmemory-policy noeviction
client-output-buffer-limit normal 64mb 16mb 30
client-output-buffer-limit pubsub 8mb 2mb 10
"""

_log = structlog.get_logger(__name__)
Guard = Literal["signal", "pipe"]


class EmbeddedServer:
    """Runs ``binary`` while open; enter it from the main thread.

    The parent-death signal follows the thread that forked, so any other thread would take the
    server with it when it ends.
    """

    def __init__(
        self, binary: Binary, *, base: Path | None = None, guard: Guard | None = None
    ) -> None:
        self.binary = binary
        self.password = secrets.token_hex(_PASSWORD_BYTES)
        self.restarts = 0
        self._base = base
        self._guard: Guard = guard or ("signal" if sys.platform == "linux" else "pipe")
        self._folder: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._watch: tuple[int, int] | None = None

    @property
    def url(self) -> str:
        """Address for :meth:`services.bus.redis.RedisBus.at`; the password is kept apart."""
        return f"unix://{acl.ALL_IN_ONE}@{self.folder / 'bus.sock'}"

    @property
    def folder(self) -> Path:
        """The server's private folder."""
        if self._folder is None:
            raise RuntimeError("the embedded server is not open")
        return self._folder

    @property
    def pid(self) -> int:
        """Process id of the server (of its watchdog where there is no parent-death signal)."""
        if self._process is None:
            raise RuntimeError("the embedded server is not open")
        return self._process.pid

    async def __aenter__(self) -> Self:
        """Start it and wait until it answers.

        Raises :class:`~pipeline.errors.BusError` when it does not within :data:`READY_S`.
        """
        if threading.current_thread() is not threading.main_thread():
            raise UsageError("the embedded server must be started from the main thread")
        base = runtime.folder(self._base)
        _sweep(base)
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
        if self._guard == "pipe":
            self._watch = os.pipe()
        try:
            await self._start()
        except BaseException:
            await self._clean()
            raise
        self._supervisor = asyncio.create_task(self._supervise(), name="bus-supervisor")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await cancelled(self._supervisor)
        await self._clean()

    async def _start(self) -> None:
        guard = str(os.getpid() if self._watch is None else self._watch[0])
        with contextlib.suppress(FileNotFoundError):
            (self.folder / "bus.sock").unlink()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-IS",
            str(Path(__file__).with_name("parent.py")),
            self._guard,
            guard,
            str(self.binary.path),
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the parent only, which drains first
            pass_fds=() if self._watch is None else self._watch[:1],
        )
        await self._configure(self._process)
        await self._ready(self._process)

    async def _configure(self, process: asyncio.subprocess.Process) -> None:
        text = _CONFIG.format(
            socket=self.folder / "bus.sock",
            folder=self.folder,
            log=self.folder / "server.log",
            user=acl.line(acl.ALL_IN_ONE, f">{self.password}"),
        )
        pipe = process.stdin
        if pipe is None:
            raise RuntimeError("the server was started without standard input")
        with contextlib.suppress(ConnectionError):  # it died already: `_ready` tells why
            pipe.write(text.encode())
            await pipe.drain()
        pipe.close()

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        client = server.client(self.url, self.password)
        last = "no answer"
        try:
            async with asyncio.timeout(READY_S):
                while process.returncode is None:
                    try:
                        await server.greet(client, self.url)
                    except BusError as error:
                        last = str(error)
                        await asyncio.sleep(_POLL_S)
                    else:
                        return
        except TimeoutError:
            pass
        finally:
            await client.aclose()
        raise BusError(
            f"the embedded {self.binary.name} did not come up ({self._words() or last}): set "
            "DEMEANOR_REDIS_URL to a server of your own",
            retryable=True,
        )

    def _words(self) -> str:
        """Return the last line that the server logged."""
        try:
            lines = (self.folder / "server.log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return lines[-1] if lines else ""

    async def _supervise(self) -> None:
        backoff = Backoff(first_s=0.1, cap_s=5.0)
        while True:
            if self._process is not None:
                await self._process.wait()
            _log.warning("embedded bus server ended; starting it again")
            await asyncio.sleep(backoff.next_s())
            try:
                await self._start()
            except (BusError, OSError) as error:
                _log.warning("embedded bus server did not start", error=type(error).__name__)
                await self._kill()
            else:
                backoff.reset()
            self.restarts += 1

    async def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                # The watchdog turns SIGTERM into the server's end; the server itself has nothing
                # to save and may be stopped, so it gets the signal that always works.
                (self._process.terminate if self._watch else self._process.kill)()
            await self._process.wait()

    async def _clean(self) -> None:
        await self._kill()
        if self._watch is not None:
            for descriptor in self._watch:
                os.close(descriptor)
            self._watch = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Remove folders of servers whose parents were killed."""
    for path in base.glob(f"{_PREFIX}*-*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
