"""A filter that leaves a process the few system calls that computing needs, and no other.

Linux on x86-64 and 64-bit ARM. Whatever is not listed fails with ``EPERM``: sockets, programs,
processes, threads, files of any kind, signals but to abort, memory that can be executed. What is
open already can be read and written. Numbers: ``asm/unistd_64.h`` and ``asm-generic/unistd.h``;
the program: ``linux/bpf_common.h``, ``linux/seccomp.h``.
"""

import ctypes
import errno
import platform
import signal
import struct
import sys
from typing import Final

_ALLOWED: Final[dict[str, tuple[int, int]]] = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "readv": (19, 65),
    "writev": (20, 66),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "set_robust_list": (273, 99),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
"""Name: number on x86-64, number on 64-bit ARM."""
_WITHOUT_EXEC: Final = {"mmap": (9, 222), "mprotect": (10, 226)}
"""Allowed unless the third argument asks for memory that can be executed."""
_ABORT_ONLY: Final = {"tgkill": (234, 131)}
"""Allowed when the third argument is ``SIGABRT``: a damaged heap must be able to say so."""
_INSTALL: Final = (317, 277)
"""``seccomp(2)`` itself."""

_MACHINES: Final = {"x86_64": 0, "aarch64": 1}
_ARCHITECTURES: Final = (0xC000_003E, 0xC000_00B7)
_X32_BIT: Final = 0x4000_0000
_PROT_EXEC: Final = 4
_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1
_NUMBER_AT, _ARCHITECTURE_AT, _THIRD_AT = 0, 4, 32

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF_0000, 0x0005_0000 | errno.EPERM, 0x8000_0000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def supported() -> bool:
    """Tell whether there is a filter for this kind of machine."""
    known = platform.machine() in _MACHINES and sys.byteorder == "little"
    return sys.platform == "linux" and known


def install() -> bool:
    """Filter this process, all its threads, for good; False where that cannot be done.

    The caller has set ``PR_SET_NO_NEW_PRIVS``.
    """
    if not supported():
        return False
    column = _MACHINES[platform.machine()]
    code = program(column)
    filled = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None)
    failed = libc.syscall(_INSTALL[column], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(filled))
    return bool(failed == 0)


def program(column: int) -> bytes:
    """Return the filter as the kernel takes it: instructions of eight bytes."""
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, _ARCHITECTURES[column], hit=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
        _instruction(_AT_LEAST, _X32_BIT, miss=1),
        _instruction(_RETURN, _REFUSE),
    ]
    for numbers in _ALLOWED.values():
        code += _when(numbers[column], [_instruction(_RETURN, _ALLOW)])
    for numbers in _WITHOUT_EXEC.values():
        code += _when(numbers[column], _judged(_ANY_BIT, _PROT_EXEC, hit=_REFUSE, miss=_ALLOW))
    for numbers in _ABORT_ONLY.values():
        code += _when(numbers[column], _judged(_EQUAL, signal.SIGABRT, hit=_ALLOW, miss=_REFUSE))
    return b"".join([*code, _instruction(_RETURN, _REFUSE)])


def _when(number: int, then: list[bytes]) -> list[bytes]:
    """Skip ``then``, which returns, unless the call has this number."""
    return [_instruction(_EQUAL, number, miss=len(then)), *then]


def _judged(test: int, value: int, *, hit: int, miss: int) -> list[bytes]:
    """Judge by the lower half of the third argument, which is an ``int`` in all these calls."""
    return [
        _instruction(_LOAD, _THIRD_AT),
        _instruction(test, value, miss=1),
        _instruction(_RETURN, hit),
        _instruction(_RETURN, miss),
    ]


def _instruction(code: int, value: int, *, hit: int = 0, miss: int = 0) -> bytes:
    return struct.pack("=HBBI", code, hit, miss, value)
