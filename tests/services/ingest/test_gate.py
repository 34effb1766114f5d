"""The first look at a datagram: who may send what, and how much of it."""

import random
import struct

import pytest
from aioice import Connection
from aioice.ice import StunProtocol
from aioice.stun import Class, Message, Method

from services.ingest.gate import MAX_REMOTES, STUN_PER_S, Gate, Rate
from tests.services.ingest.support import ManualClock

PEER = ("127.0.0.1", 5000)
OTHER = ("127.0.0.1", 5001)


class Link:
    """Takes what a protocol sends."""

    def __init__(self):
        self.sent = []

    def sendto(self, data, addr):
        self.sent.append((data, addr))


class Door:
    """A protocol of a real connection behind a gate."""

    def __init__(self, rate=None):
        self.clock = ManualClock()
        self.gate = Gate(self.clock.monotonic_s, rate)
        self.connection = Connection(ice_controlling=False)
        self.connection.remote_username, self.connection.remote_password = "them", "p" * 22
        self.protocol = StunProtocol(self.connection)
        self.protocol.transport = Link()
        self.protocol.local_candidate = type("Local", (), {"component": 1})
        self.gate.stand_before(self.protocol, self.connection)

    def arrives(self, data, addr=PEER):
        self.protocol.datagram_received(data, addr)

    def proves(self, addr=PEER):
        self.arrives(self.check(), addr)

    def check(self, *, username=None, password=None):
        message = Message(message_method=Method.BINDING, message_class=Class.REQUEST)
        message.attributes["USERNAME"] = username or f"{self.connection.local_username}:them"
        message.attributes["PRIORITY"] = 1
        message.add_message_integrity((password or self.connection.local_password).encode())
        return bytes(message)

    @property
    def passed(self):
        return self.connection._queue.qsize()

    @property
    def dropped(self):
        return dict(self.gate.dropped)


@pytest.fixture
async def door():
    return Door()


async def test_media_passes_only_from_an_address_that_proved_itself(door):
    door.arrives(b"\x80media")
    assert (door.passed, door.dropped) == (0, {"stranger": 1})
    door.proves()
    door.arrives(b"\x80media")
    door.arrives(b"\x80media", OTHER)
    door.arrives(b"\x80media", ("127.0.0.2", PEER[1]))
    assert (door.passed, door.dropped) == (1, {"stranger": 3})
    assert door.gate.remotes == {PEER}


async def test_a_check_with_the_wrong_password_proves_nothing(door):
    door.arrives(door.check(password="x" * 22))
    assert len(door.protocol.transport.sent) == 1  # 401
    assert door.gate.remotes == set()


async def test_addresses_of_version_6_come_with_more_than_a_port(door):
    door.arrives(door.check(), ("::1", 5000, 0, 0))
    door.arrives(b"\x80media", ("::1", 5000, 7, 9))
    assert door.passed == 1


@pytest.mark.parametrize("first", range(256))
async def test_only_dtls_and_srtp_are_passed_on(first):
    door = Door()
    door.proves()
    door.arrives(bytes([first]) + b"x" * 30)
    assert door.passed == (20 <= first < 64 or 128 <= first < 192)


async def test_a_datagram_of_no_bytes_is_dropped(door):
    door.proves()
    door.arrives(b"")
    assert (door.passed, door.dropped) == (0, {"empty": 1})


async def test_packets_and_bytes_a_second_are_bounded():
    door = Door(Rate(packets_per_s=100, kbits_per_s=80))
    door.proves()
    for _ in range(300):
        door.arrives(b"\x80" + bytes(9))
    assert (door.passed, door.dropped) == (100, {"too_fast": 200})
    door.clock.now_s += 1
    for _ in range(100):
        door.arrives(b"\x80" + bytes(999))
    assert door.passed == 110
    door.clock.now_s += 0.5
    door.arrives(b"\x80" + bytes(999))
    assert door.passed == 111


async def test_somebody_elses_flood_takes_nothing_from_the_publishers_share():
    door = Door(Rate(packets_per_s=100, kbits_per_s=80))
    door.proves()
    for _ in range(1000):
        door.arrives(b"\x80media", OTHER)
    door.arrives(b"\x80media")
    assert door.passed == 1


async def test_stun_that_is_none_of_ours_is_not_parsed(door):
    stranger = door.check(username="else:them")
    answer = Message(message_method=Method.BINDING, message_class=Class.RESPONSE)
    indication = Message(message_method=Method.BINDING, message_class=Class.INDICATION)
    for data in (stranger, bytes(answer), bytes(indication), b"\x00", b"\x01\x01" + bytes(30)):
        door.arrives(data)
    assert door.protocol.transport.sent == []
    assert door.dropped == {"strange_stun": 5}


async def test_an_answer_that_is_waited_for_passes(door):
    heard = []
    answer = Message(message_method=Method.BINDING, message_class=Class.RESPONSE)
    waiting = type("Waiting", (), {"response_received": lambda _, *given: heard.append(given)})
    door.protocol.transactions[answer.transaction_id] = waiting()
    door.arrives(bytes(answer))
    assert len(heard) == 1


async def test_checks_are_bounded_in_pace_and_in_addresses(door):
    for number in range(MAX_REMOTES + 5):
        door.proves(("127.0.0.1", 6000 + number))
    assert len(door.gate.remotes) == MAX_REMOTES
    assert door.dropped == {"too_many_addresses": 5}
    for _ in range(3 * STUN_PER_S):
        door.proves(("127.0.0.1", 6000))
    assert door.dropped["too_much_stun"] == MAX_REMOTES + STUN_PER_S
    door.clock.now_s += 1
    sent = len(door.protocol.transport.sent)
    door.proves(("127.0.0.1", 6001))
    assert len(door.protocol.transport.sent) == sent + 1


async def test_nothing_that_a_stranger_sends_raises():
    chance = random.Random(7)
    door = Door()
    door.proves()
    ours = f"{door.connection.local_username}:".encode()
    for number in range(4000):
        door.clock.now_s += 0.02
        data = bytearray(door.check() if number % 2 else chance.randbytes(chance.randint(1, 90)))
        for _ in range(chance.randint(0, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if number % 3 == 0:
            data[:1] = struct.pack("!H", chance.choice([1, 0x101, 0x111])) + ours
        door.arrives(bytes(data), chance.choice([PEER, OTHER]))
    assert door.gate.dropped["bad_stun"] > 20
    assert door.gate.dropped["strange_stun"] > 500


async def test_an_authenticated_check_that_lacks_an_attribute_raises_nothing(door):
    door.connection._early_checks_done = True
    message = Message(message_method=Method.BINDING, message_class=Class.REQUEST)
    message.attributes["USERNAME"] = f"{door.connection.local_username}:them"
    message.add_message_integrity(door.connection.local_password.encode())
    door.arrives(bytes(message))
    assert door.dropped == {"bad_stun": 1}
