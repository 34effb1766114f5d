from pathlib import Path

import pytest
from pydantic import ValidationError

from services.settings import load


def test_flag_beats_environment_beats_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "demeanor.toml"
    file.write_text('http_port = 1111\nws_port = 2222\nlog_level = "error"\n')
    monkeypatch.setenv("DEMEANOR_WS_PORT", "3333")
    monkeypatch.setenv("DEMEANOR_HTTP_PORT", "4444")
    settings = load(file, http_port=5555, ws_port=None)
    assert (settings.http_port, settings.ws_port, settings.log_level) == (5555, 3333, "error")


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        load(None).host = "x"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("http_prot = 1", "http_prot"),
        ("http_port = 70000", "http_port"),
        ("udp_ports = [50000, 40000]", "udp_ports"),
        ('device = "tpu"', "device"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, where: str) -> None:
    file = tmp_path / "demeanor.toml"
    file.write_text(text)
    with pytest.raises(ValidationError, match=where):
        load(file)


def test_lists_and_ranges_are_written_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMEANOR_UDP_PORTS", "50000-50010")
    monkeypatch.setenv("DEMEANOR_ICE_ADDRESSES", "127.0.0.1, 127.0.0.2")
    settings = load(None, score_roles="customer", model=(Path("a.onnx"),))
    assert settings.udp_ports == (50000, 50010)
    assert settings.ice_addresses == ("127.0.0.1", "127.0.0.2")
    assert settings.score_roles == ("customer",)
    assert settings.model == (Path("a.onnx"),)


def test_a_range_that_is_none_is_explained() -> None:
    with pytest.raises(ValidationError, match="write FIRST-LAST"):
        load(None, udp_ports="forty")


def test_every_setting_is_a_flag_of_up() -> None:
    import inspect

    from services.cli.up import up
    from services.settings import Settings

    assert set(Settings.model_fields) <= set(inspect.signature(up).parameters)
