"""Limits that a decoder puts on itself, once everything it needs is loaded and open.

Address space, files, memory images on disk, other processes' eyes; then the filter of system calls
(:mod:`services.ingest.confined.seccomp`). None of it can be undone.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import Final

from services.ingest.confined import seccomp

OPEN_FILES: Final = 16
ORPHAN: Final = 70
"""Exit code of a decoder whose parent was gone before it was ready."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def confine(parent: int, memory_bytes: int) -> bool:
    """Limit this process and tie it to ``parent``; tell whether its system calls are filtered.

    Exits when the parent is gone already.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    if sys.platform != "linux":  # macOS knows RLIMIT_AS and does not keep it
        return False
    _limit(resource.RLIMIT_AS, memory_bytes)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the signal was set
        os._exit(ORPHAN)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return seccomp.install()


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))
