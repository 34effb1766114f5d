"""By which addresses people reach the doors."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from services.addresses import Addresses
from services.settings import Settings
from services.sockets import listen


def of(host: str = "127.0.0.1", *, secure: bool = False, **settings: str) -> Addresses:
    with closing(listen(host, 0)) as http, closing(listen(host, 0)) as events:
        found = Addresses.of(Settings(**settings), http, events, secure=secure)
        ports = (str(http.getsockname()[1]), str(events.getsockname()[1]))
    return Addresses(
        found.http.replace(ports[0], "HTTP"), found.events.replace(ports[1], "WS"), found.public
    )


@pytest.mark.parametrize(
    ("given", "http", "events"),
    [
        ({}, "http://localhost:HTTP", "ws://localhost:WS/v1/events"),
        ({"secure": True}, "https://localhost:HTTP", "wss://localhost:WS/v1/events"),
        (
            {"public_url": "https://calls.example"},
            "https://calls.example",
            "wss://calls.example/v1/events",
        ),
        (
            {"public_url": "http://10.0.0.7:81", "secure": True},
            "http://10.0.0.7:81",
            "ws://10.0.0.7:81/v1/events",
        ),
    ],
)
def test_addresses(given: dict, http: str, events: str) -> None:
    found = of(**given)
    assert (found.http, found.events) == (http, events)
    assert found.public is ("public_url" in given)
    assert found.events_for("other.example") == events


@pytest.fixture
def everywhere() -> Iterator[Addresses]:
    with closing(listen("0.0.0.0", 0)) as http, closing(listen("0.0.0.0", 0)) as events:
        yield Addresses.of(Settings(), http, events, secure=True)


@pytest.mark.parametrize(
    ("asked", "named"), [("192.0.2.7", "192.0.2.7"), ("::1", "[::1]"), ("calls", "calls")]
)
def test_a_door_to_all_addresses_has_the_name_by_which_it_was_asked(
    everywhere: Addresses, asked: str, named: str
) -> None:
    assert everywhere.events_for(asked) == everywhere.events.replace("0.0.0.0", named)
    assert everywhere.events_for(None) == everywhere.events
