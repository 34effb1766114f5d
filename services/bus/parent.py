"""Runs a program that dies with its parent, whatever kills the parent.

Executed as a script by :mod:`services.bus.embedded` with isolated, site-less Python:
``parent.py signal PARENT_PID PROGRAM ARGUMENT…`` on Linux: the kernel kills this process when the
thread that forked it ends (``PR_SET_PDEATHSIG``), and the flag survives ``exec``.
``parent.py pipe FD PROGRAM ARGUMENT…`` elsewhere: it stays as a watchdog on the reading end of a
pipe whose other end only the parent holds.
No name of the product is imported here: the start must stay fast.
"""

import os
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG = 1
_ORPHAN = 70


def _by_signal(parent: int, program: list[str]) -> None:
    import ctypes  # noqa: PLC0415 - not needed, and slow to load, elsewhere

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the flag was set
        sys.exit(_ORPHAN)
    os.execv(program[0], program)  # noqa: S606 - the program is chosen by our own launcher


def _by_pipe(watched: int, program: list[str]) -> None:
    server = subprocess.Popen(program)  # noqa: S603 - as above
    signal.signal(signal.SIGTERM, lambda *_: server.kill())
    signal.signal(signal.SIGCHLD, lambda *_: os._exit(server.poll() or 0))
    if server.poll() is None:
        os.read(watched, 1)  # returns when every writing end is closed
    server.kill()
    server.wait()


if __name__ == "__main__":
    if sys.argv[1] == "signal":
        _by_signal(int(sys.argv[2]), sys.argv[3:])
    else:
        _by_pipe(int(sys.argv[2]), sys.argv[3:])
