"""``up``: what it refuses before it listens, what it says, and how it ends."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.scorer import OrtScorer
from services.app import Ready, open_doors, serve
from services.auth import Guard
from services.bus.runtime import InstanceLock
from services.cli import up
from services.cli.app import app
from services.cli.exits import Exit
from services.settings import Settings
from tests.services.valkey import Valkey

ANY = ("--http-port=0", "--ws-port=0", "--udp-ports=41400-41499", "--no-open")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["up", *arguments])
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result


@pytest.fixture(scope="module")
def loaded() -> OrtScorer:
    return OrtScorer.open()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--config", "none.toml"], Exit.USAGE, "none.toml cannot be read"),
        (["--host", "192.0.2.1"], Exit.USAGE, "cannot listen on 192.0.2.1"),
        (["--host", ""], Exit.USAGE, "host must have"),
        (["--host", "0.0.0.0"], Exit.USAGE, "--host 0.0.0.0 demands --token-keys FILE"),
        (["--token-keys", "none.json"], Exit.USAGE, "--token-keys: none.json cannot be read"),
        (["--token-keys", "https://k.example/j"], Exit.USAGE, "--token-key-hosts k.example"),
        (["--tls-cert", "none.pem"], Exit.USAGE, "--tls-cert and --tls-key go together"),
        (["--tls-cert", "a.pem", "--tls-key", "a.key"], Exit.USAGE, "a.pem cannot be read"),
        (["--public-url", "https://a/b"], Exit.USAGE, "without a path"),
        (["--public-url", "https://a"], Exit.USAGE, "--public-url https://a demands --token-keys"),
        (["--device", "cuda"], Exit.MODEL_REFUSED, "--device cpu"),
        (["--model", "none.onnx"], Exit.MODEL_REFUSED, "none.onnx"),
        (["--score-roles", "king"], Exit.USAGE, "'king'"),
        (["--redis-url", "redis://127.0.0.1:1"], Exit.FAILED, "no Redis answers"),
        (["--redis-url", "http://127.0.0.1:1"], Exit.USAGE, "no address of a Redis server"),
        (["--redis-url", "redis://127.0.0.1:99999"], Exit.USAGE, "no address of a Redis server"),
        (["--redis-url", "redis://[::1"], Exit.USAGE, "no address of a Redis server"),
        (["--redis-url", "somewhere"], Exit.USAGE, "'somewhere' is no address of a Redis server"),
    ],
)
def test_what_it_refuses(arguments: list[str], code: Exit, words: str) -> None:
    result = invoke(*ANY, *arguments)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert result.stdout == ""


def test_a_wrong_password_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Valkey().start()) as server:
        scheme, _, rest = server.url.partition("://")
        url = f"{scheme}://:canary@{rest.rpartition('@')[2]}"
        monkeypatch.setenv("DEMEANOR_REDIS_URL", url)
        result = invoke(*ANY)
    assert result.exit_code == Exit.USAGE
    assert "refused the user or password" in result.stderr
    assert "canary" not in result.stderr


def test_a_password_in_a_flag_is_refused_and_not_repeated() -> None:
    result = invoke(*ANY, "--redis-url", "redis://me:canary@127.0.0.1:1")
    assert result.exit_code == Exit.USAGE
    assert "DEMEANOR_REDIS_PASSWORD_FILE" in result.stderr
    assert "canary" not in result.stderr


def test_a_second_instance_names_the_first(tmp_path: Path) -> None:
    with InstanceLock("8080-8081", note="http://127.0.0.1:8080"):
        result = invoke("--no-open")
    assert result.exit_code == Exit.ALREADY_RUNNING
    assert f"as process {os.getpid()} at http://127.0.0.1:8080" in result.stderr
    assert not list(tmp_path.glob("demeanor/bus-*"))


def ready(**changed) -> Ready:
    given = {
        "http": "http://localhost:8080",
        "events": "ws://localhost:8081/v1/events",
        "bus": "valkey 9.1 (embedded, private socket)",
        "policy": "eu-strict@c997fcbd: roles customer, self",
        "retention_s": 120,
        "audit": Path("/var/lib/demeanor/audit"),
        "guard": Guard(loopback_only=True),
        "streams": "up to 64 at once (not measured: demeanor calibrate)",
        "moved": (),
    }
    return Ready(**(given | changed))


def test_the_screen_says_what_is_on_and_how_to_turn_on_the_rest(loaded: OrtScorer) -> None:
    text = up.screen(Settings(), ready(model=loaded.loaded))
    assert "✔ model    demeanor-tiny" in text
    assert "own Redis   DEMEANOR_REDIS_URL=" in text
    assert "→ Open       http://localhost:8080" in text
    assert "Only this machine can connect" in text
    assert "!" not in text.replace("✔", "")


class AnyVerifier:
    """Stands for keys that were read; the screen asks only whether there are any."""

    def verify(self, token):
        raise AssertionError(token)

    def revoked(self, principal):
        return False


@pytest.mark.parametrize(
    ("settings", "loopback", "there", "missing"),
    [
        ({}, True, ["bearer token  dev\n", "tokens      demeanor token keys"], ["!", "tls"]),
        (
            {"token_keys": "k/jwks.json"},
            True,
            ["keys from k/jwks.json; 'dev' works on this machine", "token  dev, or demeanor token"],
            ["!", "○ off      tokens"],
        ),
        (
            {"token_keys": "k/jwks.json", "host": "0.0.0.0"},
            False,
            ["keys from k/jwks.json\n", "token  demeanor token issue", "! tokens travel in clear"],
            ["'dev'", "Only this machine"],
        ),
        (
            {"token_keys": "k", "host": "0.0.0.0", "tls_cert": "c.pem", "tls_key": "k.pem"},
            False,
            ["✔ tls      c.pem"],
            ["!", "k.pem"],
        ),
        (
            {"token_keys": "k", "public_url": "https://calls.example"},
            False,
            ["✔ proxy    clients come by https://calls.example"],
            ["!", "Only this machine"],
        ),
    ],
)
def test_the_screen_tells_which_tokens_work_and_what_is_in_clear(
    loaded: OrtScorer, settings: dict[str, str], loopback: bool, there: list, missing: list
) -> None:
    verifier = AnyVerifier() if "token_keys" in settings else None
    told = ready(model=loaded.loaded, guard=Guard(loopback, verifier))
    text = up.screen(Settings(**settings), told)
    assert [words for words in there if words not in text] == []
    assert [words for words in missing if words in text] == []


def test_the_screen_tells_which_port_gave_way(loaded: OrtScorer) -> None:
    told = ready(model=loaded.loaded, moved=("port 1 is in use",))
    text = up.screen(Settings(redis_url="redis://x"), told)
    assert "! port 1 is in use" in text
    assert "own Redis" not in text


@pytest.fixture
def served(loaded: OrtScorer) -> Callable[..., list[Ready]]:
    """Serve until a signal that comes when everything listens."""

    def run(number: signal.Signals, **settings) -> list[Ready]:
        told: list[Ready] = []
        made = Settings(http_port=0, ws_port=0, udp_ports=(41400, 41499), **settings)

        def on_ready(now: Ready) -> None:
            told.append(now)
            port = int(now.http.rpartition(":")[2])
            socket.create_connection(("127.0.0.1", port)).close()
            os.kill(os.getpid(), number)

        doors = open_doors(made)
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        try:
            asyncio.run(serve(made, doors, loaded, on_ready))
        finally:
            signal.signal(signal.SIGINT, before[0])
            signal.signal(signal.SIGTERM, before[1])
            doors.close()
        return told

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains(
    served: Callable[..., list[Ready]], number: signal.Signals, tmp_path: Path
) -> None:
    (told,) = served(number)
    assert "embedded" in told.bus
    line = json.loads(up._line(told))
    assert line == {"type": "ready", "http": told.http, "events": told.events, "bus": told.bus}
    assert not list(tmp_path.glob("demeanor/bus-*"))


def test_it_runs_without_any_server_program(served: Callable[..., list[Ready]]) -> None:
    (told,) = served(signal.SIGTERM, redis_url="memory://")
    assert told.bus == "memory (this process only)"
