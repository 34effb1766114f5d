"""By which addresses people reach the doors: our own, or those of a proxy in front of them."""

import socket
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from services.settings import Settings
from services.sockets import address

EVENTS_PATH: Final = "/v1/events"
_ANY: Final = ("0.0.0.0", "[::]")  # noqa: S104 - compared with, never bound to


@dataclass(frozen=True, slots=True)
class Addresses:
    """Base addresses without a stroke at the end."""

    http: str
    """Pages, WHIP and REST."""
    events: str
    """The event socket."""
    public: bool = False
    """They are those of a proxy (setting ``public_url``)."""

    @classmethod
    def of(
        cls, settings: Settings, http: socket.socket, events: socket.socket, *, secure: bool
    ) -> Self:
        """Return the addresses of two listening sockets."""
        if settings.public_url is not None:
            return cls(settings.public_url, _socket_url(settings.public_url), public=True)
        letter = "s" if secure else ""
        return cls(
            f"http{letter}://{address(http)}", f"ws{letter}://{address(events)}{EVENTS_PATH}"
        )

    def events_for(self, host: str | None) -> str:
        """Return the event socket for who asked by the name ``host``.

        A socket that is bound to every address has no name of its own.
        """
        for wildcard in _ANY:
            if host and f"://{wildcard}:" in self.events:
                name = f"[{host}]" if ":" in host else host
                return self.events.replace(f"://{wildcard}:", f"://{name}:", 1)
        return self.events


def _socket_url(url: str) -> str:
    """Return the event socket behind the same proxy."""
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return f"{scheme}://{parts.netloc}{EVENTS_PATH}"
