"""What ``demeanor push`` does and says: prepare once, publish, tell what came of it."""

import asyncio
import signal
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UsageError
from services.cli.credentials import token_for
from services.cli.exits import Exit, complain
from services.ingest.address import addresses
from services.ingest.prepared import Prepared, prepare
from services.ingest.publishing import Closed, Connected, Failed, Progress, Report
from services.ingest.push import Order, ask, destinations, push
from services.tls import check_certificate, client_context

LINE_S = 10
"""A line for every so many seconds of media."""
BEHIND_MS = 500
"""Lateness that is worth a word: this machine cannot keep up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asked for."""

    file: Path
    to: str
    loop: bool
    speed: float
    clients: int
    duration_s: float | None
    token_file: str | None
    ca: Path | None


async def publish(wish: Wish) -> Exit:
    """Publish a file; return the exit code.

    Raises :class:`~pipeline.errors.UsageError` and :class:`~pipeline.errors.MediaError`.
    """
    if wish.file.is_dir():
        raise UsageError(f"{wish.file} is a folder: name one file")
    (address,) = addresses(str(wish.file))
    urls = destinations(wish.to, address.stream, wish.clients)
    token = token_for(urls[0], wish.token_file)
    tls = client_context(wish.ca)
    await asyncio.to_thread(check_certificate, urls[0], tls)
    order = Order(
        urls=urls,
        token=token,
        tls=tls,
        speed=wish.speed,
        loop=wish.loop,
        duration_s=wish.duration_s,
    )
    call = await asyncio.to_thread(prepare, address)
    print(f" {wish.file.name}  {_described(call)}", flush=True)
    told = Told(wish.clients)
    stop = asyncio.Event()
    with _on_signals(stop):
        await push(call, order, told.take, stop)
    print(told.ending(), flush=True)
    for number, failed in told.distinct_failures():
        complain(await asyncio.to_thread(reason, failed, urls[number], order.token, tls))
    return Exit.FAILED if told.failures else Exit.DONE


