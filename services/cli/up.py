"""``demeanor up``: every service in one process, on this machine."""

import asyncio
import json as json_module
import os
import platform
import sys
import webbrowser
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from services.cli.exits import complain, guarded

if TYPE_CHECKING:
    from services.app import Ready
    from services.bus.runtime import InstanceLock
    from services.settings import Settings


def up(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="TOML file with settings.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on. [127.0.0.1]")
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Pages, WHIP and REST; 0 is any free port. [8080]"),
    ] = None,
    ws_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Event socket; 0 is any free port. [8081]")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(metavar="URL", help="redis://HOST:PORT. [a server of our own]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where models run: cpu or cuda. [cpu]")
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Replaces a built-in model; may be repeated."),
    ] = None,
    udp_ports: Annotated[
        str | None,
        typer.Option(metavar="RANGE", help="UDP ports for media, FIRST-LAST. [40000-40100]"),
    ] = None,
    ice_addresses: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Addresses offered for media, A,B. [127.0.0.1 while on loopback]"
        ),
    ] = None,
    ice_servers: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="STUN or TURN URLs for our own gathering. [none]"),
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(metavar="N", help="Live sessions at once. [calibrated, or 64]")
    ] = None,
    max_age_ms: Annotated[
        int | None,
        typer.Option(metavar="MS", help="Windows older than this are skipped as stale. [1500]"),
    ] = None,
    score_roles: Annotated[
        str | None, typer.Option(metavar="LIST", help="Roles that are scored. [customer,self]")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file of the policy. [eu-strict]"),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the audit log. [user's state folder]"),
    ] = None,
    token_keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL", help="Public keys of tokens (JWKS). [only 'dev', on loopback]"
        ),
    ] = None,
    token_key_hosts: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Hosts that --token-keys may name."),
    ] = None,
    token_issuer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Claim 'iss' that tokens must have. [any]"),
    ] = None,
    token_audience: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Claim 'aud' that tokens must have. [demeanor]"),
    ] = None,
    origins: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Pages that may connect: https://HOST,… [our own]"),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificate chain for HTTPS and WSS (PEM)."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its private key (PEM)."),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Address of a proxy in front: https://HOST. [none]"),
    ] = None,
    redis_ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Authority of the certificate of rediss:// (PEM)."),
    ] = None,
    redis_password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Password of --redis-url."),
    ] = None,
    half_open: Annotated[
        int | None,
        typer.Option(metavar="N", help="Publishers connecting at once. [32]"),
    ] = None,
    half_open_per_token: Annotated[
        int | None,
        typer.Option(metavar="N", help="The same with one token. [4]"),
    ] = None,
    posts_per_s: Annotated[
        int | None,
        typer.Option(metavar="N", help="WHIP offers a second and tenant. [5]"),
    ] = None,
    connections_per_token: Annotated[
        int | None,
        typer.Option(metavar="N", help="Readers at once with one token. [20]"),
    ] = None,
    rtp_packets_per_s: Annotated[
        int | None,
        typer.Option(metavar="N", help="Datagrams a second and session. [4000]"),
    ] = None,
    rtp_kbits_per_s: Annotated[
        int | None,
        typer.Option(metavar="N", help="Kilobits a second and session. [12000]"),
    ] = None,
    decoder_memory_mb: Annotated[
        int | None,
        typer.Option(metavar="MB", help="Address space of the decoder. [1024]"),
    ] = None,
    memory_limit_mb: Annotated[
        int | None,
        typer.Option(metavar="MB", help="Memory by which admission goes. [the machine's]"),
    ] = None,
    drain_soft_s: Annotated[
        int | None,
        typer.Option(metavar="S", help="How long 'demeanor drain' lets sessions run on. [0]"),
    ] = None,
    explain: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Exported R1-Omni: explains alerts. [off]")
    ] = None,
    explain_accept: Annotated[
        bool | None,
        typer.Option("--explain-accept", help="Accept its usage policy (never at work or school)."),
    ] = None,
    explain_every_s: Annotated[
        int | None, typer.Option(metavar="S", help="Explain each stream every S seconds. [0, off]")
    ] = None,
    explain_per_min: Annotated[
        int | None, typer.Option(metavar="N", help="Explanations a minute beside alerts. [6]")
    ] = None,
    explain_threads: Annotated[
        int | None, typer.Option(metavar="N", help="Threads of the explain process. [1]")
    ] = None,
    explain_surroundings: Annotated[
        bool | None,
        typer.Option("--explain-surroundings", help="Let it speak of clothes and places."),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line when everything listens.")
    ] = False,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error. [info]")
    ] = None,
) -> None:
    """Run everything on this machine: WHIP in, events out, a page.

    Every setting is also a TOML key and a DEMEANOR_… variable. Ctrl-C drains, a second one stops at
    once.

    Exit codes: 0 drained, 1 failed, 2 wrong configuration, 75 already running, 78 model refused.
    """
    from services.hardening import harden
    from services.settings import load
    from services.telemetry import configure

    with guarded():
        harden()
        settings = load(
            config,
            host=host,
            http_port=http_port,
            ws_port=ws_port,
            redis_url=redis_url,
            device=device,
            model=tuple(model) if model else None,
            udp_ports=udp_ports,
            ice_addresses=ice_addresses,
            ice_servers=ice_servers,
            max_streams=max_streams,
            max_age_ms=max_age_ms,
            score_roles=score_roles,
            log_level=log_level,
            explain=explain,
            explain_accept=explain_accept,
            explain_every_s=explain_every_s,
            explain_per_min=explain_per_min,
            explain_threads=explain_threads,
            explain_surroundings=explain_surroundings,
            policy=policy,
            audit=audit,
            token_keys=token_keys,
            token_key_hosts=token_key_hosts,
            token_issuer=token_issuer,
            token_audience=token_audience,
            origins=origins,
            tls_cert=tls_cert,
            tls_key=tls_key,
            public_url=public_url,
            redis_ca=redis_ca,
            redis_password_file=redis_password_file,
            half_open=half_open,
            half_open_per_token=half_open_per_token,
            posts_per_s=posts_per_s,
            connections_per_token=connections_per_token,
            rtp_packets_per_s=rtp_packets_per_s,
            rtp_kbits_per_s=rtp_kbits_per_s,
            decoder_memory_mb=decoder_memory_mb,
            memory_limit_mb=memory_limit_mb,
            drain_soft_s=drain_soft_s,
        )
        configure(settings.log_level)
        _run(settings, "json" if json else "screen", open_page=not (no_open or json))


