"""The audit log: every change to it shows, several processes share it, a full disk closes it."""

import asyncio
import errno
import json
import stat
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from services.audit import SILENT, AuditAway
from services.audit import log as log_module
from services.audit.chain import GENESIS, HEAD, Chain, ChainBroken, name_of
from services.audit.log import AuditLog, default_folder, hashed
from services.audit.verify import verify
from services.auth import Principal
from services.clock import SystemClock
from services.queues import Registry

WHO = Principal(tenant="acme", role="customer", token_id="jti-1", subject="op-7")


def opened(folder, **more):
    return AuditLog(folder, clock=SystemClock(), policy="eu-strict@12345678", **more)


def rows(folder):
    return [
        json.loads(line)
        for file in sorted(folder.glob("audit-*.jsonl"))
        for line in file.read_bytes().splitlines()
    ]


def written(folder, count=6, file_bytes=10**6):
    chain = Chain(folder, file_bytes)
    chain.open()
    for number in range(count):
        chain.append([{"kind": "published", "number": number}])
    return folder


async def test_rows_say_who_did_what_when_under_which_policy_and_never_which_session(tmp_path):
    async with opened(tmp_path, queues=Registry()) as audit:
        audit.note("published", WHO, session="ses_secret", scored=True, why_not=None)
        await audit.require("subscribed", WHO, everything=True)
    kinds = [row["kind"] for row in rows(tmp_path)]
    assert kinds == ["started", "published", "subscribed", "stopped"]
    published = rows(tmp_path)[1]
    assert published["who"] == {"tenant": "acme", "token": "jti-1", "subject": "op-7"}
    assert published["policy"] == "eu-strict@12345678"
    assert published["session"] == hashed("ses_secret")
    assert published["scored"] is True
    assert "why_not" not in published
    assert "ses_secret" not in (tmp_path / name_of(1)).read_text()
    assert verify(tmp_path).bad is None
    assert verify(tmp_path).rows == 4


async def test_only_its_owner_may_read_it(tmp_path):
    folder = tmp_path / "deep" / "audit"
    async with opened(folder, queues=Registry()):
        pass
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in (name_of(1), HEAD):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


async def test_a_second_start_goes_on_with_the_chain(tmp_path):
    for _ in range(3):
        async with opened(tmp_path, queues=Registry()):
            pass
    assert [row["n"] for row in rows(tmp_path)] == list(range(1, 7))
    assert verify(tmp_path).bad is None


def test_files_are_followed_by_files_and_the_chain_goes_on(tmp_path):
    written(tmp_path, 12, file_bytes=500)
    files = sorted(file.name for file in tmp_path.glob("audit-*.jsonl"))
    assert files == [name_of(number) for number in range(1, len(files) + 1)]
    assert len(files) > 2
    assert (verify(tmp_path).rows, verify(tmp_path).bad) == (12, None)
    for file in files:
        assert verify(tmp_path / file).bad is None
    (tmp_path / files[1]).unlink()
    assert files[1] in verify(tmp_path).bad


def _edit(lines):
    lines[2] = lines[2].replace(b'"number":2', b'"number":9')


def _delete(lines):
    del lines[2]


def _reorder(lines):
    lines[2], lines[3] = lines[3], lines[2]


def _repeat(lines):
    lines.insert(3, lines[2])


def _blank(lines):
    lines[2] = lines[2].replace(b":", b": ", 1)


def _forge(lines):
    """Change a row and give it a hash of its own; its follower tells."""
    from services.audit.chain import canonical, digest

    row = json.loads(lines[2])
    del row["hash"]
    row["number"] = 9
    lines[2] = canonical({**row, "hash": digest(row["prev"], row)}) + b"\n"


def _rubbish(lines):
    lines[2] = b"[]\n"


def _behead(lines):
    del lines[0]


@pytest.mark.parametrize(
    "change", [_edit, _delete, _reorder, _repeat, _blank, _forge, _rubbish, _behead]
)
def test_a_changed_row_is_found(tmp_path, change):
    path = written(tmp_path) / name_of(1)
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))
    found = verify(tmp_path)
    assert found.bad is not None
    assert name_of(1) in found.bad
    assert found.rows <= 4


@pytest.mark.parametrize("cut", ["a row", "half a row", "everything", "the head too"])
def test_what_is_cut_off_the_end_is_missed(tmp_path, cut):
    path = written(tmp_path) / name_of(1)
    lines = path.read_bytes().splitlines(keepends=True)
    kept = {
        "a row": b"".join(lines[:-1]),
        "half a row": b"".join(lines)[:-10],
        "everything": b"",
        "the head too": b"".join(lines[:-1]),
    }[cut]
    path.write_bytes(kept)
    if cut == "the head too":
        (tmp_path / HEAD).unlink()
    assert verify(tmp_path).bad is not None
    with pytest.raises(ChainBroken):
        Chain(tmp_path).append([{"kind": "published"}])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_single_byte_can_be_changed_unseen(tmp_path, data):
    path = tmp_path / name_of(1)
    if not path.exists():
        written(tmp_path)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
    path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    try:
        assert verify(tmp_path).bad is not None
    finally:
        path.write_bytes(whole)


