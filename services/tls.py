"""TLS by file: what the doors show to others, and whom the command line trusts.

A file that cannot be used is told before anything listens. Certificates are read once; after a
renewal the server is restarted, or a proxy in front of it does TLS (``deploy/proxy.md``).
"""

import datetime as dt
import socket
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from pipeline.errors import DemeanorError, UsageError
from services.clock import Clock

_OLDEST: Final = ssl.TLSVersion.TLSv1_2
_SHAKE_S: Final = 5.0


class Untrusted(DemeanorError):
    """The server's certificate is not one to trust."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"the certificate of {url} is not trusted ({why}): check the address, or name the "
            "authority that signed it with --ca FILE"
        )


def server_context(cert: Path | None, key: Path | None, clock: Clock) -> ssl.SSLContext | None:
    """Return the context of the doors, or None without TLS.

    ``cert``: PEM chain, the server's own certificate first; ``key``: its private key, PEM without a
    password. Raises :class:`~pipeline.errors.UsageError` for files that are missing, unreadable,
    out of date or do not belong together.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("--tls-cert and --tls-key go together: give both files or neither")
    _check_dates(cert, clock)
    _read(key, "--tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _OLDEST
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except _Locked:
        raise UsageError(f"--tls-key: {key} needs a password: give the key without one") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"{key} is not the key of {cert}: give the two that belong") from None
        raise UsageError(f"--tls-key: {key} is no PEM file of a private key") from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def client_context(ca: Path | None) -> ssl.SSLContext:
    """Return the context of a client; ``ca`` is trusted instead of the system's authorities.

    Raises :class:`~pipeline.errors.UsageError`.
    """
    if ca is not None:
        _read(ca, "--ca")
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise UsageError(f"--ca: {ca} is no PEM file of certificates") from None
    context.minimum_version = _OLDEST
    return context


def check_certificate(url: str, tls: ssl.SSLContext) -> None:
    """Shake hands with an ``https`` server, so that a bad certificate is told in words.

    Says nothing when nobody answers: whoever asks next will. Raises :class:`Untrusted`.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.hostname is None:
        return
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 443), _SHAKE_S) as plain,
            tls.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return
    except ssl.SSLCertVerificationError as error:
        raise Untrusted(url, error.verify_message) from None
    except OSError:
        return


class _Locked(Exception):
    """The private key is encrypted."""


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise _Locked


def _check_dates(cert: Path, clock: Clock) -> None:
    data = _read(cert, "--tls-cert")
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise UsageError(f"--tls-cert: {cert} is no PEM file of certificates") from None
    now = dt.datetime.fromtimestamp(clock.wall_ms() / 1000, dt.UTC)
    for each in found:
        if now >= each.not_valid_after_utc:
            raise UsageError(
                f"--tls-cert: {cert} expired on {each.not_valid_after_utc:%Y-%m-%d}: renew it"
            )
    if now < found[0].not_valid_before_utc:
        raise UsageError(
            f"--tls-cert: {cert} is valid from {found[0].not_valid_before_utc:%Y-%m-%d} only: "
            "check the clock of this machine"
        )


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{flag}: {path} cannot be read: {error.strerror}") from None