def _run(settings: "Settings", form: Literal["json", "screen"], *, open_page: bool) -> None:
    from pipeline.scorer import OrtScorer
    from services.app import open_doors, serve
    from services.cli import access
    from services.ending import HARD_S, last_resort
    from services.sockets import address

    def ready(told: "Ready") -> None:
        print(_line(told) if form == "json" else screen(settings, told), flush=True)
        if form == "json" and (danger := access.warning(settings)) is not None:
            complain(danger)
        if open_page and sys.stdout.isatty() and _has_display():
            webbrowser.open(told.http)

    def ending(soft_s: float) -> None:
        closing.callback(last_resort(HARD_S + soft_s).cancel)

    with ExitStack() as closing:
        lock = _lock(settings)
        if lock is not None:
            closing.enter_context(lock)
        doors = open_doors(settings)
        closing.callback(doors.close)
        if lock is not None:
            scheme = "http" if settings.tls_cert is None else "https"
            lock.tell(f"{scheme}://{address(doors.http)}")
        scorer = OrtScorer.open(settings.device, settings.model)
        scorer.golden()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(settings, doors, scorer, ready, ending))


def _lock(settings: "Settings") -> "InstanceLock | None":
    """Return the lock of these ports; any free port (0) cannot collide and needs none."""
    from services.bus.runtime import InstanceLock

    if not settings.http_port or not settings.ws_port:
        return None
    name = f"{settings.http_port}-{settings.ws_port}"
    return InstanceLock(name, note=f"http://{settings.host}:{settings.http_port}")


def _loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    """Return uvloop where it can run; it takes a sixth off the cost of ingest."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


def _has_display() -> bool:
    return sys.platform == "darwin" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _line(ready: "Ready") -> str:
    told = {"type": "ready", "http": ready.http, "events": ready.events, "bus": ready.bus}
    return json_module.dumps(told)


def screen(settings: "Settings", ready: "Ready") -> str:
    """Return the start-up screen: what runs, what is off and how to turn it on, where to go."""
    from services.cli import access

    first, last = settings.udp_ports
    runtime = f"onnxruntime {_version('onnxruntime', 'onnxruntime-gpu')}"
    cores = (
        f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    )
    device = f"{ready.model.providers[0]} ({cores} cores)"
    python = f"Python {platform.python_version()}"
    lines = [
        f"demeanor {_version('demeanor')} · {python} · {runtime} · {device}",
        f"✔ model    {ready.model.id} {ready.model.version}   audio + face · golden check passed",
        "✔ camera   not opened yet – the sample call plays until you allow one",
        f"✔ bus      {ready.bus}",
        f"✔ media    WebRTC · UDP {first}-{last}",
        f"✔ streams  {ready.streams}",
        f"✔ policy   {ready.policy} · no media is kept, scores for {ready.retention_s} s",
        f"✔ audit    {ready.audit}",
    ]
    if ready.explain is not None:
        lines.append(f"✔ explain  {ready.explain} · its words are generated, never evidence")
    lines += access.lines(settings, ready.guard)
    if settings.redis_url is None:
        lines.append("○ off      own Redis   DEMEANOR_REDIS_URL=redis://HOST:6379 demeanor up")
    if settings.device == "cpu":
        lines.append("○ off      GPU         make install RUNTIME=gpu && demeanor up --device cuda")
    if ready.explain is None:
        lines.append("○ off      explain     demeanor up --explain DIR --explain-accept")
    lines += [f"! {sentence}" for sentence in ready.moved]
    if (danger := access.warning(settings)) is not None:
        lines.append(f"! {danger}")
    lines += [
        "",
        f"→ Open       {ready.http}",
        f"→ WHIP       {ready.http}/whip/me        bearer token  {access.token_hint(ready.guard)}",
        f"→ Events     {ready.events}        subprotocol demeanor.v1.json",
        "→ File       demeanor run --source talk.mp4",
    ]
    if ready.guard.loopback_only:
        lines.append("Only this machine can connect. Ctrl-C drains, a second Ctrl-C stops at once.")
    return "\n" + "\n".join(f"  {line}".rstrip() for line in lines) + "\n"


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "?"
