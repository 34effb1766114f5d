"""The dependencies still have what ingest leans on; an upgrade that takes it away fails here."""

import aiortc.rtcrtpreceiver
import pytest
from aioice import Connection

from services.ingest import hooks


async def test_every_private_name_is_there():
    assert hooks.missing() == []


async def test_a_changed_signature_is_named(monkeypatch):
    async def changed(self, component, addresses):
        raise AssertionError

    monkeypatch.setitem(
        hooks._SIGNATURES,
        "aioice.Connection.get_component_candidates",
        (changed, hooks._SIGNATURES["aioice.Connection.get_component_candidates"][1]),
    )
    (sentence,) = hooks.missing()
    assert "get_component_candidates" in sentence
    assert "timeout" in sentence


async def test_a_missing_field_is_named(monkeypatch):
    monkeypatch.setattr(hooks, "DECODER_QUEUE", "_RTCRtpReceiver__gone")
    assert hooks.missing() == ["RTCRtpReceiver has no field _RTCRtpReceiver__gone"]


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