def test_rows_that_a_crash_left_behind_the_head_are_taken_in(tmp_path):
    written(tmp_path, 3)
    head = (tmp_path / HEAD).read_bytes()
    Chain(tmp_path).append([{"kind": "published", "number": 3}])
    with (tmp_path / name_of(1)).open("ab") as file:
        file.write(b'{"half a r')
    (tmp_path / HEAD).write_bytes(head)
    Chain(tmp_path).append([{"kind": "published", "number": 4}])
    assert (verify(tmp_path).rows, verify(tmp_path).bad) == (5, None)


def test_a_row_that_somebody_put_behind_the_head_stops_the_log(tmp_path):
    written(tmp_path, 3)
    with (tmp_path / name_of(1)).open("ab") as file:
        file.write(b'{"n":4,"prev":"' + b"0" * 64 + b'","hash":"' + b"0" * 64 + b'"}\n')
    with pytest.raises(ChainBroken, match="does not belong"):
        Chain(tmp_path).open()


HAMMER = """
import sys
from pathlib import Path
from services.audit.chain import Chain
chain = Chain(Path(sys.argv[1]), 4000)
for number in range(20):
    chain.append([{"kind": "published", "number": number}])
"""


def test_processes_share_one_chain(tmp_path):
    Chain(tmp_path).open()
    command = [sys.executable, "-c", HAMMER, str(tmp_path)]
    workers = [subprocess.Popen(command) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert (verify(tmp_path).rows, verify(tmp_path).bad) == (40, None)


FULL = """
import resource, sys
from pathlib import Path
from services.audit.chain import Chain
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
chain, written = Chain(Path(sys.argv[1])), 0
try:
    while True:
        chain.append([{"kind": "published", "number": written}])
        written += 1
except OSError as error:
    print(written, error.strerror)
"""


@pytest.mark.parametrize("limit", [1500, 1777, 2001])
def test_where_the_disk_takes_no_more_a_row_is_there_whole_or_not_at_all(tmp_path, limit):
    written(tmp_path, 3)
    command = [sys.executable, "-c", FULL, str(tmp_path), str(limit)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    more, why = ran.stdout.split(maxsplit=1)
    assert "too large" in why
    assert int(more) > 0
    size = (tmp_path / name_of(1)).stat().st_size
    assert limit - 400 < size <= limit, "the row that did not fit left nothing behind"
    assert (verify(tmp_path).rows, verify(tmp_path).bad) == (3 + int(more), None)
    Chain(tmp_path).append([{"kind": "published"}])
    assert (verify(tmp_path).rows, verify(tmp_path).bad) == (4 + int(more), None)


class Fussy(Chain):
    """A disk that is full until it is not."""

    full = False

    def append(self, batch):
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().append(batch)


async def test_while_the_disk_is_full_readers_are_refused_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "ROOM_S", 0.2)
    chain, queues = Fussy(tmp_path), Registry()
    async with opened(tmp_path, queues=queues, chain=chain) as audit:
        await audit.require("subscribed", WHO)
        chain.full = True
        audit.note("published", WHO)
        async with asyncio.timeout(30):
            while not audit.failing:
                await asyncio.sleep(0.01)
        with pytest.raises(AuditAway, match="cannot be written"):
            await audit.require("subscribed", WHO)
        for _ in range(log_module.ROWS + 50):
            audit.note("published", WHO)
        (depth,) = [q for q in queues.statistics() if q.kind.name == "audit_out"]
        assert depth.depth <= depth.kind.bound == log_module.ROWS
        lost = depth.dropped["no_room"]
        assert lost >= 50
        chain.full = False
        monkeypatch.setattr(log_module, "ROOM_S", 30)
        await audit.require("subscribed", WHO)
    told = [row["count"] for row in rows(tmp_path) if row["kind"] == "rows_lost"]
    assert sum(told) == lost
    assert [row["kind"] for row in rows(tmp_path)][-2:] == ["subscribed", "stopped"]
    assert verify(tmp_path).bad is None
    assert queues.statistics()[0].instances == 0


async def test_a_process_ends_although_its_disk_stays_full(tmp_path):
    chain = Fussy(tmp_path)
    async with asyncio.timeout(30), opened(tmp_path, queues=Registry(), chain=chain):
        chain.full = True


async def test_a_folder_that_cannot_be_used_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"choose another folder with --audit"):
        async with opened(tmp_path / "file" / "audit", queues=Registry()):
            pass
    written(tmp_path / "audit", 2)
    (tmp_path / "audit" / name_of(1)).write_bytes(b"")
    with pytest.raises(UsageError, match=r"demeanor audit verify"):
        async with opened(tmp_path / "audit", queues=Registry()):
            pass


def test_the_default_folder_is_the_users_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "demeanor" / "audit"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "state" / "demeanor" / "audit"


async def test_an_empty_folder_is_whole_and_silence_keeps_nothing(tmp_path):
    assert verify(tmp_path) == verify(tmp_path).__class__(0, GENESIS, None)
    SILENT.note("published", WHO)
    await SILENT.require("subscribed", WHO)
