"""Every setting of the product, frozen: flag = ``DEMEANOR_…`` variable = TOML key.

Built once at the edge (``services/cli``); nothing here is read at import.
"""

import difflib
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pipeline.errors import UsageError

_PREFIX = "DEMEANOR_"
_ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")
_ALIKE = 0.85
"""A variable this much like a setting is a slip of the pen, not somebody else's."""


def _words(value: object) -> object:
    """Take ``a,b`` (a variable) as well as a list (TOML, a flag given twice)."""
    return (
        [word.strip() for word in value.split(",") if word.strip()]
        if isinstance(value, str)
        else value
    )


def _bounds(value: object) -> object:
    """Take ``40000-40100`` as well as a pair."""
    if not isinstance(value, str):
        pair = isinstance(value, list | tuple) and len(value) == 2
        if not pair:
            message = f"write [FIRST, LAST], such as [40000, 40100], not {value!r}"
            raise ValueError(message)
        return value
    found = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", value)
    if found is None:
        message = f"write FIRST-LAST, such as 40000-40100, not '{value}'"
        raise ValueError(message)
    return found.groups()


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
Files = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_words)]
Bounds = Annotated[tuple[int, int], NoDecode, BeforeValidator(_bounds)]


class Settings(BaseSettings):
    """Settings of one Demeanor process."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address for HTTP and WebSocket. Anything but loopback needs tokens of your own."""
    http_port: int = Field(default=8080, ge=0, le=65535)
    """WHIP, pages, REST and SSE. 0 picks a free port."""
    ws_port: int = Field(default=8081, ge=0, le=65535)
    """Event WebSocket. 0 picks a free port."""
    udp_ports: Bounds = (40000, 40100)
    """First and last UDP port for media; one port a session and address."""
    ice_addresses: Words = ()
    """Addresses offered for media. Empty: loopback while bound to loopback, else all interfaces."""
    ice_servers: Words = ()
    """STUN/TURN URLs for the server's own gathering; none is asked by default."""
    redis_url: str | None = Field(default=None, repr=False)
    """``redis://``, ``rediss://``, ``unix://`` or ``memory://``. Empty: a server of our own."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models run; the provider is asserted after load, never replaced in silence."""
    model: Files = ()
    """ONNX files that replace built-in ones of the same kind."""
    max_age_ms: int = Field(default=1500, ge=100)
    """A window older than this when its turn comes is skipped as stale."""
    max_streams: int = Field(default=64, ge=1)
    """Live sessions at once; more get 503. Not set: what ``demeanor calibrate`` measured here."""
    score_roles: Words = ("customer", "self")
    """Roles the policy lets be scored (``eu-strict``)."""
    policy: Path | None = None
    """TOML file of the policy (``demeanor policy --help``). Empty: ``eu-strict``."""
    audit: Path | None = None
    """Folder of the audit log. Empty: under the user's state folder."""
    token_keys: str | None = None
    """Public keys of tokens: a JWKS file, or an ``https://`` URL on ``token_key_hosts``."""
    token_key_hosts: Words = ()
    """Hosts that ``token_keys`` may name."""
    token_issuer: str | None = None
    """Claim ``iss`` that every token must have. Empty: any."""
    token_audience: str = Field(default="demeanor", min_length=1)
    """Claim ``aud`` that every token must have."""
    origins: Words = ()
    """Origins of pages that may connect beside our own, as ``https://HOST[:PORT]``."""
    tls_cert: Path | None = None
    """PEM file of the certificate chain for HTTP and WebSocket; needs ``tls_key``."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    public_url: str | None = None
    """Address by which clients reach a proxy in front of us, as ``https://HOST[:PORT]``."""
    half_open: int = Field(default=32, ge=1)
    """Publishers that may be connecting at once."""
    half_open_per_token: int = Field(default=4, ge=1)
    posts_per_s: int = Field(default=5, ge=1)
    """WHIP offers a second and tenant; more get 429."""
    connections_per_token: int = Field(default=20, ge=1)
    """Readers at once with one token."""
    rtp_packets_per_s: int = Field(default=4000, ge=100)
    """Datagrams a second and session that are looked at; more are dropped."""
    rtp_kbits_per_s: int = Field(default=12_000, ge=100)
    decoder_memory_mb: int = Field(default=1024, ge=256)
    """Address space of the decoder's child process."""
    memory_limit_mb: int = Field(default=0, ge=0)
    """Above 80 % of this much resident memory no stream is accepted. 0: what the machine or
    container has."""
    drain_soft_s: int = Field(default=0, ge=0)
    """How long running sessions may end by themselves after ``demeanor drain``."""
    redis_ca: Path | None = None
    """PEM file with the authority that signed the certificate of ``rediss://``."""
    redis_password_file: Path | None = None
    """File with the password of ``redis_url``, so that it stands in no process list."""
    explain: Path | None = None
    """Folder of an exported R1-Omni (``python -m exporters r1omni``): turns the explain tier on."""
    explain_accept: bool = False
    """You accept the usage policy of the model: no emotions of people at work or in education."""
    explain_every_s: int = Field(default=0, ge=0)
    """Explain each stream every so many seconds, budget permitting. 0: alerts and requests only."""
    explain_per_min: int = Field(default=6, ge=0)
    """Explanations a minute beside those of alerts."""
    explain_threads: int = Field(default=1, ge=1)
    explain_surroundings: bool = False
    """Let generated text speak of clothes and places."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("udp_ports")
    @classmethod
    def _range(cls, ports: tuple[int, int]) -> tuple[int, int]:
        first, last = ports
        if not 1024 <= first <= last <= 65535:
            message = f"udp_ports must be FIRST-LAST within 1024..65535, got {first}-{last}"
            raise ValueError(message)
        return ports

    @field_validator("ice_addresses")
    @classmethod
    def _addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for text in addresses:
            try:
                ipaddress.ip_address(text)
            except ValueError:
                message = f"'{text}' is no IP address: write such as 192.0.2.1,192.0.2.2"
                raise ValueError(message) from None
        return addresses

    @field_validator("ice_servers")
    @classmethod
    def _servers(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not url.startswith(("stun:", "stuns:", "turn:", "turns:")):
                message = "each must be a STUN or TURN URL, such as stun:HOST:3478"
                raise ValueError(message)
        return urls

    @field_validator("public_url")
    @classmethod
    def _public(cls, url: str | None) -> str | None:
        if url is not None and not _ORIGIN.fullmatch(url):
            message = f"write https://HOST or https://HOST:PORT, without a path, not '{url}'"
            raise ValueError(message)
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - signature of the hook
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order: flags, environment, TOML file (given as ``toml_file`` in the model config)."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(config: Path | None, **flags: Any) -> Settings:
    """Build the settings; a flag that is None was not given.

    Raises :class:`pydantic.ValidationError` for a value that cannot be, and
    :class:`~pipeline.errors.UsageError` for a file that cannot be read and a misspelt variable;
    the command line turns both into one clear line and exit code 2.
    """
    _check_file(config)
    _check_variables()
    _check_flags(flags)

    class _FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    given = {name: value for name, value in flags.items() if value is not None}
    return _FromFile(**given)


def alike(name: str) -> str | None:
    """Return the setting that ``name`` was probably meant to be."""
    found = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=_ALIKE)
    return found[0] if found else None


def _check_file(config: Path | None) -> None:
    if config is None:
        return
    try:
        tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{config} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{config} is not TOML: {error}") from None


def _check_flags(flags: dict[str, Any]) -> None:
    """Refuse a password among the flags: every process list shows them."""
    if re.search(r"://[^/?#]*:[^/?#]*@", flags.get("redis_url") or ""):
        raise UsageError(
            "redis_url holds a password, which the process list shows: write redis://USER@HOST "
            f"and put the password into a file named by {_PREFIX}REDIS_PASSWORD_FILE"
        )


def _check_variables() -> None:
    """Name a misspelt variable; what only begins like ours may be anybody's."""
    for variable in os.environ:
        name = variable.upper().removeprefix(_PREFIX).lower()
        if not variable.upper().startswith(_PREFIX) or name in Settings.model_fields:
            continue
        if (meant := alike(name)) is not None:
            raise UsageError(f"{variable} is no setting: did you mean {_PREFIX}{meant.upper()}?")
