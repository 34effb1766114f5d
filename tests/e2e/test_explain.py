"""The explain tier as its users run it: a call with an alert, a tiny model, and what goes wrong."""

import asyncio
import json
import os
import shutil
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.events import AlertRaised, AnyEvent, Explanation, SessionEnded, SessionStarted
from services.client import Link, Reader
from tests.e2e.harness import Server, children, demeanor, until
from tests.e2e.test_product import alive, publish, sequence
from tests.pipeline.explain.conftest import write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
SECONDS = 11
POLICY = """
score_roles = ["self"]
[thresholds.watch]
enter = 0.006
enter_ms = 500
leave = 0.001
[thresholds.high]
enter = 0.01
enter_ms = 500
leave = 0.002
"""
"""Nearly everything is an alert, so that a test need not wait for a bad moment of the sample."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = write_model(tmp_path_factory.mktemp("model"))
    return folder


def ask(server: Server, session: str) -> tuple[int, dict[str, str]]:
    """Ask for an explanation; return status and body."""
    request = urllib.request.Request(
        f"{server.http}/v1/sessions/{session}/explain",
        method="POST",
        headers={"Authorization": "Bearer dev"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def explainer(server: Server) -> int:
    """Return the process id of the explain process."""
    (pid,) = (
        each
        for each in children(server.process.pid)
        if "services.explain.child" in Path(f"/proc/{each}/cmdline").read_text()
    )
    return pid


def by_model(events: list[AnyEvent]) -> list[Explanation]:
    return [each for each in events if isinstance(each, Explanation) and each.source == "model"]


async def the_call(server: Server) -> tuple[list[AnyEvent], tuple[int, dict[str, str]]]:
    """Play the sample; ask once in its middle. Return all events and the answer."""
    events: list[AnyEvent] = []
    live, asked = asyncio.Event(), (0, {"": ""})
    publisher: asyncio.subprocess.Process | None = None
    reader = Reader(server.events, "dev").events()
    async for item in reader:
        if isinstance(item, Link):
            if item.state == "live" and not live.is_set():
                live.set()
                publisher = await publish(server, "call", "--duration", str(SECONDS))
            continue
        events.append(item)
        started = events[0]
        if len(events) == 8 and isinstance(started, SessionStarted):
            asked = await asyncio.to_thread(ask, server, started.session_id or "")
        if isinstance(item, SessionEnded):
            break
    await reader.aclose()
    assert publisher is not None
    assert await publisher.wait() == 0
    return events, asked


def test_an_alert_is_explained_by_rules_at_once_and_then_by_the_model(
    own_server: Callable[..., Server], model: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    server = own_server("--explain", str(model), "--explain-accept", "--policy", str(policy))
    pid = explainer(server)
    events, (status, body) = asyncio.run(the_call(server))
    assert (status, body["request"][:4]) == (202, "xpl_")
    assert sequence(events) == list(range(len(events)))
    raised = [each for each in events if isinstance(each, AlertRaised)]
    assert raised, "the sample call raises an alert"
    rules = events[events.index(raised[0]) + 1]
    assert isinstance(rules, Explanation)
    assert (rules.source, rules.generated) == ("rules", False)
    assert rules.alert_id == raised[0].alert.id
    words = {each.alert_id: each for each in by_model(events)}
    told = words[raised[0].alert.id]
    assert (told.generated, told.about_seq) == (True, raised[0].seq)
    assert told.generation is not None
    assert told.generation.audio == "heard"
    assert told.model is not None
    assert None in words, "somebody asked"
    started = events[0]
    assert ask(server, started.session_id or "")[0] in (404, 409), "it is over"
    with urllib.request.urlopen(f"{server.http}/metrics", timeout=20) as answer:
        numbers = answer.read().decode()
    assert "demeanor_explain_recorders 0.0" in numbers, "nothing is held after the end"
    assert "demeanor_explain_recorded_sessions_total 1.0" in numbers
    assert server.stop() == 0
    assert not alive(pid)


def test_a_killed_server_takes_the_process_with_it(
    own_server: Callable[..., Server], model: Path
) -> None:
    server = own_server("--explain", str(model), "--explain-accept")
    pid = explainer(server)
    os.kill(pid, signal.SIGKILL)
    until(lambda: any(each != pid for each in _explainers(server)), 60)  # nobody asked anything
    (again,) = [each for each in _explainers(server) if each != pid]
    server.process.kill()
    server.over()
    until(lambda: not alive(again))


def _explainers(server: Server) -> list[int]:
    found = []
    for each in children(server.process.pid):
        line = Path(f"/proc/{each}/cmdline")
        if line.exists() and "services.explain.child" in line.read_text():
            found.append(each)
    return found


def test_without_acceptance_it_does_not_start(model: Path, tmp_path: Path) -> None:
    done = demeanor("up", "--no-open", "--explain", str(model), runtime=tmp_path)
    assert done.returncode == 2
    assert "accept it with --explain-accept or DEMEANOR_EXPLAIN_ACCEPT=true" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, "python -m exporters r1omni CHECKPOINT OUT"),
        (lambda f: (f / "decoder.onnx").write_bytes(b"cut"), "is not the file that was exported"),
    ],
    ids=["wrong folder", "cut off"],
)
def test_a_folder_that_cannot_be_used_is_named(
    model: Path, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "exported"))
    spoil(folder)
    done = demeanor(
        *("up", "--http-port=0", "--ws-port=0", "--no-open"),
        *("--explain", str(folder), "--explain-accept"),
        runtime=tmp_path,
    )
    assert done.returncode == 78
    assert words in done.stderr
    assert str(folder) in done.stderr
    assert len(done.stderr.splitlines()) == 1, sys.stderr
