"""One publisher in a process of its own: ``python -m services.ingest.publisher``.

FFmpeg's WHIP muxer holds the interpreter while it connects, so it never runs beside anything else.
It gets packets that were encoded beforehand and sends each when its time has come. It is always
given a throw-away P-256 certificate: FFmpeg's GnuTLS backend otherwise offers a curve that newer
TLS libraries refuse. See :mod:`services.ingest.publishing` for what goes in and out.
"""

import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

import av
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.clock import Clock, SystemClock
from services.ingest.publishing import (
    Closed,
    Connected,
    Failed,
    Failure,
    Job,
    Progress,
    Report,
    encode,
    job,
)

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer

PROGRESS_S = 1.0
"""Time between two reports."""
_ERRORS = (av.FFmpegError, OSError, ValueError)
_HTTP_STATUS: tuple[tuple[type[av.FFmpegError], int], ...] = (
    (av.HTTPUnauthorizedError, 401),
    (av.HTTPForbiddenError, 403),
    (av.HTTPNotFoundError, 404),
    (av.HTTPTooManyRequestsError, 429),
    (av.HTTPClientError, 400),
    (av.HTTPServerError, 500),
)


class Publisher:
    """Sends one prepared call; :meth:`run` reports how it went."""

    def __init__(self, work: Job, media: bytes, clock: Clock, stop: threading.Event) -> None:
        self._work = work
        self._media = media
        self._clock = clock
        self._stop = stop
        self._sent = {"video": 0, "audio": 0}
        self._media_s = 0.0
        self._connected = False

    def run(self, tell: Callable[[Report], None]) -> None:
        """Connect, send all, end the session; the last report is Closed or Failed.

        May hang after it reported Failed: the muxer waits for a goodbye of a server that is gone.
        """
        try:
            with av.open(io.BytesIO(self._media), "r") as source, certificate() as options:
                self._publish(source, options, tell)
        except _ERRORS as error:
            tell(self._failed(error))

    def _publish(
        self, source: "InputContainer", options: dict[str, str], tell: Callable[[Report], None]
    ) -> None:
        began_s = self._clock.monotonic_s()
        target = av.open(self._work.url, "w", format="whip", options=self._options(options))
        try:
            copies = [target.add_stream_from_template(stream) for stream in source.streams]
            target.start_encoding()
            self._connected = True
            tell(Connected(round((self._clock.monotonic_s() - began_s) * 1000)))
            self._send(source, target, copies, tell)
        except _ERRORS as error:
            tell(self._failed(error))
            with suppress(*_ERRORS):
                target.close()
            return
        with av.logging.Capture() as lines:
            target.close()
        warned = any(level <= av.logging.WARNING for level, _, _ in lines)
        tell(Closed(self._media_s, self._sent["video"], self._sent["audio"], not warned))

    def _options(self, options: dict[str, str]) -> dict[str, str]:
        given = {"handshake_timeout": str(self._work.handshake_ms), **options}
        if self._work.token:
            given["authorization"] = self._work.token
        return given

    def _send(
        self,
        source: "InputContainer",
        target: "OutputContainer",
        copies: list[Any],
        tell: Callable[[Report], None],
    ) -> None:
        start_s = self._clock.monotonic_s()
        told_s = start_s
        for at_s, packet in self._packets(source):
            behind_s = self._wait(start_s + at_s / self._work.speed)
            if self._stop.is_set():
                return
            packet.stream = copies[packet.stream.index]
            self._sent[packet.stream.type] += 1
            target.mux(packet)
            self._media_s = at_s
            if self._clock.monotonic_s() - told_s >= PROGRESS_S:
                told_s = self._clock.monotonic_s()
                video, audio = self._sent["video"], self._sent["audio"]
                tell(Progress(at_s, video, audio, round(behind_s * 1000)))

    def _wait(self, due_s: float) -> float:
        """Sleep until ``due_s``; return how late it is."""
        early_s = due_s - self._clock.monotonic_s()
        if early_s > 0:
            self._stop.wait(early_s)
        return max(0.0, -early_s)

    def _packets(self, source: "InputContainer") -> "Iterator[tuple[float, av.Packet[Any]]]":
        """Yield packets and their time, again and again with ``loop``."""
        offset_s = 0.0
        while True:
            end_s = offset_s
            for packet in source.demux():
                if packet.pts is None or packet.dts is None or packet.time_base is None:
                    continue
                shift = round(offset_s / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                at_s = float(packet.dts * packet.time_base)
                end_s = max(end_s, at_s + float((packet.duration or 0) * packet.time_base))
                if self._work.duration_s is not None and at_s >= self._work.duration_s:
                    return
                yield at_s, packet
            if not self._work.loop or end_s <= offset_s:
                return
            offset_s = end_s
            source.seek(0)

    def _failed(self, error: Exception) -> Failed:
        status = next((code for kind, code in _HTTP_STATUS if isinstance(error, kind)), None)
        failure: Failure = "lost" if self._connected else "handshake"
        if status is not None:
            failure = "http"
        elif not self._connected and isinstance(error, av.ConnectionRefusedError):
            failure = "refused"
        elif not self._connected and isinstance(error, (av.OSError, av.TimeoutError)):
            failure = "unreachable"
        elif isinstance(error, (av.ArgumentError, av.PatchWelcomeError)):
            failure = "media"
        detail = getattr(error, "strerror", None) or type(error).__name__
        return Failed(failure, status, self._media_s, str(detail))


@contextmanager
def certificate() -> Iterator[dict[str, str]]:
    """Make a throw-away P-256 certificate; yields the muxer's options that name its files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "demeanor")])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    texts = {
        "cert_file": signed.public_bytes(serialization.Encoding.PEM),
        "key_file": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    }
    with _in_memory(texts) if hasattr(os, "memfd_create") else _in_folder(texts) as paths:
        yield paths


@contextmanager
def _in_memory(texts: dict[str, bytes]) -> Iterator[dict[str, str]]:
    """Keep files in memory: a publisher that is killed leaves none."""
    with ExitStack() as opened:
        paths = {}
        for name, text in texts.items():
            file = opened.enter_context(os.fdopen(os.memfd_create(name), "wb"))
            file.write(text)
            file.flush()
            paths[name] = f"/proc/self/fd/{file.fileno()}"
        yield paths


@contextmanager
def _in_folder(texts: dict[str, bytes]) -> Iterator[dict[str, str]]:
    with TemporaryDirectory(prefix="demeanor-push-") as folder:
        paths = {name: Path(folder, name) for name in texts}
        for name, text in texts.items():
            paths[name].touch(mode=0o600)
            paths[name].write_bytes(text)
        yield {name: str(path) for name, path in paths.items()}


def main(given: BinaryIO, out: BinaryIO) -> None:
    """Take one job from ``given``, report to ``out``."""
    work = job(given.readline())
    media = given.read(work.size)
    stop = threading.Event()

    def listen() -> None:
        # Not through the buffer: its lock would be held when the process ends.
        while os.read(given.fileno(), 1):
            pass
        stop.set()

    threading.Thread(target=listen, name="stop", daemon=True).start()

    def tell(message: Report) -> None:
        out.write(encode(message))
        out.flush()

    Publisher(work, media, SystemClock(), stop).run(tell)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
