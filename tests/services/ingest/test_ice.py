"""Addresses and ports on offer, and a receive queue with a bound."""

import asyncio
import socket
import time
from collections import Counter

import pytest
from aioice import Connection

from services.ingest.gate import Gate
from services.ingest.ice import (
    RECEIVE_PACKETS,
    Buffers,
    Gathering,
    NoPort,
    Ports,
    ReceiveQueue,
    offered_addresses,
)


def test_ports_are_taken_in_turn_and_come_back():
    ports = Ports(41300, 41302)
    first, second, third = (ports.bind("127.0.0.1") for _ in range(3))
    assert [s.getsockname()[1] for s in (first, second, third)] == [41300, 41301, 41302]
    with pytest.raises(NoPort, match=r"41300-41302 on 127\.0\.0\.1"):
        ports.bind("127.0.0.1")
    second.close()
    again = ports.bind("127.0.0.1")
    assert again.getsockname()[1] == 41301
    for taken in (first, third, again):
        taken.close()


def test_a_port_that_somebody_else_holds_is_passed_over():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 41310))
        with Ports(41310, 41311).bind("127.0.0.1") as bound:
            assert bound.getsockname()[1] == 41311


def test_an_address_of_another_machine_is_an_error():
    with pytest.raises(OSError, match="assign"):
        Ports(41320, 41321).bind("192.0.2.7")


@pytest.mark.parametrize(
    ("configured", "host", "offered"),
    [
        ((), "127.0.0.1", ("127.0.0.1",)),
        ((), "localhost", ("127.0.0.1",)),
        ((), "::1", ("::1",)),
        (("10.0.0.7",), "127.0.0.1", ("10.0.0.7",)),
        (("10.0.0.7", "fd00::1"), "0.0.0.0", ("10.0.0.7", "fd00::1")),
    ],
)
def test_what_is_offered(configured, host, offered):
    assert offered_addresses(configured, host) == offered


def test_an_open_server_offers_its_interfaces_but_not_loopback():
    assert "127.0.0.1" not in offered_addresses((), "0.0.0.0")


async def test_gathering_uses_our_addresses_and_ports_only():
    connection = Connection(ice_controlling=False)
    gathering = Gathering(Ports(41330, 41339), ("127.0.0.1", "127.0.0.2"), Gate(time.monotonic))
    gathering.install(connection)
    await connection.gather_candidates()
    try:
        found = [(c.host, c.port, c.type) for c in connection.local_candidates]
        assert found == [("127.0.0.1", 41330, "host"), ("127.0.0.2", 41331, "host")]
    finally:
        await connection.close()
    with Ports(41330, 41330).bind("127.0.0.1"):
        pass


async def test_gathering_passes_over_an_address_that_is_not_ours_unless_it_is_the_last():
    connection = Connection(ice_controlling=False)
    Gathering(Ports(41340, 41349), ("192.0.2.7", "127.0.0.1"), Gate(time.monotonic)).install(
        connection
    )
    await connection.gather_candidates()
    assert [c.host for c in connection.local_candidates] == ["127.0.0.1"]
    await connection.close()

    connection = Connection(ice_controlling=False)
    Gathering(Ports(41340, 41349), ("192.0.2.7",), Gate(time.monotonic)).install(connection)
    with pytest.raises(NoPort, match="assign"):
        await connection.gather_candidates()
    await connection.close()


async def test_a_stun_server_that_does_not_answer_costs_two_seconds_at_most(monkeypatch):
    monkeypatch.setattr("services.ingest.ice.GATHER_S", 0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        connection = Connection(ice_controlling=False, stun_server=silent.getsockname())
        Gathering(Ports(41350, 41359), ("127.0.0.1",), Gate(time.monotonic)).install(connection)
        await connection.gather_candidates()
        assert [c.type for c in connection.local_candidates] == ["host"]
        await connection.close()


async def test_a_publisher_that_answers_no_consent_checks_is_kept(monkeypatch):
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.001)
    monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 1)
    monkeypatch.setattr("aioice.stun.RETRY_RTO", 0.001)
    ours = Connection(ice_controlling=False)
    Gathering(Ports(41360, 41369), ("127.0.0.1",), Gate(time.monotonic)).install(ours)
    theirs = Connection(ice_controlling=True)
    Gathering(Ports(41370, 41379), ("127.0.0.1",), Gate(time.monotonic)).install(theirs)
    for one, other in ((ours, theirs), (theirs, ours)):
        await one.gather_candidates()
        other.remote_username, other.remote_password = one.local_username, one.local_password
    for one, other in ((ours, theirs), (theirs, ours)):
        for candidate in one.local_candidates:
            await other.add_remote_candidate(candidate)
        await other.add_remote_candidate(None)
    await asyncio.gather(ours.connect(), theirs.connect())
    theirs.request_received = lambda message, addr, protocol: None
    for number in range(50):
        await theirs.send(b"%d" % number)
        assert await ours.recv() == b"%d" % number
        await asyncio.sleep(0.001)
    await theirs.close()
    await ours.close()


async def test_the_receive_queue_drops_the_newest_and_never_the_end():
    dropped = Counter()
    queue = ReceiveQueue(dropped)
    for number in range(RECEIVE_PACKETS + 5):
        queue.put_nowait((b"%d" % number, 1))
    queue.put_nowait(None)
    assert (queue.qsize(), dropped["full"]) == (RECEIVE_PACKETS + 1, 5)
    assert queue.get_nowait() == (b"0", 1)


async def test_what_the_kernel_drops_is_counted_and_stays_counted():
    buffers = Buffers()
    bound = Ports(41380, 41389).bind("127.0.0.1")
    buffers.add(bound)
    assert (buffers.waiting_bytes, buffers.dropped) == (0, {"full": 0})
    granted = bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(2 * granted // 1400):
            sender.sendto(bytes(1400), bound.getsockname())
    dropped = buffers.dropped["full"]
    assert dropped > 0
    assert 0 < buffers.waiting_bytes <= 2 * granted
    bound.close()
    assert (buffers.waiting_bytes, buffers.dropped) == (0, {"full": dropped})
