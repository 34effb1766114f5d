"""Secrets, names and scores stay out of logs, metrics, refusals and the process list.

A real server on a real Redis with a password, a scored call, and bad input at every door; each
thing that must not be told carries a canary of its own. One server as it ships, one at ``debug``.
"""

import asyncio
import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from yarl import URL

from pipeline.spec import LABELS
from services.bus import acl
from tests.e2e.harness import ROOT, SAMPLE, Server, children, environment, launch
from tests.services.identity.tokens import Issuer
from tests.services.ingest.test_sdp import AUDIO, HEAD, VIDEO, _sdp
from tests.services.valkey import PASSWORD as ADMIN
from tests.services.valkey import Valkey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ODD = "\x1b[31m\u2028\u2029"
CANARIES = {
    "redis password": "c4naryredispass",
    "bad token": "c4narybadtoken",
    "token id": "c4naryjti",
    "subject": "c4narysubject",
    "tenant": "c4narytenant",
    "ufrag": "c4naryufrag",
    "ice password": "c4naryicepasswordxxxxxxxx",
    "stream": "c4narystream",
    "meta": "c4narymeta",
    "agent": "c4naryagent",
    "message": "c4narymessage",
    "bus": "c4narybus",
    "sdp": "c4narysdp",
    "address": "127.0.0.99",
}
SCORE_WORDS = (*LABELS, "valence", "arousal", "frustration", "confidence", "emotions")


@dataclass
class Run:
    """What one server was told, and everything that it told."""

    server: Server
    token: str
    told: dict[str, str] = field(default_factory=dict)
    """Where from → text."""
    scores: set[str] = field(default_factory=set)
    """Numbers of scores as they stand in events."""
    secrets: dict[str, str] = field(default_factory=dict)
    audit: str = ""
    """The audit log: it may name who did what, but holds no secret and no score."""

    @property
    def lines(self) -> list[str]:
        return [line for line in self.told["log"].split("\n") if line]


def offer() -> bytes:
    """An offer that is taken, with canaries where a publisher writes what it likes."""
    changed = _sdp(AUDIO, VIDEO, head=HEAD).decode()
    changed = changed.replace("ice-ufrag:abcd", f"ice-ufrag:{CANARIES['ufrag']}")
    changed = re.sub("ice-pwd:p+", f"ice-pwd:{CANARIES['ice password']}", changed)
    return changed.replace("s=-", f"s={CANARIES['sdp']}").encode()


async def misbehave(run: Run) -> None:
    """Send canaries to every door, most of them in what is refused."""
    bearer = {"Authorization": f"Bearer {run.token}"}
    wrong = {"Authorization": f"Bearer {CANARIES['bad token']}"}
    sdp = {"Content-Type": "application/sdp", "User-Agent": CANARIES["agent"]}
    stream, meta = CANARIES["stream"], CANARIES["meta"]
    good = f"/whip/{stream}-half?meta.queue={meta}"
    asked: list[tuple[str, str, dict[str, str], bytes | None]] = [
        ("POST", good, bearer | sdp, offer()),
        ("POST", f"/whip/{stream}", bearer | sdp, offer() + b"\x1b[31mnonsense\r\n"),
        ("POST", f"/whip/{stream}", bearer | sdp, f"{CANARIES['sdp']}{ODD}".encode()),
        ("POST", f"/whip/{stream}", bearer | sdp, offer().replace(b"actpass", b"holdconn")),
        ("POST", f"/whip/{stream}", wrong | sdp, offer()),
        ("POST", f"/whip/{stream}.%0d%0a%1b%E2%80%A8", bearer | sdp, offer()),
        ("POST", f"/whip/{stream}?meta.queue={meta}%0d%0a%1b", bearer | sdp, offer()),
        ("POST", f"/whip/{stream}?token={CANARIES['bad token']}", sdp, offer()),
        ("DELETE", f"/whip/{stream}/{CANARIES['bad token']}", bearer, None),
        ("GET", f"/v1/sessions/{stream}", bearer, None),
        ("GET", f"/v1/sessions?sort={meta}%0a", bearer, None),
        ("GET", f"/v1/events?max_hz={meta}&token={CANARIES['bad token']}", bearer, None),
        ("GET", f"/v1/events?ticket={CANARIES['bad token']}", {}, None),
        ("POST", "/v1/tickets", bearer, f'{{"session":"{meta}{ODD}'.encode()),
        ("PUT", f"/v1/sessions/{stream}/consent", bearer, meta.encode()),
        ("GET", f"/{stream}%0d%0a%1b", {}, None),
    ]
    async with aiohttp.ClientSession() as http:
        for number, (method, path, headers, body) in enumerate(asked):
            url = URL(run.server.http + path, encoded=True)
            async with http.request(method, url, headers=headers, data=body) as answer:
                text = await answer.text()
                if number == 0:
                    assert answer.status == 201, text
                    run.secrets["resource"] = answer.headers["Location"].rpartition("/")[2]
                    run.secrets["our ICE password"] = re.findall("ice-pwd:(.*)\r", text)[0]
                else:
                    assert answer.status >= 400, (method, path)
                    run.told[f"refusal {number}: {method} {path}"] = text