@contextmanager
def _on_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@dataclass(slots=True)
class Told:
    """Adds up what the publishers report and prints a line now and then."""

    clients: int
    connected: dict[int, int] = field(default_factory=dict)
    newest: dict[int, Progress] = field(default_factory=dict)
    closed: dict[int, Closed] = field(default_factory=dict)
    failures: dict[int, Failed] = field(default_factory=dict)
    _lines: int = 0

    def take(self, number: int, said: Report) -> None:
        """Take one report."""
        match said:
            case Connected():
                self.connected[number] = said.took_ms
                self._greet()
            case Progress():
                self.newest[number] = said
                self._tick()
            case Closed():
                self.closed[number] = said
            case Failed():
                self.failures[number] = said
                self._greet()

    def ending(self) -> str:
        """Return the last line: what was sent and whether the sessions were ended well."""
        video, audio = self._sent(self.closed.values())
        deleted = sum(closed.deleted for closed in self.closed.values())
        longest = max((round(closed.media_s) for closed in self.closed.values()), default=0)
        lines = []
        if self.closed:
            lines.append(f" {_clock(longest)}  {_counts(video, audio)}")
        if deleted:
            lines.append(f" ✔ {_sessions(deleted)} ended (DELETE)")
        if left := len(self.closed) - deleted:
            lines.append(f" ! {_sessions(left)} not ended: the server did not take the DELETE")
        if self.failures:
            lines.append(f" ✖ {_sessions(len(self.failures))} failed")
        return "\n".join(lines)

    def distinct_failures(self) -> list[tuple[int, Failed]]:
        """Return one publisher for each way in which publishers failed."""
        found: dict[tuple[str, int | None], tuple[int, Failed]] = {}
        for number, failed in sorted(self.failures.items()):
            found.setdefault((failed.failure, failed.status), (number, failed))
        return list(found.values())

    def _greet(self) -> None:
        if len(self.connected) + len(self.failures.keys() - self.connected) < self.clients:
            return
        if self.connected and not self._lines:
            slowest = max(self.connected.values())
            print(f" ✔ {_sessions(len(self.connected))} connected in {slowest} ms", flush=True)

    def _tick(self) -> None:
        """Print when the slowest publisher passed another ten seconds."""
        if len(self.newest) < len(self.connected):
            return
        at_s = min(progress.media_s for progress in self.newest.values())
        if at_s < (self._lines + 1) * LINE_S:
            return
        self._lines = int(at_s // LINE_S)
        behind_ms = max(progress.behind_ms for progress in self.newest.values())
        late = f" · {behind_ms} ms behind: this machine is busy" if behind_ms > BEHIND_MS else ""
        counts = _counts(*self._sent(self.newest.values()))
        print(f" {_clock(at_s)}  {counts}{late}", flush=True)

    @staticmethod
    def _sent(reports: Iterable[Progress | Closed]) -> tuple[int, int]:
        pairs = [(said.video, said.audio) for said in reports]
        return sum(video for video, _ in pairs), sum(audio for _, audio in pairs)


def reason(failed: Failed, url: str, token: str | None, tls: ssl.SSLContext | None = None) -> str:
    """Return why a publisher failed, in one sentence that says what to do; may ask the server."""
    match failed.failure:
        case "refused":
            return f"nothing answers at {url}: start the server with 'demeanor up'"
        case "unreachable":
            return _strange(url, token, tls) or f"{url} cannot be reached: check the address"
        case "http":
            return _refused(failed, url, token, tls)
        case "lost":
            at = _clock(failed.media_s)
            return f"the server ended the session of {url} at {at} ({failed.detail})"
        case "media":
            return f"the call cannot be sent as WebRTC ({failed.detail}): try another file"
        case _:
            return _strange(url, token, tls) or (
                f"{url} answered, but no media path could be opened ({failed.detail}): "
                "is it the address behind WHIP, and does UDP pass between the two machines?"
            )


def _strange(url: str, token: str | None, tls: ssl.SSLContext | None) -> str | None:
    """Return what to do when something answers there that is no WHIP server."""
    answer = ask(url, token, tls)
    if answer is None or not (answer.status < 400 or answer.status in (404, 405, 426, 501)):
        return None
    return (
        f"{url} is no WHIP address (it answers HTTP {answer.status}): give the one that "
        "'demeanor up' prints behind WHIP"
    )


_ADVICE = {
    401: "give a token with --token-file",
    404: "write http://HOST:PORT/whip/NAME",
    405: "write http://HOST:PORT/whip/NAME",
    409: "push to another name, or wait until that stream ends",
    429: "wait a moment",
    503: "try again later",
}


def _refused(failed: Failed, url: str, token: str | None, tls: ssl.SSLContext | None) -> str:
    answer = ask(url, token, tls)
    status = failed.status
    sentence = ""
    if answer is not None and not answer.about_offer:
        status, sentence = answer.status, answer.sentence or ""
    advice = _ADVICE.get(status or 0, "" if sentence else "see the server's log")
    if answer is not None and answer.retry_after_s and status in (429, 503):
        advice = f"try again in {answer.retry_after_s} s"
    said = f": {sentence.rstrip('.')}" if sentence else ""
    return f"{url} refused the call ({status}){said}" + (f" – {advice}" if advice else "")


def _described(call: Prepared) -> str:
    tracks = " and ".join("pictures" if kind == "video" else "sound" for kind in call.tracks)
    how = "sent as it is" if call.copied else "encoded once"
    return f"{_clock(call.duration_s)}, {tracks}, {how}"


def _counts(video: int, audio: int) -> str:
    return f"sent {_grouped(video)} video / {_grouped(audio)} audio frames"


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _sessions(count: int) -> str:
    return f"{count} session" + ("" if count == 1 else "s")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
