"""Logs tell types and places, never what a person sent."""

import asyncio
import gc
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from services.telemetry import configure

SECRET = "canary-7f3a"


@pytest.fixture
def logs(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level
    yield capsys
    structlog.reset_defaults()
    root.handlers[:] = kept
    root.setLevel(level)


def fail(secret: str) -> None:
    try:
        raise KeyError(secret)
    except KeyError as error:
        raise ValueError(secret) from error


def lines(logs: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in logs.readouterr().err.splitlines()]


def test_an_exception_is_told_without_its_words(logs: pytest.CaptureFixture[str]) -> None:
    configure("info")
    try:
        fail(SECRET)
    except ValueError:
        structlog.get_logger("here").exception("it failed", request_id="req_1")
        logging.getLogger("aiohttp.server").exception("handling %s", "a request")
    told = lines(logs)
    assert [line["event"] for line in told] == ["it failed", "handling a request"]
    for line in told:
        assert "ValueError at test_telemetry.py:" in line["exception"]
        assert "from KeyError at test_telemetry.py:" in line["exception"]
        assert SECRET not in json.dumps(line)
    assert told[0]["request_id"] == "req_1"


def test_the_members_of_a_group_are_told(logs: pytest.CaptureFixture[str]) -> None:
    configure("info")
    try:
        raise ExceptionGroup(SECRET, [OSError(SECRET), ValueError(SECRET)])
    except ExceptionGroup:
        structlog.get_logger("here").exception("several failed")
    (line,) = lines(logs)
    assert "ExceptionGroup at" in line["exception"]
    assert "(OSError at nowhere, ValueError at nowhere)" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_a_task_nobody_awaited_is_told_without_its_words(
    logs: pytest.CaptureFixture[str],
) -> None:
    configure("info")

    async def forget() -> None:
        async def failing() -> None:
            fail(SECRET)

        task = asyncio.create_task(failing())
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(forget())
    (line,) = lines(logs)
    assert line["event"] == "Task exception was never retrieved"
    assert SECRET not in json.dumps(line)


def test_debug_tells_everything(logs: pytest.CaptureFixture[str]) -> None:
    configure("debug")
    try:
        fail(SECRET)
    except ValueError:
        structlog.get_logger("here").exception("it failed")
    (line,) = lines(logs)
    assert f"ValueError: {SECRET}" in line["exception"]


@pytest.mark.parametrize(("level", "told"), [("error", 1), ("warning", 2), ("info", 3)])
def test_the_level_is_kept(logs: pytest.CaptureFixture[str], level, told: int) -> None:
    configure(level)
    log = structlog.get_logger("here")
    for say in (log.debug, log.info, log.warning, log.error):
        say("said")
    assert len(lines(logs)) == told


def test_libraries_speak_from_warnings_up(logs: pytest.CaptureFixture[str]) -> None:
    configure("info")
    logging.getLogger("aiortc.rtp").info("chatter")
    logging.getLogger("aiortc.rtp").warning("trouble")
    assert [line["event"] for line in lines(logs)] == ["trouble"]
