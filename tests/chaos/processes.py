"""Real processes that can be killed, frozen and started again, each by its own id."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
READY_S = 60.0
END_S = 45.0


class Program:
    """One command of ours; ``-m`` modules of this checkout."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        self._arguments = arguments
        self.process: asyncio.subprocess.Process | None = None
        self.told: list[str] = []
        """Lines of its standard output, over all its lives."""
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Start it; returns at once, :meth:`ready` waits."""
        kept = {key: value for key, value in os.environ.items() if "DEMEANOR_" not in key}
        with self._log.open("a") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *self._arguments),
                cwd=ROOT,
                env=kept,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self.told.clear()
        self._reading = asyncio.create_task(self._read(self.process))

    async def ready(self) -> None:
        """Wait for its first line. Raises :class:`RuntimeError` when it ends before."""
        async with asyncio.timeout(READY_S):
            while not self.told:
                assert self.process is not None
                if self.process.returncode is not None:
                    raise RuntimeError(f"{self.name} did not start:\n{self.log()[-3000:]}")
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), 0.2)

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    async def over(self) -> int:
        """Wait for its end; one that hangs is killed and told as such."""
        assert self.process is not None
        try:
            code = await asyncio.wait_for(self.process.wait(), END_S)
        except TimeoutError:
            self.kill()
            await self.process.wait()
            raise RuntimeError(f"{self.name} did not end:\n{self.log()[-3000:]}") from None
        if self._reading is not None:
            await self._reading
        return code

    async def close(self) -> None:
        """End it for sure."""
        if self.process is not None and self.process.returncode is None:
            self.thaw()
            self.kill()
            await self.over()

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self.told.append(line.decode().rstrip())
            self._news.set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
