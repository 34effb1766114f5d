"""Listening sockets: a busy port gives way to the next free one, and that is said."""

import errno
import socket
from contextlib import ExitStack

from pipeline.errors import UsageError

TRIES = 20
_BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket on ``host``, at ``port`` or the next free one; 0 is any.

    Raises :class:`~pipeline.errors.UsageError` for an address this machine does not have and when
    :data:`TRIES` ports in a row are taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(port, port + TRIES) if port else (0,):
        with ExitStack() as undo:
            bound = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind((host, number))
                bound.listen(_BACKLOG)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                reason = error.strerror or str(error)
                raise UsageError(f"cannot listen on {host}:{number}: {reason}") from None
            undo.pop_all()
            bound.setblocking(False)
            return bound
    raise UsageError(
        f"ports {port} to {port + TRIES - 1} on {host} are all in use: choose another one"
    )


def address(bound: socket.socket) -> str:
    """Return ``HOST:PORT`` as it stands in a URL; loopback is called localhost."""
    host, port = bound.getsockname()[:2]
    if host in {"127.0.0.1", "::1"}:
        return f"localhost:{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
