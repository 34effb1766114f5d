"""What a process holds: memory, threads, files, read from /proc."""

import os
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Held:
    """One reading of one process."""

    rss_kib: int
    threads: int
    files: int

    def __str__(self) -> str:
        return f"{self.rss_kib / 1024:.1f} MiB, {self.threads} threads, {self.files} files"


def held(pid: int | None = None) -> Held:
    """Return what process ``pid`` holds now; None: this one."""
    folder = Path("/proc") / str(pid or os.getpid())
    resident = int((folder / "statm").read_text().split()[1]) * _PAGE_BYTES // 1024
    threads = len(list((folder / "task").iterdir()))
    return Held(resident, threads, len(list((folder / "fd").iterdir())))


def family(pid: int) -> list[int]:
    """Return a process and all that it started."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [pid, *(each for child in text.split() for each in family(int(child)))]


def slope(points: list[tuple[float, float]]) -> float:
    """Return the least-squares slope of (x, y) points; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