async def misspeak(run: Run) -> None:
    """The same at the event socket."""
    for headers, sent in (
        ({"Authorization": f"Bearer {CANARIES['bad token']}"}, []),
        ({}, [json.dumps({"type": "auth", "token": CANARIES["bad token"]})]),
        ({"Authorization": f"Bearer {run.token}"}, [CANARIES["message"] + ODD]),
        ({"Authorization": "Bearer dev"}, [json.dumps({"type": CANARIES["message"] + ODD})]),
        ({"User-Agent": CANARIES["agent"]}, ["x" * 5000 + CANARIES["message"]]),
    ):
        async with connect(run.server.events, additional_headers=headers) as link:
            with suppress(ConnectionClosed):
                for each in sent:
                    await link.send(each)
                async for _ in link:
                    pass


async def listen(run: Run) -> None:
    """Read the call until some windows were scored; keep their numbers."""
    headers = {"Authorization": "Bearer dev"}
    async with connect(run.server.events, additional_headers=headers) as link:
        await link.send('{"type":"subscribe"}')
        scored = 0
        async for text in link:
            event = json.loads(text)
            if event["type"] == "window.scored":
                scored += 1
                run.scores |= set(re.findall(r"\d\.\d{3,}", json.dumps(event)))
            if scored == 3:
                return


def babble(run: Run, bus: Valkey) -> None:
    """Write what is none of ours to the bus and to the sockets."""
    with closing(redis.Redis(unix_socket_path=str(bus.socket), password=ADMIN)) as client:
        for junk in (CANARIES["bus"] + ODD, '{"session_id":"\xff', "\0\1x"):
            client.publish("demeanor:ctl", junk.encode("latin-1", "replace"))
            client.publish("demeanor:res:{default:x}", junk.encode())
    for address in (run.server.http, run.server.events.replace("ws://", "http://")):
        port = int(re.findall(r":(\d+)", address)[0])
        for line in (
            f"GET /{CANARIES['stream']}\x1b[31m HTTP/1.1\r\n\r\n".encode(),
            f"GET / HTTP/1.1\r\nUser-Agent: {CANARIES['agent']}{ODD}\r\nX\0: 1\r\n\r\n".encode(),
            f"{CANARIES['message']}{ODD}\r\n\r\n".encode(),
            b"\x16\x03\x01" + CANARIES["message"].encode() + b"\r\n\r\n",
        ):
            with (
                socket.create_connection(
                    ("127.0.0.1", port), timeout=20, source_address=(CANARIES["address"], 0)
                ) as caller,
                suppress(ConnectionError),
            ):
                caller.sendall(line)
                while caller.recv(65536):
                    pass


