"""What ``demeanor calibrate`` does: rounds of real publishers against a private server.

Each round has a server of its own, for one that was overloaded needs a while to come back to full
service. Numbers double while rounds go well; then the room between is halved while time is left.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from pipeline.errors import DemeanorError
from services.auth import DEV_TOKEN
from services.calibration import Calibration, machine, store
from services.clock import Clock, SystemClock
from services.load import HIGH_LAG_S, HIGH_WAIT_S, cores

CLIP: Final = Path(__file__).parents[1] / "web" / "sample.webm"
SETTLE_S: Final = 2.0
"""Publishers start Python on the same cores; what that delays is no news of the streams."""
SHORTEST_S: Final = 3.0
LONGEST_S: Final = 10.0
"""What admission looks back on, so that its figures are of this round alone."""
START_S: Final = 30.0
CONNECT_S: Final = 20.0
END_S: Final = 35.0
LONG_RUN_S: Final = 40.0
"""With less time than this rounds are short, and what starting delayed is in their figures."""
_LOOK_S: Final = 0.1
_NOT_OURS: Final = {
    *("DEMEANOR_TLS_CERT", "DEMEANOR_TLS_KEY", "DEMEANOR_REDIS_URL", "DEMEANOR_REDIS_CA"),
    "DEMEANOR_REDIS_PASSWORD_FILE",
}


@dataclass(frozen=True, slots=True)
class Round:
    """What was seen at one number of streams."""

    streams: int
    windows: int
    lost: int
    """Windows that were skipped for lack of time."""
    wait_ms: int
    """95th percentile."""
    lag_ms: int
    """99th percentile."""
    cpu_share: float
    memory_mb: int
    refusal: str | None
    """Why this number is too much; None: it is not."""


@dataclass(frozen=True, slots=True)
class Form:
    """How rounds are told."""

    json: bool

    def head(self) -> None:
        """Say what is about to happen."""
        if not self.json:
            print(f" {machine()}: publishing the sample call to a private server", flush=True)
            print("   streams  windows  lost  wait p95  lag p99   cpu  memory", flush=True)

    def round(self, seen: Round) -> None:
        """Tell one round."""
        if self.json:
            print(json.dumps({"type": "round", **asdict(seen)}), flush=True)
            return
        mark = "✔" if seen.refusal is None else f"✖ {seen.refusal}"
        print(
            f"   {seen.streams:7d}  {seen.windows:7d}  {seen.lost:4d}  {seen.wait_ms:5d} ms"
            f"  {seen.lag_ms:4d} ms  {seen.cpu_share:4.0%}  {seen.memory_mb:3d} MB  {mark}",
            flush=True,
        )

    def result(self, found: Calibration, path: Path) -> None:
        """Tell what is kept and where."""
        if self.json:
            print(json.dumps({"type": "calibrated", "max_streams": found.max_streams}), flush=True)
            return
        print(f" max_streams = {found.max_streams}, which 'demeanor up' uses from now on ({path})")
        print(f" Another number: demeanor up --max-streams N, or remove {path.name}.")


async def measure(
    seconds: float, most: int, config: Path | None, form: Form, clock: Clock | None = None
) -> Calibration:
    """Measure, tell and keep the result.

    Raises :class:`~pipeline.errors.DemeanorError` when not even one stream runs well.
    """
    clock = clock or SystemClock()
    end_s = clock.monotonic_s() + seconds
    listen_s = LONGEST_S if seconds >= LONG_RUN_S else SHORTEST_S
    form.head()
    search = Search(first=max(1, round(2 * cores())), most=most)
    digest = ""
    while (streams := search.next()) is not None:
        begun_s = clock.monotonic_s()
        try:
            seen, digest = await _round(streams, listen_s, config)
        except aiohttp.ClientError as error:
            raise DemeanorError(
                f"the private server cannot be read ({type(error).__name__}): "
                "measure with a configuration without TLS"
            ) from None
        form.round(seen)
        search.note(streams, good=seen.refusal is None)
        now_s = clock.monotonic_s()
        if now_s + (now_s - begun_s) > end_s:
            break
    if not search.good:
        raise DemeanorError(
            f"not even {_streams(search.least)} run well now: end other work on this machine and "
            "try again, with more --seconds"
        )
    today = datetime.fromtimestamp(clock.wall_ms() / 1000, UTC).date().isoformat()
    found = Calibration(search.good, today, machine(), digest)
    try:
        form.result(found, store(found))
    except OSError as error:
        raise DemeanorError(f"the result cannot be kept: {error}") from None
    return found


def _streams(count: int) -> str:
    return "one stream" if count == 1 else f"{count} streams"


class Search:
    """Which number to try next: doubling, then halving what lies between good and bad."""

    def __init__(self, first: int, most: int) -> None:
        self.good = 0
        """The largest number that went well."""
        self._bad = most + 1
        self._next: int | None = min(first, most)

    def next(self) -> int | None:
        """Return the next number, None when nothing is left to learn."""
        return self._next

    @property
    def least(self) -> int:
        """The smallest number that went wrong."""
        return self._bad

    def note(self, streams: int, *, good: bool) -> None:
        """Take the outcome of a round."""
        if good:
            self.good = max(self.good, streams)
        else:
            self._bad = min(self._bad, streams)
        doubled = 2 * self.good
        middle = (self.good + self._bad) // 2
        tried = doubled if good and doubled < self._bad else middle
        self._next = tried if self.good < tried < self._bad else None


async def _round(streams: int, seconds: float, config: Path | None) -> tuple[Round, str]:
    """Run one server with so many publishers; return what was seen and the model's digest."""
    with tempfile.TemporaryDirectory(prefix="demeanor-") as folder:
        async with _server(Path(folder), config) as http, _door(http) as client:
            digest = (await _json(client, "/v1/models"))["models"][0]["digest"]
            async with _publishers(http, streams):
                connected = await _connected(client, streams)
                await asyncio.sleep(SETTLE_S)
                before = await _metrics(client)
                await asyncio.sleep(seconds)
                after = await _metrics(client)
            return _judged(streams, before, after, connected=connected), digest


