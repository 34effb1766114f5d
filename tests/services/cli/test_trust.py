"""The policy explained, the audit log verified and scoring switched, from the terminal."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.errors import DemeanorError, UsageError
from pipeline.policy import Policy
from services.audit.chain import Chain, name_of
from services.cli.app import app
from services.cli.switching import switch
from tests.services.gateway.trust import trusted
from tests.services.identity.tokens import Issuer


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})


def test_the_policy_of_the_settings_is_explained(tmp_path: Path) -> None:
    text = invoke("policy", "show").output
    assert f"This is policy {Policy().tag}" in text
    assert "Notice 1: A computer guesses" in text
    config = tmp_path / "demeanor.toml"
    config.write_text('score_roles = ["self"]\n')
    told = json.loads(invoke("policy", "show", "--json", "-c", str(config)).output)
    assert told["policy"] == Policy(["self"]).tag
    assert told["score_roles"] == ["self"]


def test_a_policy_file_is_checked_and_named_in_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("retention_s = 5\n")
    checked = invoke("policy", "check", str(file))
    assert checked.exit_code == 0
    assert "Scores are gone 5 seconds after" in checked.output
    config = tmp_path / "demeanor.toml"
    config.write_text(f'policy = "{file}"\n')
    assert Policy(retention_s=5).tag in invoke("policy", "show", "-c", str(config)).output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("retension_s = 5", "'retension_s' is no key of a policy: did you mean 'retention_s'?"),
        ("score_roles = ['employee']", "eu-strict does not score the role 'employee'"),
        (None, "cannot be read"),
    ],
)
def test_a_policy_that_cannot_be_meant_starts_nothing(
    tmp_path: Path, text: str | None, words: str
) -> None:
    file = tmp_path / "policy.toml"
    if text is not None:
        file.write_text(text)
    for arguments in (["policy", "check", str(file)], ["up", "--policy", str(file), "--no-open"]):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert words in result.output
        assert "Traceback" not in result.output


def test_roles_stand_in_one_place(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("")
    result = invoke("up", "--policy", str(file), "--score-roles", "self", "--no-open")
    assert result.exit_code == 2
    assert "the roles stand in policy.toml" in result.output


@pytest.mark.parametrize("role", ["agent", "employee"])
def test_run_refuses_a_role_that_is_not_scored(tmp_path: Path, role: str) -> None:
    result = invoke("run", "--source", "x.mkv", "--out", str(tmp_path), "--role", role)
    assert result.exit_code == 2
    assert f"does not score the role '{role}'" in result.output


def test_the_audit_log_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = tmp_path / "demeanor" / "audit"
    assert invoke("audit", "verify").exit_code == 2
    chain = Chain(folder)
    chain.open()
    empty = invoke("audit", "verify")
    assert (empty.exit_code, "there is no audit log" in empty.output) == (2, True)
    head = chain.append([{"kind": "published", "number": number} for number in range(3)])
    good = invoke("audit", "verify")
    assert good.exit_code == 0
    assert f"3 rows, none changed; the last has the hash {head.hash}" in good.output
    file = folder / name_of(1)
    file.write_bytes(file.read_bytes().replace(b'"number":1', b'"number":7'))
    for path in (folder, file):
        bad = invoke("audit", "verify", str(path))
        assert bad.exit_code == 1
        assert "changed after 1 row: audit-000001.jsonl, line 2" in bad.output


async def test_scoring_is_switched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with trusted(Issuer(tmp_path)) as bench:
        url = str(bench.door.make_url("/"))
        admin, reader = str(tmp_path / "admin.jwt"), str(tmp_path / "reader.jwt")
        Path(admin).write_text(bench.issuer.token(scope="admin", tenant="default"))
        Path(reader).write_text(bench.issuer.token(scope="read:*"))
        await switch(url, "off", admin, everywhere=False)
        await switch(url, "off", admin, everywhere=True)
        assert bench.orders.value("scoring", "default") == "off"
        assert bench.orders.value("scoring", "*") == "off"
        await switch(url, "on", admin, everywhere=True)
        said = capsys.readouterr().out.splitlines()
        assert said[-1] == " scoring is off (this tenant: off, everywhere: on)"
        with pytest.raises(DemeanorError, match=r"does not switch \(403\): only a token"):
            await switch(url, "on", reader, everywhere=False)
    with pytest.raises(DemeanorError, match="no Demeanor server answers"):
        await switch(url, "on", admin, everywhere=False)


@pytest.mark.parametrize(
    ("state", "to", "words"),
    [("maybe", "http://localhost", "not 'maybe'"), ("on", "ftp://x", "is no address")],
)
def test_what_cannot_be_meant_is_refused(state: str, to: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        asyncio.run(switch(to, state, None, everywhere=False))
    assert invoke("scoring", state, "--to", to).exit_code == 2
