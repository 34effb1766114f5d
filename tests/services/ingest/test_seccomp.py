"""The filter of system calls, run by a small machine of its own for both kinds of processor."""

import errno
import re
import signal
import struct
from pathlib import Path

import pytest

from services.ingest.confined import seccomp

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
HEADERS = (
    (0, Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), r"#define __NR_(\w+) (\d+)\b"),
    (1, Path("/usr/include/asm-generic/unistd.h"), r"#define __NR(?:3264)?_(\w+) (\d+)\b"),
)


def verdict(column, number, third=0, architecture=None):
    """Run the filter as the kernel would: loads, jumps, a return."""
    code = seccomp.program(column)
    known = dict(MACHINES.values())[column]
    data = struct.pack("=IIQ6Q", number, architecture or known, 0, 0, 0, third, 0, 0, 0)
    at = held = 0
    while True:
        kind, hit, miss, value = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        match kind:
            case 0x20:
                (held,) = struct.unpack_from("=I", data, value)
            case 0x15:
                at += hit if held == value else miss
            case 0x35:
                at += hit if held >= value else miss
            case 0x45:
                at += hit if held & value else miss
            case 0x06:
                return value


@pytest.mark.parametrize("column", [0, 1])
def test_only_what_is_listed_passes(column):
    listed = {numbers[column] for numbers in seccomp._ALLOWED.values()}
    special = {n[column] for n in (*seccomp._WITHOUT_EXEC.values(), *seccomp._ABORT_ONLY.values())}
    for number in range(600):
        if number not in special:
            assert verdict(column, number) == (ALLOW if number in listed else REFUSE)


@pytest.mark.parametrize("column", [0, 1])
def test_memory_that_can_be_executed_and_signals_are_refused(column):
    for numbers in seccomp._WITHOUT_EXEC.values():
        assert verdict(column, numbers[column], third=3) == ALLOW
        assert verdict(column, numbers[column], third=4) == REFUSE
        assert verdict(column, numbers[column], third=7) == REFUSE
    (tgkill,) = seccomp._ABORT_ONLY.values()
    assert verdict(column, tgkill[column], third=signal.SIGABRT) == ALLOW
    for other in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, 0):
        assert verdict(column, tgkill[column], third=other) == REFUSE


@pytest.mark.parametrize("column", [0, 1])
def test_other_kinds_of_calls_are_refused(column):
    assert verdict(column, 0, architecture=0x40000003) == KILL
    assert verdict(column, 0x40000000) == REFUSE  # the x32 way to read
    assert verdict(column, 0x40000001) == REFUSE


@pytest.mark.parametrize(("column", "header", "line"), HEADERS)
def test_the_numbers_are_the_kernels(column, header, line):
    if not header.exists():
        pytest.skip(f"{header} is not installed (linux-libc-dev)")
    known = {name: int(number) for name, number in re.findall(line, header.read_text())}
    ours = {**seccomp._ALLOWED, **seccomp._WITHOUT_EXEC, **seccomp._ABORT_ONLY}
    assert {name: numbers[column] for name, numbers in ours.items()} == {
        name: known[name] for name in ours
    }
    assert seccomp._INSTALL[column] == known["seccomp"]
