"""Listening sockets: busy ports, wrong addresses, and how addresses are written."""

import socket
from contextlib import closing

import pytest

from pipeline.errors import UsageError
from services import sockets
from services.app import open_doors
from services.settings import Settings
from services.sockets import address, listen


def test_a_free_port_is_taken() -> None:
    with closing(listen("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        assert address(bound) == f"localhost:{port}"
        with closing(socket.create_connection(("127.0.0.1", port))):
            pass


def test_a_busy_port_gives_way_to_the_next() -> None:
    with closing(listen("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with closing(listen("127.0.0.1", port)) as second:
            assert port < second.getsockname()[1] < port + sockets.TRIES


def test_ports_that_are_all_busy_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "TRIES", 1)
    with closing(listen("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(UsageError, match=rf"{port} to {port} .* in use: choose another"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "2001:db8::1"])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on {host}:0"):
        listen(host, 0)


def test_open_addresses_are_written_as_they_are() -> None:
    with closing(listen("0.0.0.0", 0)) as bound:
        assert address(bound) == f"0.0.0.0:{bound.getsockname()[1]}"


def test_a_door_that_moved_is_told() -> None:
    with closing(listen("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(http_port=port, ws_port=0)
        doors = open_doors(settings)
        try:
            (sentence,) = doors.moved(settings)
            now = doors.http.getsockname()[1]
            assert sentence == f"port {port} is in use; listening on {now} instead"
        finally:
            doors.close()


def test_no_door_stays_open_when_the_other_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "TRIES", 1)
    with closing(listen("127.0.0.1", 0)) as taken, closing(listen("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        with pytest.raises(UsageError):
            open_doors(Settings(http_port=port, ws_port=taken.getsockname()[1]))
        listen("127.0.0.1", port).close()
