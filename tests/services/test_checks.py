"""What doctor finds, by real faults."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from services.checks import Finding, run_all
from services.settings import Settings

NAMES = ["python", "media", "webrtc", "udp", "runtime", "model", "bus", "limits", "policy"]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


async def findings(*, redact: bool = False, **settings) -> dict[str, Finding]:
    made = Settings(**({"udp_ports": (41200, 41299)} | settings))
    return {finding.name: finding for finding in await run_all(made, redact=redact)}


async def test_all_is_well_here() -> None:
    found = await findings(redis_url="memory://")
    assert list(found) == NAMES
    assert {finding.status for finding in found.values()} == {"ok"}, found
    assert not [finding for finding in found.values() if finding.fix]
    assert "golden check passed" in found["model"].text
    assert "127.0.0.1" in found["udp"].text


async def test_redacted_says_nothing_of_the_machine() -> None:
    found = await findings(redact=True, redis_url="redis://:secret@127.0.0.1:1/0")
    assert found["bus"].status == "error"
    for name in ("udp", "bus"):
        assert found[name].text == "(left out)"
    assert "secret" not in str(found)


async def test_a_redis_that_is_away() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    bus = (await findings(redis_url=f"redis://:secret@127.0.0.1:{port}"))["bus"]
    assert bus.status == "error"
    assert "DEMEANOR_REDIS_URL" in bus.text
    assert "secret" not in bus.text


async def test_a_damaged_model(tmp_path: Path) -> None:
    file = tmp_path / "mine.onnx"
    file.write_bytes(b"no model")
    model = (await findings(redis_url="memory://", model=(file,)))["model"]
    assert model.status == "error"
    assert "mine.onnx" in model.text


async def test_a_device_that_is_not_there() -> None:
    model = (await findings(redis_url="memory://", device="cuda"))["model"]
    assert model.status == "error"
    assert "--device cpu" in model.text


@pytest.fixture
def taken() -> Iterator[tuple[int, int]]:
    """Two UDP ports in a row that somebody else has."""
    with ExitStack() as held:
        for first in range(42000, 42100, 2):
            with ExitStack() as attempt:
                for port in (first, first + 1):
                    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    attempt.enter_context(closing(bound))
                    bound.bind(("127.0.0.1", port))
                held.enter_context(attempt.pop_all())
                break
        yield first, first + 1


async def test_udp_ports_that_are_all_taken(taken: tuple[int, int]) -> None:
    found = await findings(redis_url="memory://", udp_ports=taken)
    assert found["udp"].status == "error"
    assert "0 of 2 ports free" in found["udp"].text
    assert "udp_ports" in (found["udp"].fix or "")
    assert found["webrtc"].status == "error"
    assert "UDP" in found["webrtc"].text


@pytest.mark.parametrize("role", ["agent", "king"])
async def test_a_role_that_may_not_be_scored(role: str) -> None:
    policy = (await findings(redis_url="memory://", score_roles=("self", role)))["policy"]
    assert policy.status == "error"
    assert f"'{role}'" in policy.text
    assert "score_roles" in policy.text


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (900, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
async def test_a_low_limit_of_open_files() -> None:
    limits = (await findings(redis_url="memory://"))["limits"]
    assert limits.status == "warning"
    assert limits.fix == "raise it: ulimit -n 4096"