def _judged(
    streams: int, before: dict[str, float], after: dict[str, float], *, connected: bool
) -> Round:
    def grown(name: str) -> int:
        return round(after.get(name, 0.0) - before.get(name, 0.0))

    lost = grown("demeanor_scorer_skipped_windows_total")
    lost += grown("demeanor_scorer_failed_windows_total")
    wait_s = after.get("demeanor_load_scorer_wait_seconds_p95", 0.0)
    lag_s = after.get("demeanor_load_loop_lag_seconds_p99", 0.0)
    reasons = {
        "not all could connect": not connected,
        "streams ended": after.get("demeanor_ingest_live_sessions", 0.0) < streams,
        "windows were skipped": lost > 0,
        "windows were given up": after.get("demeanor_load_degrade_rung", 0.0) > 0,
        "the models are too slow": wait_s > HIGH_WAIT_S,
        "the server is too slow": lag_s > HIGH_LAG_S,
        "nothing was scored": grown("demeanor_scorer_windows_total") == 0,
    }
    return Round(
        streams=streams,
        windows=grown("demeanor_scorer_windows_total"),
        lost=lost,
        wait_ms=round(wait_s * 1000),
        lag_ms=round(lag_s * 1000),
        cpu_share=round(after.get("demeanor_load_cpu_share", 0.0), 2),
        memory_mb=round(after.get("demeanor_load_memory_bytes", 0.0) / 2**20),
        refusal=next((words for words, true in reasons.items() if true), None),
    )


@asynccontextmanager
async def _server(folder: Path, config: Path | None) -> AsyncIterator[str]:
    """Run ``demeanor up`` on free loopback ports; yields its HTTP address."""
    given = [] if config is None else ["--config", str(config)]
    limits = ["--max-streams=256", "--half-open=256", "--half-open-per-token=256"]
    command = ["up", *given, *limits, "--posts-per-s=256", "--json", "--no-open"]
    command += ["--host=127.0.0.1", "--http-port=0", "--ws-port=0", "--udp-ports=20000-29999"]
    command += ["--redis-url="]  # one of its own: readers of another bus must not see the streams
    command += [f"--audit={folder / 'audit'}", "--log-level=error"]
    async with _process(command, stdout=asyncio.subprocess.PIPE) as process:
        try:
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline() if process.stdout else b""
        except TimeoutError:
            line = b""
        if not line:
            raise DemeanorError("the private server did not start: see the line above")
        yield str(json.loads(line)["http"])


@asynccontextmanager
async def _publishers(http: str, streams: int) -> AsyncIterator[None]:
    command = ["push", str(CLIP), "--to", f"{http}/whip/calibrate", "--loop"]
    quiet = asyncio.subprocess.DEVNULL
    async with _process([*command, "--clients", str(streams)], stdout=quiet, stderr=quiet):
        yield


@asynccontextmanager
async def _process(
    command: list[str], *, stdout: int, stderr: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a verb of our own in its own session, so that Ctrl-C reaches it through us only."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", *command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**_environment(), "NO_COLOR": "1"},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        await _ended(process)


def _environment() -> dict[str, str]:
    """Return our variables without those that would make the private server a public one."""
    return {name: value for name, value in os.environ.items() if name.upper() not in _NOT_OURS}


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End a process in good order, and anyhow."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except BaseException:
        if process.returncode is None:
            process.kill()
        raise
    finally:
        if process.returncode is None:
            await process.wait()


@asynccontextmanager
async def _door(http: str) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    limit = aiohttp.ClientTimeout(total=START_S)
    async with aiohttp.ClientSession(http, headers=headers, timeout=limit) as client:
        yield client


async def _connected(client: aiohttp.ClientSession, streams: int) -> bool:
    """Wait until all publishers send."""

    def all_there(now: dict[str, float]) -> bool:
        live = now.get("demeanor_ingest_live_sessions", 0.0)
        return live >= streams and not now.get("demeanor_ingest_half_open_sessions")

    return await _until(client, all_there)


async def _until(
    client: aiohttp.ClientSession, condition: Callable[[dict[str, float]], bool]
) -> bool:
    try:
        async with asyncio.timeout(CONNECT_S):
            while not condition(await _metrics(client)):  # noqa: ASYNC110 - another process
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        return False
    return True


async def _json(client: aiohttp.ClientSession, path: str) -> dict[str, Any]:
    async with client.get(path) as answer:
        if answer.status != 200:
            raise DemeanorError(f"the private server answers {answer.status} at {path}")
        told: dict[str, Any] = await answer.json(content_type=None)
        return told


async def _metrics(client: aiohttp.ClientSession) -> dict[str, float]:
    """Return what has no labels."""
    async with client.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    pairs = (line.split() for line in lines if line.startswith("demeanor_"))
    return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2 and "{" not in pair[0]}