def command_lines(pid: int) -> str:
    """Return how the server and all processes below it were called."""
    family, found = [pid], ""
    while family:
        each = family.pop()
        with suppress(OSError):
            found += Path(f"/proc/{each}/cmdline").read_text().replace("\0", " ") + "\n"
            family += children(each)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Both servers, side by side."""
    folders = {level: tmp_path_factory.mktemp(level) for level in ("info", "debug")}
    with ThreadPoolExecutor() as pool:
        return dict(zip(folders, pool.map(one, folders, folders.values()), strict=True))


@pytest.fixture(params=["info", "debug"])
def run(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    return runs[request.param]


def one(level: str, folder: Path) -> Run:
    password = folder / "redis-password"
    password.write_text(CANARIES["redis password"] + "\n")
    issuer = Issuer(folder)
    with closing(Valkey(acl.line(acl.ALL_IN_ONE, f">{CANARIES['redis password']}")).start()) as bus:
        server = launch(
            folder,
            f"--redis-url=unix://{acl.ALL_IN_ONE}@{bus.socket}",
            f"--redis-password-file={password}",
            f"--token-keys={issuer.jwks}",
            f"--log-level={level}",
            f"--audit={folder / 'audit'}",
            f"--udp-ports={'43000-43049' if level == 'info' else '43050-43099'}",
        )
        token = issuer.token(
            jti=CANARIES["token id"], sub=CANARIES["subject"], tenant=CANARIES["tenant"],
            scope=f"ingest:{CANARIES['stream']} ingest:{CANARIES['stream']}-half read:*",
        )  # fmt: skip
        run = Run(server, token)
        run.secrets["token payload"], run.secrets["token signature"] = token.split(".")[1:]
        try:
            _happen(run, bus, folder)
        finally:
            if server.process.poll() is None:
                server.process.kill()
                server.over()
    return run


def _happen(run: Run, bus: Valkey, folder: Path) -> None:
    publisher = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "push", str(SAMPLE), "--loop",
         "--to", run.server.whip(CANARIES["stream"])],
        cwd=ROOT, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        asyncio.run(asyncio.wait_for(listen(run), 60))
        asyncio.run(asyncio.wait_for(misbehave(run), 60))
        asyncio.run(asyncio.wait_for(misspeak(run), 60))
        babble(run, bus)
        run.told["command lines"] = command_lines(run.server.process.pid)
        run.told["metrics"] = asyncio.run(metrics(run))
        run.server.process.terminate()
        output = run.server.process.stdout
        assert output is not None
        run.told["stdout"] = output.read()
        assert run.server.over() == 0
    finally:
        publisher.kill()
        publisher.wait()
    run.audit = audited(folder)
    run.told["log"] = (folder / "server.log").read_text()


def audited(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "audit").glob("*")))


async def metrics(run: Run) -> str:
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer dev"}) as http,
        http.get(f"{run.server.http}/metrics") as answer,
    ):
        return await answer.text()


def test_everything_was_said_and_something_was_logged(run: Run) -> None:
    assert len(run.scores) > 10
    assert len(run.told) > 15
    assert "demeanor_" in run.told["metrics"]
    assert run.lines


@pytest.mark.parametrize("what", CANARIES)
def test_a_canary_is_nowhere(run: Run, what: str) -> None:
    found = [place for place, text in run.told.items() if CANARIES[what] in text]
    assert not found, [line for line in run.lines if CANARIES[what] in line]


@pytest.mark.parametrize(
    "what", ["token payload", "token signature", "resource", "our ICE password"]
)
def test_a_secret_of_the_run_is_nowhere(run: Run, what: str) -> None:
    assert len(run.secrets[what]) > 15
    assert not [place for place, text in run.told.items() if run.secrets[what] in text]


def test_the_audit_log_holds_no_secret_and_no_score(run: Run) -> None:
    assert len(run.audit.splitlines()) > 3
    told = [CANARIES[what] for what in ("redis password", "bad token", "ufrag", "ice password")]
    assert not [secret for secret in (*told, *run.secrets.values()) if secret in run.audit]
    assert not [number for number in run.scores if number in run.audit]
    for line in run.audit.splitlines():
        assert line.isprintable()


def test_every_line_of_the_log_is_one_object(run: Run) -> None:
    for line in run.lines:
        assert isinstance(json.loads(line), dict), line
        assert line.isprintable(), line
    assert "\r" not in run.told["log"]


def test_no_score_is_in_a_log(run: Run) -> None:
    for line in run.lines:
        words = set(re.findall(r"[a-z]+", _values(json.loads(line)).lower()))
        assert not words & set(SCORE_WORDS), line
        assert not [number for number in run.scores if number in line], line


def _values(entry: dict[str, Any]) -> str:
    """Return what a line tells, without its name and time."""
    return " ".join(f"{key} {value}" for key, value in entry.items() if key != "timestamp")
