"""The dependencies still have what ingest leans on; an upgrade that takes it away fails here."""

import re
from pathlib import Path

import aiortc.rtcrtpreceiver
import av
import pytest
from aioice import Connection

from services.ingest import hooks


async def test_every_private_name_is_there():
    assert hooks.missing() == []


@pytest.mark.parametrize("name", hooks._SIGNATURES)
async def test_a_changed_signature_is_named(monkeypatch, name):
    def changed(self, something_else):
        raise AssertionError

    expected = hooks._SIGNATURES[name][1]
    monkeypatch.setitem(hooks._SIGNATURES, name, (changed, expected))
    (sentence,) = hooks.missing()
    assert sentence.startswith(f"{name} takes ('self', 'something_else'), not")
    assert all(f"'{part}'" in sentence for part in expected)


@pytest.mark.parametrize("field", ["DECODER_QUEUE", "DECODER_ERROR", "JITTER_BUFFER"])
async def test_a_missing_field_is_named(monkeypatch, field):
    monkeypatch.setattr(hooks, field, "_RTCRtpReceiver__gone")
    assert hooks.missing() == ["RTCRtpReceiver has no field _RTCRtpReceiver__gone"]


async def test_packets_without_their_depacketised_data_are_named(monkeypatch):
    async def changed(self, packet, arrival_time_ms):
        raise AssertionError

    monkeypatch.setattr(hooks.RTCRtpReceiver, "_handle_rtp_packet", changed)
    assert hooks.missing() == ["RTCRtpReceiver._handle_rtp_packet sets no _data on a packet"]


async def test_a_list_of_missing_packets_that_is_gone_is_named(monkeypatch):
    monkeypatch.setattr(hooks, "NACK_GENERATOR", "_RTCRtpReceiver__gone")
    assert hooks.missing()[0] == "RTCRtpReceiver has no field _RTCRtpReceiver__gone"


@pytest.mark.parametrize("name", hooks._CONNECTION)
async def test_a_missing_field_of_ice_is_named(monkeypatch, name):
    monkeypatch.setattr(hooks, "_CONNECTION", (*hooks._CONNECTION, f"{name}_gone"))
    assert hooks.missing() == [f"Connection has no field {name}_gone"]


def test_every_private_name_that_ingest_uses_stands_in_the_list():
    """A name of theirs is known by the lint mark that a private name outside its class needs."""
    listed = Path(hooks.__file__).read_text()
    used = set()
    for file in Path(hooks.__file__).parent.rglob("*.py"):
        for line in file.read_text().splitlines():
            if "SLF001" in line or "# type: ignore[attr-defined]" in line:
                used |= {(file.name, name) for name in re.findall(r"(?<!self)\.(_[a-z]\w*)", line)}
            used |= {(file.name, name) for name in re.findall(r'setattr\(\w+, "(\w+)"', line)}
    assert len(used) > 10
    assert not {(file, name) for file, name in used if name not in listed}


def test_only_an_operators_own_address_is_opened_by_ffmpeg():
    """``av.open`` takes URLs of any kind: a string of a remote peer must never reach it."""
    services = Path(hooks.__file__).parents[1]
    opening = {
        str(file.relative_to(services))
        for file in services.rglob("*.py")
        if re.search(r"\bav\.open\(|\bfrom av\b.*\bopen\b", file.read_text())
    }
    assert opening == {
        "ingest/source.py",  # `run --source`, `push` and `evaluate`: the operator's own files
        "ingest/prepared.py",  # `push`: writes to a buffer in memory
        "ingest/publisher.py",  # `push`: sends that buffer to the operator's address
    }


def test_the_codecs_come_with_ffmpeg_8_1_2_or_later():
    """No check at start-up is needed: the wheel that holds FFmpeg is locked by its hash."""
    version = tuple(int(part) for part in av.ffmpeg_version_info.lstrip("n").split(".")[:3])
    assert version >= (8, 1, 2)
    for lock in Path(hooks.__file__).parents[2].joinpath("deploy/locks").glob("*.txt"):
        assert re.search(r"^av==18\.1\.\d+ \\\n +--hash=sha256:", lock.read_text(), re.MULTILINE)


def test_the_decoder_thread_ends_at_an_empty_hand(monkeypatch):
    from services.ingest.peer import _NoDecoder

    told = []
    monkeypatch.setattr(
        aiortc.rtcrtpreceiver.asyncio,
        "run_coroutine_threadsafe",
        lambda coroutine, loop: told.append((coroutine.close(), loop)),
    )

    class Output:
        async def put(self, item):
            pass

    aiortc.rtcrtpreceiver.decoder_worker("loop", _NoDecoder(), Output(), None)
    assert told == [(None, "loop")]


@pytest.mark.parametrize("name", ["gather_candidates", "connect", "close"])
def test_public_names_of_aioice(name):
    assert callable(getattr(Connection, name))
