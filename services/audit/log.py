"""The thread that writes the audit log, and the bounded queue in front of it.

Rows are taken from the event loop and written in batches; each batch is on the disk (fsync) before
the next. A crash loses at most what was taken in the last moment and not written. While the disk
refuses, rows wait, readers are refused, and everything else goes on.
"""

import asyncio
import hashlib
import os
import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog

from pipeline.errors import UsageError
from pipeline.events import timestamp
from services.audit.chain import Chain, ChainBroken, Row
from services.audit.notes import AuditAway, Fact, Kind
from services.auth import Principal
from services.clock import Clock
from services.queues import Registry

ROWS: Final = 4096
BATCH_ROWS: Final = 256
ROOM_S: Final = 1.0
"""How long a reader waits for the log before it is refused."""
_RETRY_S: Final = 0.5
_LOOK_S: Final = 0.02
_CLOSE_S: Final = 5.0

_log = structlog.get_logger(__name__)


def default_folder() -> Path:
    """Return the user's folder for state (XDG Base Directory Specification)."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    return base / "demeanor" / "audit"


def hashed(name: str) -> str:
    """Return what stands for an id in a row: half of its SHA-256, in hex."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


class AuditLog:
    """An :class:`~services.audit.Audit`; an async context manager that writes out and closes."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        policy: str,
        queues: Registry,
        chain: Chain | None = None,
    ) -> None:
        self.folder = folder
        self._clock = clock
        self._policy = policy
        self._chain = chain or Chain(folder)
        self._rows: queue.Queue[Row | None] = queue.Queue(ROWS + 1)  # one for the end
        self._lost = 0
        self._lost_total = 0
        self._written = 0
        self._unwritten = 0
        """Rows that the disk still refused when the process had to end."""
        self._failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._queue = queues.add(
            "audit_out",
            bound=ROWS,
            unit="rows",
            rule="block",
            depth=self._rows.qsize,
            dropped=lambda: {"no_room": self._lost_total} if self._lost_total else {},
        )

    async def __aenter__(self) -> Self:
        """Open the folder and begin to write. Raises :class:`~pipeline.errors.UsageError`."""
        try:
            await asyncio.to_thread(self._chain.open)
        except OSError as error:
            self._queue.close()
            raise UsageError(
                f"the audit log cannot be written in {self.folder} ({error.strerror}): "
                "choose another folder with --audit"
            ) from None
        except ChainBroken as error:
            self._queue.close()
            raise UsageError(
                f"the audit log was changed ({error}): run 'demeanor audit verify "
                f"{self.folder}', then move the folder away or choose another with --audit"
            ) from None
        self._thread.start()
        self.note("started", None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.note("stopped", None)
        self._closing.set()
        self._rows.put_nowait(None)
        await asyncio.to_thread(self._thread.join, _CLOSE_S)
        self._queue.close()
        if left := self._unwritten + self._rows.qsize() + self._lost:
            _log.error("audit rows were not written", count=left)

    def note(self, kind: Kind, principal: Principal | None, **facts: Fact) -> None:
        """Take a row; one for which there is no room is counted."""
        if self._rows.qsize() >= ROWS:
            self._lost += 1
            self._lost_total += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self._rows.put_nowait(self._row("rows_lost", None, {"count": lost}))
            if self._rows.qsize() >= ROWS:
                self._lost, self._lost_total = self._lost + 1, self._lost_total + 1
                return
        self._rows.put_nowait(self._row(kind, principal, facts))

    async def require(self, kind: Kind, principal: Principal | None, **facts: Fact) -> None:
        """Take a row once the log can be written. Raises :class:`AuditAway`."""
        try:
            async with asyncio.timeout(ROOM_S):
                while self._failing or self._rows.qsize() >= ROWS:  # noqa: ASYNC110 - a thread's state
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise AuditAway from None
        self.note(kind, principal, **facts)

    @property
    def failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._failing

    def statistics(self) -> dict[str, float]:
        """Return gauges and counters."""
        return {
            "rows_total": self._written,
            "lost_rows_total": self._lost_total,
            "failing": int(self._failing),
        }

    def _row(self, kind: Kind, principal: Principal | None, facts: dict[str, Fact]) -> Row:
        row: Row = {
            "at": timestamp(self._clock.wall_ms()),
            "kind": kind,
            "policy": self._policy,
            **{name: fact for name, fact in facts.items() if fact is not None},
        }
        if isinstance(row.get("session"), str):
            row["session"] = hashed(row["session"])
        if principal is not None:
            row["who"] = {
                "tenant": principal.tenant,
                "token": principal.token_id,
                "subject": principal.subject,
            }
        return row

    # on the thread

    def _run(self) -> None:
        while (row := self._rows.get()) is not None:
            batch = [row]
            ended = False
            while len(batch) < BATCH_ROWS and not ended:
                try:
                    following = self._rows.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    ended = True
                else:
                    batch.append(following)
            if not self._persist(batch):
                self._unwritten += len(batch)
                return
            if ended:
                return

    def _persist(self, batch: list[Row]) -> bool:
        """Try until the disk takes the batch; False when the process ends before."""
        while not self._attempt(batch):
            if self._closing.wait(_RETRY_S):
                return self._attempt(batch)
        return True

    def _attempt(self, batch: list[Row]) -> bool:
        try:
            self._chain.append(batch)
        except (OSError, ChainBroken) as error:
            if not self._failing:
                _log.error(
                    "the audit log cannot be written: readers are refused until it can",
                    why=getattr(error, "strerror", None) or str(error),
                    folder=str(self.folder),
                )
            self._failing = True
            return False
        if self._failing:
            _log.info("the audit log can be written again")
        self._failing = False
        self._written += len(batch)
        return True
