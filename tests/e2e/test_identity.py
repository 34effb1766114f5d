"""A server as others reach it: TLS of its own, signed tokens, and a token that shows up nowhere."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli.app import app
from services.tls import client_context
from tests.e2e.harness import ROOT, environment, launch, until
from tests.services.certificates import Authority
from tests.services.identity.tokens import CONSENT
from tests.tools.clips import make_clip


class House:
    """A server with TLS and keys, and the files that its users have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.clip = make_clip(folder / "clip.mkv", seconds=3, size=(320, 240), audio="flac")
        cert, key = self.authority.server()
        self.keys = folder / "keys"
        self.run("token", "keys", self.keys)
        self.server = launch(
            folder,
            *("--token-keys", str(self.keys / "jwks.json")),
            *("--tls-cert", str(cert), "--tls-key", str(key)),
        )
        self.tls = client_context(self.authority.ca)

    def run(self, *arguments: object) -> Result:
        """Run the command in this process: a dozen starts of Python would take half a minute."""
        result = CliRunner().invoke(app, [*map(str, arguments)], env={"DEMEANOR_TOKEN": None})
        assert "Traceback" not in result.output
        return result

    def token(self, name: str, *more: str) -> Path:
        """Issue a token into a file."""
        made = self.run("token", "issue", "--keys", self.keys, "--tenant", "acme", *more)
        assert made.exit_code == 0, made.stderr
        path = self.folder / f"{name}.jwt"
        path.write_text(made.stdout)
        return path

    def get(self, path: str, token: Path | None = None, **options: str) -> tuple[int, str]:
        request = urllib.request.Request(self.server.http + path, **options)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token.read_text().strip()}")
        try:
            with urllib.request.urlopen(request, timeout=20, context=self.tls) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    @property
    def log(self) -> str:
        return (self.server.runtime / "server.log").read_text()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    running = House(tmp_path_factory.mktemp("house"))
    yield running
    assert running.server.stop() == 0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "services.cli", *arguments]


def processes() -> str:
    """Return every command line but our own."""
    seen = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                seen.append((folder / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(seen)


def test_a_call_over_tls_with_tokens_that_show_up_nowhere(house: House) -> None:
    assert house.server.http.startswith("https://localhost:")
    assert house.server.events.startswith("wss://localhost:")
    consent = f"{CONSENT['notice_version']}:{CONSENT['notice_sha256']}"
    publisher = house.token(
        "publisher", "--scope", "ingest:call1", "--role", "customer", "--consent", consent
    )
    reader = house.token("reader", "--scope", "read:*")
    ca, whip = str(house.authority.ca), house.server.whip("call1")
    watching = subprocess.Popen(
        command("watch", house.server.events, "--json", "--token-file", str(reader), "--ca", ca),
        cwd=ROOT,
        env=environment(house.folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    pushing = subprocess.Popen(
        command("push", str(house.clip), "--ca", ca, "--to", whip),
        cwd=ROOT,
        env={**environment(house.folder), "DEMEANOR_TOKEN": publisher.read_text().strip()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    secrets = [path.read_text().strip() for path in (publisher, reader)]
    shown = ""
    until(lambda: "services.ingest.publisher" in processes(), seconds=60)
    for _ in range(20):
        shown += processes()
        time.sleep(0.05)
    said, errors = pushing.communicate(timeout=100)
    assert pushing.returncode == 0, errors
    assert "1 session ended (DELETE)" in said
    assert watching.stdout is not None
    events = []
    for line in watching.stdout:
        events.append(json.loads(line))
        if events[-1]["type"] == "session.ended":
            break
    watching.terminate()
    assert watching.wait(timeout=20) is not None
    watching.stdout.close()
    kinds = [event["type"] for event in events]
    assert kinds[0] == "session.started"
    assert any(kind.startswith("window.") for kind in kinds)
    metrics = house.get("/metrics", house.token("admin", "--scope", "admin"))[1]
    everything = shown + said + errors + house.log + metrics
    for secret in secrets:
        assert secret not in everything
        assert secret.rpartition(".")[2] not in everything
    assert "demeanor_identity_accepted_tokens_total" in metrics


def test_wrong_tokens_are_told_what_to_do(house: House) -> None:
    ca = ("--ca", str(house.authority.ca))
    whip = house.server.whip("call1")
    reader = house.token("reader", "--scope", "read:*")
    garbage = house.folder / "garbage.jwt"
    garbage.write_text("garbage")
    for token, words in ((reader, "(403): this token may not publish 'call1'"), (garbage, "(401)")):
        result = house.run("push", house.clip, "--to", whip, "--token-file", token, *ca)
        assert result.exit_code == 1
        assert words in result.stderr
        assert token.read_text().strip() not in result.stdout + result.stderr + house.log
    result = house.run("watch", house.server.events, "--token-file", garbage, *ca)
    assert result.exit_code == 1
    assert "(4401)" in result.stderr
    for verb in (
        ("push", house.clip, "--to", whip),
        ("watch", house.server.events),
        ("token", "revoke", "x", "--to", house.server.http),
    ):
        result = house.run(*verb, "--token-file", reader)
        assert result.exit_code == 1
        assert "is not trusted" in result.stderr
        assert "--ca FILE" in result.stderr
    missing = house.run("watch", house.server.events, "--token-file", "none.jwt", *ca)
    assert (missing.exit_code, "none.jwt cannot be read" in missing.stderr) == (2, True)


def test_a_revoked_token_and_a_dropped_key_stop_working(house: House) -> None:
    ca = ("--ca", str(house.authority.ca))
    admin = house.token("admin", "--scope", "admin")
    reader = house.token("reader", "--scope", "read:*")
    shown = house.run("token", "show", "--token-file", reader)
    token_id = json.loads(shown.stdout)["claims"]["jti"]
    assert house.get("/v1/sessions", reader)[0] == 200
    to = ("--to", house.server.http)
    refused = house.run("token", "revoke", token_id, *to, "--token-file", reader, *ca)
    assert refused.exit_code == 1
    assert "(403)" in refused.stderr
    assert "'admin'" in refused.stderr
    done = house.run("token", "revoke", token_id, *to, "--token-file", admin, *ca)
    assert done.exit_code == 0, done.stderr
    status, body = house.get("/v1/sessions", reader)
    assert (status, "revoked" in body) == (401, True)
    (old,) = house.keys.glob("*.pem")
    assert house.run("token", "keys", house.keys, "--add").exit_code == 0
    assert house.run("token", "keys", house.keys, "--drop", old.stem).exit_code == 0
    until(lambda: house.get("/v1/sessions", admin)[0] == 401)
    fresh = house.token("fresh", "--scope", "read:*")
    assert house.get("/v1/sessions", fresh)[0] == 200


def test_tls_speaks_nothing_old_and_nothing_plain(house: House) -> None:
    port = int(house.server.http.rpartition(":")[2])
    for number in (port, int(house.server.events.split(":")[2].partition("/")[0])):
        with socket.create_connection(("127.0.0.1", number), 20) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert not plain.recv(64).startswith(b"HTTP/1.1 200")
        with (
            socket.create_connection(("127.0.0.1", number), 20) as plain,
            house.tls.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            assert secure.version() in {"TLSv1.2", "TLSv1.3"}
        with (
            socket.create_connection(("127.0.0.1", number), 20) as plain,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            client_context(None).wrap_socket(plain, server_hostname="localhost")
