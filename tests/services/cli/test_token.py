"""``demeanor token``, and how the other verbs come by their token."""

import asyncio
import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.errors import UsageError
from services.auth import Principal, Unauthorised
from services.cli.app import app
from services.cli.credentials import VARIABLE, base_of, given, token_for
from services.clock import SystemClock
from services.identity.claims import Expected
from services.identity.following import FileKeys
from services.identity.verifier import JwtVerifier
from services.tls import Untrusted, client_context, server_context
from tests.services.certificates import Authority


def invoke(*arguments: str, typed: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["token", *map(str, arguments)], input=typed)
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert invoke("keys", tmp_path / "keys").exit_code == 0
    return tmp_path / "keys"


def issued(folder: Path, *more: str) -> Result:
    return invoke("issue", "--keys", folder, "--tenant", "acme", *more)


async def checked(folder: Path, *tokens: str) -> list[Principal | str]:
    """Return what a server makes of tokens."""
    async with FileKeys(folder / "jwks.json") as keys:
        verifier = JwtVerifier(keys, Expected("demeanor", None), SystemClock())
        told: list[Principal | str] = []
        for token in tokens:
            try:
                told.append(verifier.verify(token))
            except Unauthorised as error:
                told.append(str(error))
        return told


def test_private_keys_are_readable_by_their_owner_alone(folder: Path) -> None:
    (private,) = folder.glob("*.pem")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (key,) = json.loads((folder / "jwks.json").read_text())["keys"]
    assert key["kid"] == private.stem
    assert "d" not in key


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
async def test_a_server_takes_what_was_issued(tmp_path: Path, algorithm: str) -> None:
    made = invoke("keys", tmp_path, "--algorithm", algorithm)
    assert made.exit_code == 0
    result = issued(
        tmp_path,
        *("--scope", "ingest:call1 read:*", "--scope", "alerts:ack", "--role", "customer"),
        *("--ttl", "90s", "--takeover", "--context", "customer_call", "--subject", "op-7"),
        *("--consent", f"1.2:{'a' * 64}", "--release", "--policy", "eu-strict"),
    )
    assert result.exit_code == 0, result.output
    token = result.stdout.removesuffix("\n")
    assert len(token.splitlines()) == 1
    (found,) = await checked(tmp_path, token)
    assert isinstance(found, Principal)
    assert (found.tenant, found.role, found.subject) == ("acme", "customer", "op-7")
    assert found.may_publish("call1")
    assert found.may_read("ses_1", "x")
    assert found.may("alerts:ack")
    assert not found.may("admin")
    assert (found.takeover, found.context, found.policy) == (True, "customer_call", "eu-strict")
    assert found.consent is not None
    assert (found.consent.notice_version, found.consent.release) == ("1.2", True)
    assert found.token_id in result.stderr
    assert token not in result.stderr


