"""Every error a person can cause is one line and one code."""

from pathlib import Path

import pytest

from pipeline.errors import (
    BusError,
    MediaError,
    ModelRefused,
    PolicyRefused,
    ProviderMissing,
    ScoreError,
    SpecError,
    UsageError,
)
from services.bus.runtime import AlreadyRunning
from services.cli.exits import Exit, code_of, guarded
from services.client import NotEvents, Refused
from services.settings import load


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), Exit.USAGE),
        (MediaError("x"), Exit.FAILED),
        (PolicyRefused("x"), Exit.USAGE),
        (BusError("x", retryable=True), Exit.FAILED),
        (ModelRefused("x"), Exit.MODEL_REFUSED),
        (SpecError("x"), Exit.MODEL_REFUSED),
        (ScoreError("x"), Exit.MODEL_REFUSED),
        (ProviderMissing("CUDA", ("CPU",)), Exit.MODEL_REFUSED),
        (AlreadyRunning("8080-8081", 7, "http://localhost:8080"), Exit.ALREADY_RUNNING),
        (Refused(4401, "this token is not known here"), Exit.FAILED),
        (NotEvents("ws://localhost:1", "it answers HTTP 200"), Exit.FAILED),
    ],
)
def test_the_code_of_an_error(error: Exception, code: Exit) -> None:
    assert code_of(error) == code


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, guarded():
        raise MediaError("it broke\n  off: try again")
    assert left.value.code == Exit.FAILED
    assert capsys.readouterr().err == "demeanor: it broke off: try again\n"


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), guarded():
        _ = 1 / 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http_prot = 1", "'http_prot' is no setting: did you mean 'http_port'?"),
        ("nonsense = 1", "'nonsense' is no setting: use host, http_port"),
        ('http_port = "abc"', "http_port must be a valid integer, not 'abc'"),
        ("http_port = 70000", "http_port must be less than or equal to 65535, not 70000"),
        ('host = ""', "host must have at least 1 character"),
        ('device = "tpu"', "device must be 'cpu' or 'cuda', not 'tpu'"),
        ("udp_ports = [50000, 40000]", "udp_ports must be FIRST-LAST"),
        ("udp_ports = [1, 2, 3]", "udp_ports: write [FIRST, LAST]"),
        ('udp_ports = "forty"', "udp_ports: write FIRST-LAST"),
        ("score_roles = 5", "score_roles must be a list, not 5"),
        ('ice_addresses = "somewhere"', "ice_addresses: 'somewhere' is no IP address"),
        ('ice_servers = "http://x"', "ice_servers: each must be a STUN or TURN URL"),
        ("redis_url = 5", "redis_url must be a valid string"),
        ("{not toml", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file = tmp_path / "demeanor.toml"
    file.write_text(text)
    with pytest.raises(SystemExit) as left, guarded():
        load(file)
    assert left.value.code == Exit.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "No such file"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make, words: str) -> None:
    file = tmp_path / "demeanor.toml"
    make(file)
    with pytest.raises(UsageError, match=words) as caught:
        load(file)
    assert str(file) in str(caught.value)


def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMEANOR_MAX_STREAM", "1")
    with pytest.raises(UsageError, match="did you mean DEMEANOR_MAX_STREAMS"):
        load(None)


@pytest.mark.parametrize("name", ["DEMEANOR_SERVICE_HOST", "DEMEANOR_PORT", "DEMEANORS"])
def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1")
    assert load(None).max_streams == 64
