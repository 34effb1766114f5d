"""``demeanor token``: make keys, issue tokens, look into one, revoke one."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from pipeline.errors import DemeanorError, UsageError
from services.cli.credentials import Authority, TokenFile, given
from services.cli.exits import guarded

app = typer.Typer(no_args_is_help=True, help="Make keys; issue, show and revoke tokens.")

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}
_FOLDER: Final = typer.Option("--keys", metavar="DIR", help="Folder made by 'token keys'.")


@app.command()
def keys(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the keys.", show_default=False)
    ],
    *,
    add: Annotated[
        bool, typer.Option("--add", help="Put another key beside those there; it signs from now.")
    ] = False,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="KID",
            help="Take a key out: its tokens end within seconds.",
            show_default=False,
        ),
    ] = None,
    algorithm: Annotated[
        Literal["EdDSA", "ES256", "RS256"],
        typer.Option(metavar="NAME", help="EdDSA, ES256 or RS256."),
    ] = "EdDSA",
) -> None:
    """Make a private key and DIR/jwks.json, which 'demeanor up --token-keys' reads.

    Servers follow the file. To change keys: add one, wait until the old tokens have ended, then
    drop the old one.

    Exit codes: 0 done, 2 wrong use.
    """
    from services.identity import issuing

    with guarded():
        if drop is not None:
            if add:
                raise UsageError("--add and --drop are two steps: first one, then the other")
            issuing.drop(folder, drop)
            print(f" ✔ {drop} is gone from {folder / issuing.JWKS}")
            return
        kid = issuing.make(folder, algorithm, add=add)
        print(f" ✔ {folder / issuing.JWKS}   demeanor up --token-keys {folder / issuing.JWKS}")
        print(f" ✔ {folder / kid}.pem   private: keep it from the server and from backups")


@app.command()
def issue(
    *,
    folder: Annotated[Path, _FOLDER],
    tenant: Annotated[str, typer.Option(metavar="NAME", help="Whose sessions these are.")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            help="ingest:STREAM, read:SESSION, 'read:*', alerts:ack, explain or admin; repeat it.",
        ),
    ],
    role: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE", help="Who is in the picture: customer, self, agent … [none: a reader]"
        ),
    ] = None,
    ttl: Annotated[
        str, typer.Option(metavar="TIME", help="How long it works: 90s, 30m, 12h; 24h at most.")
    ] = "1h",
    subject: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Pseudonym of the holder; no e-mail, no phone number."),
    ] = None,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="May replace a live publisher of its stream.")
    ] = False,
    mixed: Annotated[bool, typer.Option("--mixed", help="Several people share the track.")] = False,
    context: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the call is: customer_call, chatbot …")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", help="The only policy it is good for.")
    ] = None,
    consent: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION:SHA256",
            help="The person agreed to this notice just now; see GET /v1/policy.",
        ),
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", help="… and signed a written release.")
    ] = False,
    audience: Annotated[
        str, typer.Option(metavar="NAME", help="The server's --token-audience.")
    ] = "demeanor",
    issuer: Annotated[
        str | None, typer.Option(metavar="NAME", help="The server's --token-issuer.")
    ] = None,
) -> None:
    """Print a token, and nothing else, on stdout; its id for 'token revoke' on stderr.

    demeanor token issue --keys DIR --tenant acme --scope ingest:call1 --role customer > call1.jwt

    Exit codes: 0 done, 2 wrong use.
    """
    import secrets

    from services.clock import SystemClock
    from services.identity import issuing

    with guarded():
        now_ms = SystemClock().wall_ms()
        token_id = f"tok_{secrets.token_hex(8)}"
        claims: dict[str, Any] = {
            "iss": issuer,
            "aud": audience,
            "exp": now_ms // 1000 + _seconds(ttl),
            "nbf": now_ms // 1000,
            "jti": token_id,
            "sub": subject,
            "tenant": tenant,
            "scope": " ".join(scope),
            "part_role": role,
            "policy": policy,
            "context": context,
            "consent": _consent(consent, now_ms, release=release),
            "takeover": takeover or None,
            "mixed": mixed or None,
        }
        given_claims = {name: value for name, value in claims.items() if value is not None}
        token = issuing.issue(folder, given_claims, now_ms)
        print(token)
        print(f" id {token_id}, works for {ttl}", file=sys.stderr)


@app.command()
def show(*, token_file: TokenFile = None) -> None:
    """Print what a token from standard input says, without checking it and without its signature.

    Exit codes: 0 done, 2 it is no token.
    """
    import json

    import jwt

    with guarded():
        token = given(token_file or "-")
        try:
            found = jwt.decode_complete(token or "", options={"verify_signature": False})
        except jwt.InvalidTokenError:
            raise UsageError("that is no JSON Web Token") from None
        told = {
            "header": found["header"],
            "claims": found["payload"],
            "checked": False,
            "expires": _when(found["payload"].get("exp")),
        }
        print(json.dumps(told, indent=2, ensure_ascii=True))


@app.command()
def revoke(
    token_id: Annotated[
        str,
        typer.Argument(metavar="JTI", help="Id of the token (claim 'jti').", show_default=False),
    ],
    *,
    to: Annotated[
        str, typer.Option(metavar="URL", help="The server's HTTP address.")
    ] = "http://localhost:8080",
    token_file: TokenFile = None,
    ca: Authority = None,
) -> None:
    """End a token everywhere within seconds. Needs a token of the same tenant with 'admin'.

    Exit codes: 0 revoked, 1 the server refused or does not answer, 2 wrong use.
    """
    from services.clock import SystemClock
    from services.identity.claims import MAX_LIFE_S

    with guarded():
        until_ms = SystemClock().wall_ms() + (MAX_LIFE_S + 60) * 1000
        asyncio.run(_revoke(to, token_id, until_ms, token_file, ca))
    print(f" ✔ {token_id} is revoked")


async def _revoke(
    to: str, token_id: str, expires_ms: int, token_file: str | None, ca: Path | None
) -> None:
    import aiohttp

    from services.cli.credentials import base_of, talking

    base = base_of(to)
    try:
        async with talking(base, token_file, ca) as client:
            body = {"jti": token_id, "expires_ms": expires_ms}
            async with client.post(f"{base}/v1/revocations", json=body) as answer:
                status = answer.status
                told = await answer.json(content_type=None) if status != 204 else {}
    except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
        raise DemeanorError(f"no Demeanor server answers at {base}") from None
    if status != 204:
        detail = told.get("detail") if isinstance(told, dict) else None
        advice = {401: " – give a token with --token-file", 403: " – it needs the scope 'admin'"}
        said = detail or "no reason given"
        raise DemeanorError(f"{base} does not revoke ({status}): {said}{advice.get(status, '')}")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([smh])", text.strip())
    if found is None or not int(found[1]):
        raise UsageError(f"--ttl must be such as 90s, 30m or 12h, not '{text}'")
    return int(found[1]) * _UNITS_S[found[2]]


def _consent(text: str | None, now_ms: int, *, release: bool) -> dict[str, Any] | None:
    if text is None:
        if release:
            raise UsageError("--release goes with --consent VERSION:SHA256")
        return None
    version, _, digest = text.rpartition(":")
    return {
        "notice_version": version,
        "notice_sha256": digest,
        "granted_ms": now_ms,
        "release": release,
    }


def _when(expires_s: object) -> str | None:
    import datetime as dt

    try:
        return dt.datetime.fromtimestamp(float(str(expires_s)), dt.UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None