async def test_keys_rotate(folder: Path) -> None:
    (old,) = folder.glob("*.pem")
    first = issued(folder, "--scope", "read:*").stdout.strip()
    again = invoke("keys", folder)
    assert (again.exit_code, "has keys already" in again.stderr) == (2, True)
    assert invoke("keys", folder, "--add", "--algorithm", "ES256").exit_code == 0
    second = issued(folder, "--scope", "read:*").stdout.strip()
    assert all(isinstance(each, Principal) for each in await checked(folder, first, second))
    assert invoke("keys", folder, "--drop", old.stem).exit_code == 0
    assert not old.exists()
    refused, taken = await checked(folder, first, second)
    assert "no longer" in str(refused)
    assert isinstance(taken, Principal)
    (last,) = folder.glob("*.pem")
    for kid, words in ((last.stem, "the only key"), ("other", "has no key 'other'")):
        result = invoke("keys", folder, "--drop", kid)
        assert (result.exit_code, words in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scope", "ingest:*", "--role", "self"], "ingest:STREAM"),
        (["--scope", "ingest:a"], "'part_role'"),
        (["--scope", "ingest:a", "--role", "king"], "must be one of: agent"),
        (["--scope", "read:*", "--ttl", "2d"], "--ttl must be such as"),
        (["--scope", "read:*", "--ttl", "25h"], "at most 24 hours"),
        (["--scope", "read:*", "--ttl", "0s"], "--ttl must be such as"),
        (["--scope", "read:*", "--subject", "a@example.org"], "pseudonym"),
        (["--scope", "read:*", "--consent", "x"], "'notice_version'"),
        (["--scope", "read:*", "--release"], "--consent"),
        (["--scope", " ".join(f"read:{n:060d}x" for n in range(60))], "longer than 3000"),
    ],
)
def test_what_a_server_would_refuse_is_not_issued(
    folder: Path, arguments: list[str], words: str
) -> None:
    result = issued(folder, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr


def test_a_folder_without_keys(tmp_path: Path) -> None:
    result = issued(tmp_path, "--scope", "read:*")
    assert (result.exit_code, "demeanor token keys" in result.stderr) == (2, True)
    (tmp_path / "jwks.json").write_text("{}")
    assert issued(tmp_path, "--scope", "read:*").exit_code == 2


def test_show_tells_claims_and_no_signature(folder: Path) -> None:
    token = issued(folder, "--scope", "read:*").stdout.strip()
    result = invoke("show", typed=token + "\n")
    told = json.loads(result.stdout)
    assert (told["claims"]["tenant"], told["header"]["alg"]) == ("acme", "EdDSA")
    assert told["checked"] is False
    assert told["expires"].startswith("20")
    assert token.rpartition(".")[2] not in result.output
    for typed in ("", "garbage", "a.b.c", "two words", "é"):
        bad = invoke("show", typed=typed)
        assert (bad.exit_code, bad.stdout) == (2, "")


def test_where_a_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jwt"
    path.write_text("from-file\n")
    monkeypatch.delenv(VARIABLE, raising=False)
    assert given(None) is None
    assert token_for("http://127.0.0.1:8080", None) == "dev"
    assert token_for("wss://[::1]:1/v1/events", None) == "dev"
    assert token_for("https://192.0.2.1", None) is None
    monkeypatch.setenv(VARIABLE, " from-variable ")
    assert token_for("https://192.0.2.1", None) == "from-variable"
    assert token_for("http://localhost", str(path)) == "from-file"
    for text in ("", "two words", "x" * 3001, "é"):
        path.write_text(text)
        with pytest.raises(UsageError, match="holds no token"):
            given(str(path))
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="holds no token"):
        given(str(path))
    with pytest.raises(UsageError, match="cannot be read"):
        given(str(tmp_path / "none"))


def test_a_token_in_clear_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "secret")
    for url, warned in (
        ("http://192.0.2.1", True),
        ("ws://calls.example", True),
        ("https://192.0.2.1", False),
        ("http://127.0.0.1", False),
    ):
        token_for(url, None)
        said = capsys.readouterr().err
        assert ("in clear" in said) is warned
        assert "secret" not in said


@pytest.mark.parametrize("to", ["", "ftp://x", "http://", "http://x:99999", "http://["])
def test_what_is_no_address(to: str) -> None:
    with pytest.raises(UsageError, match="no address of a server"):
        base_of(to)


def test_no_verb_takes_a_token_on_its_command_line() -> None:
    for verb in (["push", "x", "--to", "http://x"], ["watch"], ["drain"], ["scoring", "on"]):
        result = CliRunner().invoke(app, [*verb, "--token", "secret"])
        assert result.exit_code == 2
        assert "No such option" in result.output


async def test_a_certificate_is_trusted_by_its_authority_alone(tmp_path: Path) -> None:
    from services.tls import check_certificate

    authority = Authority(tmp_path)
    context = server_context(*authority.server(), SystemClock())

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/whip/x"
        await asyncio.to_thread(check_certificate, url, client_context(authority.ca))
        with pytest.raises(Untrusted, match="--ca FILE"):
            await asyncio.to_thread(check_certificate, url, client_context(None))
    await asyncio.to_thread(check_certificate, "https://127.0.0.1:9/x", client_context(None))
